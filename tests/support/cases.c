/* Running the cases of JSON Lines files. A case that fails is printed with its file and line and the rest still runs;
 * an error ends the run: the file itself cannot be read. */
#include "tests/support/cases.h"

#include "base/memory.h"
#include "data/chat/chat.h"
#include "data/text/json_view.h"
#include "data/text/lines.h"
#include "data/tokenizer/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void count_case(Count *count, bool passed, const char *path, size_t line, const char *what)
{
    if (passed) {
        count->passed++;
        return;
    }
    count->failed++;
    printf("%s:%zu: %s\n", path, line, what);
}

static Err *read_ids(JsonView list, int32_t **ids, size_t *n)
{
    size_t capacity = 0;
    *ids = NULL;
    *n = 0;
    for (JsonViewItem item = view_first(list); item.value.at; view_next(&item)) {
        TRY(mem_grow(ids, &capacity, *n + 1, sizeof **ids));
        (*ids)[(*n)++] = (int32_t)strtol(item.value.at, NULL, 10);
    }
    return NULL;
}

static Err *encode_case(Encoder *encoder, JsonView record, const char *path, size_t line, Count *count)
{
    Tokens tokens = {0};
    Text text = {0};
    int32_t *ids;
    size_t n;
    view_string(&text, view_find(record, "text"));
    Err *err = read_ids(view_find(record, "ids"), &ids, &n);
    if (!err) err = tokenizer_encode(encoder, text.data, text.n, &tokens);
    if (!err) {
        bool same = n == tokens.n, ordered = true;
        for (size_t i = 0; i < n && same; i++) same = tokens.items[i].id == ids[i];
        for (size_t i = 1; i < tokens.n; i++) ordered &= tokens.items[i - 1].end <= tokens.items[i].end;
        count_case(count, same && ordered && (!n || tokens.items[tokens.n - 1].end == text.n), path, line,
                   "ids or ends differ");
    }
    tokens_free(&tokens);
    text_free(&text);
    free(ids);
    return err;
}

static Err *decode_as(const Tokenizer *tokenizer, bool skip, const int32_t *ids, size_t n, JsonView expected,
                      bool *same)
{
    Text want = {0}, whole = {0}, streamed = {0};
    TokenStream stream = {.tokenizer = tokenizer, .skip_special = skip};
    view_string(&want, expected);
    Err *err = tokenizer_decode(tokenizer, ids, n, skip, &whole);
    for (size_t i = 0; i < n && !err; i++) err = token_stream_put(&stream, ids[i], &streamed);
    if (!err) err = token_stream_end(&stream, &streamed);
    if (!err)
        *same &= want.n == whole.n && want.n == streamed.n && !memcmp(want.data, whole.data, want.n) &&
                 !memcmp(want.data, streamed.data, want.n);
    text_free(&want);
    text_free(&whole);
    text_free(&streamed);
    return err;
}

static Err *decode_case(const Tokenizer *tokenizer, JsonView record, const char *path, size_t line, Count *count)
{
    int32_t *ids;
    size_t n;
    bool same = true;
    Err *err = read_ids(view_find(record, "ids"), &ids, &n);
    if (!err) err = decode_as(tokenizer, false, ids, n, view_find(record, "text"), &same);
    if (!err) err = decode_as(tokenizer, true, ids, n, view_find(record, "text_skip_special"), &same);
    if (!err) count_case(count, same, path, line, "text differs");
    free(ids);
    return err;
}

Err *cases_tokenizer(const char *tokenizer_path, const char *encode_path, const char *decode_path, Count *count)
{
    Tokenizer *tokenizer = NULL;
    Encoder *encoder = NULL;
    const char *paths[] = {encode_path, decode_path};
    Err *err = tokenizer_open(&tokenizer, tokenizer_path);
    if (!err) err = encoder_new(&encoder, tokenizer);
    for (int i = 0; i < 2 && !err; i++) {
        LineReader *reader;
        const char *line;
        size_t bytes;
        if ((err = lines_open(&reader, paths[i]))) break;
        while (!(err = lines_next(reader, &line, &bytes)) && line) {
            JsonView record;
            if ((err = view_open(&record, line, bytes))) break;
            size_t number = lines_number(reader);
            err = i == 0 ? encode_case(encoder, record, paths[i], number, count)
                         : decode_case(tokenizer, record, paths[i], number, count);
            if (err) break;
        }
        lines_close(reader);
    }
    encoder_free(encoder);
    tokenizer_close(tokenizer);
    return err;
}

/* In a template null counts as no; an absent value does not. */
static ChatSwitch switch_of(JsonView value) { return !value.at ? CHAT_UNSET : *value.at == 't' ? CHAT_YES : CHAT_NO; }

static void chat_case(JsonView record, const char *path, size_t line, Count *count)
{
    ChatText chat = {0};
    Text name = {0}, want = {0};
    JsonView given = view_find(record, "options"), prompt = view_find(given, "add_generation_prompt");
    ChatOptions options = {.null_as_none = true,
                           .effort_high = view_equals(view_find(given, "reasoning_effort"), "high"),
                           .enable_thinking = switch_of(view_find(given, "enable_thinking")),
                           .clear_thinking = switch_of(view_find(given, "clear_thinking")),
                           .add_generation_prompt = prompt.at && *prompt.at == 't'};
    view_string(&name, view_find(record, "template"));
    view_string(&want, view_find(record, "expected"));
    Err *err = template_recognise(&options.template, ".", name.data);
    if (!err) err = chat_render(&chat, &options, view_find(record, "messages"), view_find(record, "tools"));
    bool same = !err && chat.text.n == want.n && !memcmp(chat.text.data, want.data, want.n);
    count_case(count, same, path, line, err ? err_message(err) : "the rendering differs");
    if (!err && !same) printf("--- expected\n%s\n--- got\n%s\n", want.data, chat.text.data);
    err_free(err);
    chat_text_free(&chat);
    text_free(&name);
    text_free(&want);
}

Err *cases_chat(const char *path, Count *count)
{
    LineReader *reader;
    const char *line;
    size_t bytes;
    TRY(lines_open(&reader, path));
    Err *err = NULL;
    while (!err && !(err = lines_next(reader, &line, &bytes)) && line) {
        JsonView record;
        err = view_open(&record, line, bytes);
        if (!err) chat_case(record, path, lines_number(reader), count);
    }
    lines_close(reader);
    return err;
}
