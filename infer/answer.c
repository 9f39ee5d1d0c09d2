/* Text is released as soon as no stop string can begin in it. The tags are those of GLM (<think>,
 * <tool_call>, <arg_key>, <arg_value>; data/chat writes them into prompts). */
#include "infer/answer.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

void answer_open(Answer *a, const Tokenizer *tokenizer, size_t n_stops, char *const *stops)
{
    *a = (Answer){.stream = {.tokenizer = tokenizer, .skip_special = true}, .n_stops = n_stops, .stops = stops};
    text_add(&a->text, "", 0);
}

void answer_free(Answer *a)
{
    text_free(&a->text);
    *a = (Answer){0};
}

/* Where text[from ..) first holds `part`; its end when it does not. */
static size_t find(const Text *text, size_t from, const char *part)
{
    size_t n = strlen(part);
    for (size_t i = from; i + n <= text->n; i++)
        if (memcmp(text->data + i, part, n) == 0) return i;
    return text->n;
}

/* Bytes of the longest end of the text that is the beginning of a stop string. */
static size_t held_back(const Answer *a)
{
    size_t longest = 0;
    for (size_t s = 0; s < a->n_stops; s++) {
        size_t n = strlen(a->stops[s]);
        for (size_t k = n ? n - 1 : 0; k > longest; k--)
            if (k <= a->text.n - a->shown && memcmp(a->text.data + a->text.n - k, a->stops[s], k) == 0) longest = k;
    }
    return longest;
}

static void cut_at_stop(Answer *a)
{
    for (size_t s = 0; s < a->n_stops; s++) {
        size_t at = *a->stops[s] ? find(&a->text, a->shown, a->stops[s]) : a->text.n;
        if (at == a->text.n) continue;
        a->text.n = at;
        a->text.data[at] = 0;
        a->stopped = true;
    }
}

Err *answer_put(Answer *a, int32_t token, size_t *from)
{
    *from = a->shown;
    if (a->stopped) return NULL;
    TRY(token_stream_put(&a->stream, token, &a->text));
    cut_at_stop(a);
    a->shown = a->text.n - (a->stopped ? 0 : held_back(a));
    return text_error(&a->text);
}

Err *answer_end(Answer *a, size_t *from)
{
    *from = a->shown;
    if (!a->stopped) TRY(token_stream_end(&a->stream, &a->text));
    a->shown = a->text.n;
    return text_error(&a->text);
}

AnswerParts answer_parts(const Text *text, bool thinking)
{
    static const char open[] = "<think>", close[] = "</think>", call[] = "<tool_call>";
    AnswerParts p = {0};
    if (text->n >= strlen(open) && memcmp(text->data, open, strlen(open)) == 0) {
        p.thought = strlen(open);
        thinking = true;
    }
    size_t end = find(text, 0, close);
    if (end < text->n) {
        p.thought_end = end;
        p.content = end + strlen(close);
    } else if (thinking) {
        p.thought_end = p.content = text->n;
    }
    p.calls = p.content_end = find(text, p.content, call);
    return p;
}

/* ---- tool calls -------------------------------------------------------------------------------------------------- */

/* Find the text between two tags, from *at on, and move *at behind it; false when there is none before `end`. */
static bool between(const char *open, const char *close, const char **at, const char *end, const char **begin,
                    size_t *n)
{
    const char *from = strstr(*at, open), *to = from ? strstr(from, close) : NULL;
    if (!to || to > end) return false;
    *begin = from + strlen(open);
    *n = (size_t)(to - *begin);
    *at = to + strlen(close);
    return true;
}

static void add_text(Json *object, const char *key, const char *bytes, size_t n)
{
    char *text;
    for (; n && strchr(" \n", *bytes); n--) bytes++;
    while (n && strchr(" \n", bytes[n - 1])) n--;
    Err *err = mem_copy_bytes(&text, bytes, n);
    if (!err) json_add_string(object, key, text);
    err_free(err);
    if (!err) free(text);
}

Json *answer_calls(const char *text)
{
    Json *calls = json_new_array();
    const char *body, *key, *value;
    size_t n, n_key, n_value;
    for (const char *at = text; between("<tool_call>", "</tool_call>", &at, text + strlen(text), &body, &n);) {
        const char *inner = body, *end = body + n, *first = strstr(body, "<arg_key>");
        Json *call = json_new_object(), *function = json_new_object(), *arguments = json_new_object();
        add_text(function, "name", body, first && first < end ? (size_t)(first - body) : n);
        while (between("<arg_key>", "</arg_key>", &inner, end, &key, &n_key) &&
               between("<arg_value>", "</arg_value>", &inner, end, &value, &n_value)) {
            char *name;
            Err *err = mem_copy_bytes(&name, key, n_key);
            if (!err) add_text(arguments, name, value, n_value);
            if (!err) free(name);
            err_free(err);
        }
        json_add(function, "arguments", arguments);
        json_add(call, "function", function);
        json_add(calls, NULL, call);
    }
    return calls;
}
