/* The program as a user runs it: what it shows of a file of records, and that nothing in the file steers the
 * terminal. */
#include "base/json.h"
#include "data/text/unicode.h"
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A question full of what steers a terminal or reorders what is read; escaped, as JSON asks. */
static const char records[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"\\u001b[31mred\\u001b[0m\\u0007\\u0000\\u009b2J \\u202ertl "
    "<b>&\\t\\r\\n\"},"
    "{\"role\":\"assistant\",\"reasoning_content\":\"r\",\"content\":\"Yes.\"}],\"domain\":\"a\\u001b]0;title\"}\n"
    "{\"prompt\":\"2+2=\",\"completion\":\"4\"}\n";

static char *read_all(FILE *in, size_t *n)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, n);
    for (int c; (c = fgetc(in)) != EOF;) fputc(c, out);
    fclose(out);
    return text;
}

/* What the program prints; its exit code must be 0. */
static char *run(void **state, const char *options, size_t *n)
{
    const char *program = getenv("GRAFT");
    char command[3 * PATH_BYTES], path[PATH_BYTES];
    assert_ok(file_write(scratch_path(state, "records.jsonl", path), records, sizeof records - 1));
    snprintf(command, sizeof command, "'%s' preview --model examples/tiny-glm5 '%s' %s 2>&1",
             program ? program : "build/graft", path, options);
    FILE *in = popen(command, "r");
    assert_non_null(in);
    char *text = read_all(in, n);
    assert_int_equal(pclose(in), 0);
    return text;
}

/* Nothing but lines of characters, and where `colors` says so, the program's own ESC [ numbers m. */
static void assert_harmless(const char *text, size_t n, bool colors)
{
    for (size_t at = 0; at < n;) {
        uint32_t c;
        size_t length = unicode_next(text + at, n - at, &c);
        if (colors && c == 0x1B && text[at + 1] == '[') {
            size_t digits = strspn(text + at + 2, "0123456789;");
            assert_int_equal(text[at + 2 + digits], 'm');
            at += 3 + digits;
            continue;
        }
        assert_true(c < UNICODE_BROKEN && (c >= 0x20 || c == '\n') && !(c >= 0x7F && c < 0xA0) && c != 0x202E);
        at += length;
    }
}

static void tokens_in_the_loss_are_marked(void **state)
{
    size_t n;
    char *text = run(state, "--color never", &n);
    assert_harmless(text, n, false);
    assert_non_null(strstr(text, "<|user|>\\x1b[31mred\\x1b[0m\\x07\\x00\\x9b2J \\u202ertl <b>&\\t\\r\xE2\x8F\x8E\n"));
    assert_non_null(strstr(text, "<|assistant|><think>\xE2\x9F\xA6r</think>Yes.<|endoftext|>\xE2\x9F\xA7\n"));
    assert_non_null(strstr(text, "domain a\\x1b]0;title"));
    assert_non_null(strstr(text, "line 2  prompt_completion, 11 tokens, 2 in the loss\n"));
    assert_non_null(strstr(text, "2 documents, "));
    free(text);
}

static void colors_are_the_only_thing_that_steers_the_terminal(void **state)
{
    size_t n;
    char *text = run(state, "--color always --ids", &n);
    assert_harmless(text, n, true);
    assert_non_null(strstr(text, "\x1b[1;32m4/"));
    free(text);
}

static void json_holds_every_token(void **state)
{
    size_t n;
    char *text = run(state, "--json --record 2", &n);
    Json *all;
    const Json *list, *tokens;
    bool in_loss;
    assert_ok(json_parse(&all, text, n));
    assert_ok(json_get_array(all, "records", &list));
    assert_int_equal(json_count(list), 1);
    assert_ok(json_get_array(json_first(list), "tokens", &tokens));
    assert_int_equal(json_count(tokens), 11);
    const Json *last = json_first(tokens);
    while (json_next(last)) last = json_next(last);
    const char *word;
    assert_ok(json_get_string(last, "text", &word));
    assert_string_equal(word, "<|endoftext|>");
    assert_ok(json_get_bool(last, "scored", &in_loss));
    assert_true(in_loss);
    json_free(all);
    free(text);
}

static void the_page_needs_nothing_and_runs_nothing(void **state)
{
    char page[PATH_BYTES], options[PATH_BYTES + 20], *text;
    size_t n;
    snprintf(options, sizeof options, "--html '%s'", scratch_path(state, "page.html", page));
    free(run(state, options, &n));
    assert_ok(file_read(&text, &n, page));
    assert_harmless(text, n, false);
    assert_null(strstr(text, "<script"));
    assert_null(strstr(text, "http"));
    for (const char *b = text; (b = strstr(b, "<b>")); b++)
        assert_memory_equal(b, "<b>\xE2\x8F\x8E", 6); /* the page's own, not the record's */
    assert_non_null(strstr(text, "&amp;"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(tokens_in_the_loss_are_marked),
        scratch_test(colors_are_the_only_thing_that_steers_the_terminal),
        scratch_test(json_holds_every_token),
        scratch_test(the_page_needs_nothing_and_runs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
