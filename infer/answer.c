#include "infer/answer.h"

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

/* The longest end of the text that a stop string begins with. */
static size_t waiting(const Answer *a)
{
    size_t most = 0;
    for (size_t s = 0; s < a->n_stops; s++) {
        size_t n = strlen(a->stops[s]);
        for (size_t k = n ? n - 1 : 0; k > most; k--)
            if (k <= a->text.n - a->shown && memcmp(a->text.data + a->text.n - k, a->stops[s], k) == 0) most = k;
    }
    return most;
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
    TRY(stream_put(&a->stream, token, &a->text));
    cut_at_stop(a);
    a->shown = a->text.n - (a->stopped ? 0 : waiting(a));
    return text_error(&a->text);
}

Err *answer_end(Answer *a, size_t *from)
{
    *from = a->shown;
    if (!a->stopped) TRY(stream_end(&a->stream, &a->text));
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
