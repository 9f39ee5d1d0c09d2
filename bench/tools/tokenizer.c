/* The speed of a tokenizer: the time to open its file, and megabytes per second of one thread on English text and on
 * strings of all kinds (once with a new encoder, whose cache of words is empty, and repeatedly), and on single words of
 * one megabyte.
 *
 *     make build/bench/tools/tokenizer
 *     build/bench/tools/tokenizer [TOKENIZER_JSON]      # default: one with the structure of GLM-5's
 *
 * Each number is the best of several rounds, of processor time: other programs can only increase it. */
#include "base/log.h"
#include "data/text/json_view.h"
#include "data/text/lines.h"
#include "data/tokenizer/tokenizer.h"

#include <stdio.h>
#include <string.h>

enum { TOKENIZER_ROUNDS = 5, TEXT_BYTES = 8 << 20, WORD_BYTES = 1 << 20 };

/* Append all strings under `key` anywhere in a value. */
static void collect_strings(Text *out, JsonView value, const char *key)
{
    for (JsonViewItem item = view_first(value); item.value.at; view_next(&item)) {
        if (item.key.at && view_equals(item.key, key) && view_is(item.value, JSON_STRING))
            view_string(out, item.value);
        else
            collect_strings(out, item.value, key);
    }
}

static Err *read_strings(Text *out, const char *path, const char *key)
{
    LineReader *reader;
    const char *line;
    size_t bytes;
    TRY(lines_open(&reader, path));
    Err *err = NULL;
    while (!err && !(err = lines_next(reader, &line, &bytes)) && line) {
        JsonView record;
        if ((err = view_open(&record, line, bytes))) break;
        collect_strings(out, record, key);
    }
    lines_close(reader);
    return err;
}

/* Repeat the text up to TEXT_BYTES. */
static void repeat(Text *out, const Text *text)
{
    while (text->n && out->n < TEXT_BYTES) text_add(out, text->data, text->n);
}

/* Every round has a new encoder. */
static Err *measure(const Tokenizer *tokenizer, const char *what, const char *text, size_t n)
{
    double best = 1e30;
    Tokens tokens = {0};
    Err *err = NULL;
    for (int round = 0; round < TOKENIZER_ROUNDS && !err; round++) {
        Encoder *encoder;
        if ((err = encoder_new(&encoder, tokenizer))) break;
        tokens.n = 0;
        double start = log_cpu_seconds();
        err = tokenizer_encode(encoder, text, n, &tokens);
        double seconds = log_cpu_seconds() - start;
        if (seconds < best) best = seconds;
        encoder_free(encoder);
    }
    printf("%-38s %6.1f MB/s  (%.2f MB, %zu tokens)\n", what, (double)n / best / 1e6, (double)n / 1e6, tokens.n);
    tokens_free(&tokens);
    return err;
}

static Err *measure_file(const Tokenizer *tokenizer, const char *what, const char *path, const char *key)
{
    char repeated[60];
    Text once = {0}, text = {0};
    snprintf(repeated, sizeof repeated, "%s, repeated", what);
    Err *err = read_strings(&once, path, key);
    if (!err) repeat(&text, &once);
    if (!err) err = text_error(&text);
    if (!err) err = measure(tokenizer, what, once.data, once.n);
    if (!err) err = measure(tokenizer, repeated, text.data, text.n);
    text_free(&once);
    text_free(&text);
    return err;
}

static Err *measure_word(const Tokenizer *tokenizer, const char *unit)
{
    char what[40];
    Text text = {0};
    while (text.n < WORD_BYTES && !text.failed) text_put(&text, unit);
    snprintf(what, sizeof what, "1 MB of \"%s\"", *unit == '\n' ? "\\n" : unit);
    Err *err = text_error(&text);
    if (!err) err = measure(tokenizer, what, text.data, text.n);
    text_free(&text);
    return err;
}

static Err *measure_open(Tokenizer **tokenizer, const char *path)
{
    double best = 1e30;
    *tokenizer = NULL;
    for (int round = 0; round < TOKENIZER_ROUNDS; round++) {
        double start = log_cpu_seconds();
        tokenizer_close(*tokenizer);
        TRY(tokenizer_open(tokenizer, path));
        double seconds = log_cpu_seconds() - start;
        if (seconds < best) best = seconds;
    }
    printf("%-38s %6.3f s     (%s, %zu ids)\n", "open", best, path, tokenizer_size(*tokenizer));
    return NULL;
}

static Err *measure_all(const char *path)
{
    static const char *const units[] = {"a", "ab", " ", "\n", "1", "!", "\u4e2d"};
    Tokenizer *tokenizer = NULL;
    Err *err = measure_open(&tokenizer, path);
    if (!err) err = measure_file(tokenizer, "English (the demo)", "examples/devils/devils_train.jsonl", "content");
    if (!err)
        err = measure_file(tokenizer, "mixed (the fixtures)", "tests/fixtures/tokenizer/glm5shaped.encode.jsonl",
                           "text");
    for (size_t i = 0; i < sizeof units / sizeof *units && !err; i++) err = measure_word(tokenizer, units[i]);
    tokenizer_close(tokenizer);
    return err;
}

int main(int argc, char **argv)
{
    return err_report("tokenizer",
                      measure_all(argc > 1 ? argv[1] : "tests/fixtures/tokenizer/glm5shaped.tokenizer.json.gz"));
}
