#include "data/dataset.h"
#include "tests/support/check.h"

#include <stdio.h>
#include <string.h>

static Tokenizer *tokenizer;
static const ChatOptions options = {.template = CHAT_GLM47};

static char path[PATH_BYTES];

static const char *file_with(void **state, const char *text)
{
    assert_ok(file_write(scratch_path(state, "records.jsonl", path), text, strlen(text)));
    return path;
}

static int open_tokenizer(void **state)
{
    (void)state;
    assert_ok(tokenizer_open(&tokenizer, "examples/tiny-glm5/tokenizer.json"));
    return 0;
}

static int close_tokenizer(void **state)
{
    (void)state;
    tokenizer_close(tokenizer);
    return 0;
}

static void the_demo_has_the_tokens_and_scored_tokens_that_peft_counted(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        size_t records, tokens, scored;
    } splits[] = {{"examples/devils/devils_train.jsonl", 881, 103998, 94150},
                  {"examples/devils/devils_eval.jsonl", 98, 12684, 11577}};
    for (size_t i = 0; i < 2; i++) {
        Dataset *ds;
        ChatOptions recognised = {0};
        assert_ok(chat_recognise(&recognised.template, "examples/tiny-glm5", NULL));
        assert_ok(dataset_open(&ds, splits[i].path, tokenizer, &recognised, 512));
        DatasetTotals totals = dataset_totals(ds);
        assert_int_equal(dataset_count(ds), splits[i].records);
        assert_int_equal(totals.tokens, splits[i].tokens);
        assert_int_equal(totals.scored, splits[i].scored);
        assert_int_equal(totals.dropped, 0);
        assert_true(totals.longest <= 512);
        for (size_t d = 0; d < dataset_count(ds); d++) {
            const Document *document = dataset_document(ds, d);
            assert_int_equal(document->record, d + 1);
            assert_int_equal(document->targets[document->n - 1], -1);
            for (size_t k = 0; k + 1 < document->n; k++)
                if (document->targets[k] >= 0) assert_int_equal(document->targets[k], document->ids[k + 1]);
        }
        dataset_close(ds);
    }
}

/* The scored tokens of one record as text, with a bar between runs. */
static void assert_scored(void **state, const char *record, const ChatOptions *how, const char *expected)
{
    Dataset *ds;
    Text text = {0};
    assert_ok(dataset_open(&ds, file_with(state, record), tokenizer, how, 512));
    const Document *document = dataset_document(ds, 0);
    for (size_t i = 0; i < document->n; i++) {
        if (document->targets[i] < 0) continue;
        if (text.n && document->targets[i - 1] < 0) text_put(&text, "|");
        assert_ok(tokenizer_decode(tokenizer, &document->targets[i], 1, false, &text));
    }
    assert_string_equal(text.data, expected);
    text_free(&text);
    dataset_close(ds);
}

#define U(text) "{\"role\":\"user\",\"content\":\"" text "\"}"
#define A(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"
#define R(thought, text) "{\"role\":\"assistant\",\"content\":\"" text "\",\"reasoning_content\":\"" thought "\"}"
#define M(list) "{\"messages\":[" list "]}"

static void what_is_scored_is_what_the_model_must_say_itself(void **state)
{
    ChatOptions keep = {.clear_thinking = CHAT_NO}, last = {.train_on = CHAT_TRAIN_LAST},
                all = {.train_on = CHAT_TRAIN_ALL}, quiet = {.train_on_reasoning = CHAT_NO},
                glm45 = {.template = CHAT_GLM45};
    static const char tools[] = M(U("q") ",{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"r\",\"tool_"
                                         "calls\":[{\"name\":\"f\",\"arguments\":{\"x\":1}}]},"
                                         "{\"role\":\"tool\",\"content\":\"out\"}," R("s", "done"));
    assert_scored(state, M(U("q") "," A("a")), &options, "a<|endoftext|>");
    assert_scored(state, M(U("q") "," R("r", "a")), &options, "r</think>a<|endoftext|>");
    assert_scored(state, M(U("q") "," R("r", "a")), &quiet, "a<|endoftext|>");
    assert_scored(state, M(U("q") "," R("  ", "a")), &options, "a<|endoftext|>");
    assert_scored(state, M(U("1") "," A("one") "," U("2") "," A("two")), &options, "one<|user|>|two<|endoftext|>");
    assert_scored(state, M(U("1") "," A("one") "," U("2") "," A("two")), &last, "two<|endoftext|>");
    assert_scored(state, M(U("1") "," A("one")), &all, "<sop><|user|>1<|assistant|></think>one<|endoftext|>");
    assert_scored(state, M(U("1") "," A("one") "," U("2")), &options, "one<|user|>");
    assert_scored(state, M(U("1") "," R("r", "one") "," U("2") "," R("s", "two")), &options,
                  "s</think>two<|endoftext|>"); /* r is cleared */
    assert_scored(state, M(U("1") "," R("r", "one") "," U("2") "," R("s", "two")), &keep,
                  "r</think>one<|user|>|s</think>two<|endoftext|>");
    assert_scored(state, tools, &options,
                  "r</think><tool_call>f<arg_key>x</arg_key><arg_value>1</arg_value></tool_call><|observation|>|s</"
                  "think>done<|endoftext|>");
    assert_scored(state, M(U("1") ",{\"role\":\"assistant\",\"content\":\"no\",\"weight\":0}," U("2") "," A("two")),
                  &options, "two<|endoftext|>");
    assert_scored(state, M(U("q") "," R("r", "a")), &glm45, "r</think>\na<|endoftext|>");
    assert_scored(state, M(U("q") "," A("a")), &glm45, "\na<|endoftext|>");
    assert_scored(state, M(U("<|user|></think>") "," A("a<|user|>b")), &options, "a<|user|>b<|endoftext|>");
}

static void long_records_are_cut_from_the_right(void **state)
{
    Dataset *whole, *cut;
    file_with(state, M(U("q") "," A("one two three four five six seven")) "\n\n" M(U("q") "," A("a")) "\n");
    assert_ok(dataset_open(&whole, path, tokenizer, &options, 512));
    assert_ok(dataset_open(&cut, path, tokenizer, &options, 8));
    const Document *a = dataset_document(whole, 0), *b = dataset_document(cut, 0);
    assert_int_equal(dataset_totals(whole).truncated, 0);
    assert_int_equal(dataset_totals(cut).truncated, 1);
    assert_int_equal(dataset_document(cut, 1)->record, 3); /* the blank line counts */
    assert_true(a->n > 8 && b->n == 8);
    for (size_t i = 0; i < 8; i++) assert_int_equal(a->ids[i], b->ids[i]);
    for (size_t i = 0; i < 7; i++) assert_int_equal(a->targets[i], b->targets[i]);
    assert_int_equal(b->targets[7], -1);
    char x[DATASET_DIGEST], y[DATASET_DIGEST];
    dataset_digest(whole, x);
    dataset_digest(cut, y);
    assert_int_equal(strlen(x), 32);
    assert_string_not_equal(x, y);
    dataset_close(whole);
    dataset_close(cut);
}

static void a_bad_record_is_refused_with_file_line_and_what_was_seen(void **state)
{
    static const char good[] = M(U("q") "," A("a")) "\n";
    static const char *const cases[][2] = {
        {"{\"messages\":[}", "line 2: not valid JSON at line 1, column 14: '}'"},
        {"[1]", "line 2: the record is an array; expected an object"},
        {"{\"prompt\":\"a\",\"completion\":\"b\"}",
         "line 2: the record has prompt and no messages; the one known format is messages"},
        {"{\"text\":\"a\"}", "has text and no messages"},
        {"{\"hello\":1}", "its first key is \"hello\""},
        {"{\"messages\":{}}", "messages is an object; expected an array"},
        {"{\"messages\":[]}", "every record must train something"},
        {M(U("q")), "line 2: nothing in the record is scored; every record must train something"},
        {M(U("q") ",7"), "message 2: is a number; expected an object"},
        {M("{\"role\":\"bot\",\"content\":\"\"}"),
         "message 1: role is \"bot\"; expected system, user, assistant or tool"},
        {M("{\"content\":\"\"}"), "role is nothing"},
        {M("{\"role\":\"user\",\"content\":5}"), "message 1: content is a number"},
        {M("{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"arguments\":{}}]}"),
         "tool_calls: name is nothing"},
        {M("{\"role\":\"assistant\",\"tool_calls\":[{\"name\":\"f\",\"arguments\":\"{\"}]}"),
         "arguments is a string that does not hold an object"},
        {M("{\"role\":\"assistant\",\"tool_calls\":[{\"name\":\"f\",\"arguments\":{\"x\":{\"a\":1,\"a\":2}}}]}"),
         "appears twice"},
        {M("{\"role\":\"assistant\",\"content\":\"a\",\"weight\":0.5}"), "weight is 0.5; expected 0 or 1"},
        {"{\"messages\":[],\"tools\":5}", "tools is a number"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char file[1000];
        Dataset *ds;
        snprintf(file, sizeof file, "%s%s\n", good, cases[i][0]);
        file_with(state, file);
        assert_fails(dataset_open(&ds, path, tokenizer, &options, 512), ERR_DATA, cases[i][1]);
        assert_fails(dataset_open(&ds, path, tokenizer, &options, 512), ERR_DATA, path);
        }
    Dataset *ds;
    assert_fails(dataset_open(&ds, file_with(state, "\n \n"), tokenizer, &options, 512), ERR_DATA, "has no records");
    assert_fails(dataset_open(&ds, "/nowhere.jsonl", tokenizer, &options, 512), ERR_IO, "/nowhere.jsonl");
    assert_fails(dataset_open(&ds, "/", tokenizer, &options, 512), ERR_IO, "is a directory");
    assert_fails(dataset_open(&ds, file_with(state, good), tokenizer, &options, 4), ERR_DATA,
                 "nothing in the record is scored within max_length");
    assert_fails(dataset_open(&ds, file_with(state, good), tokenizer, &options, 0), ERR_USAGE, "max_length");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_demo_has_the_tokens_and_scored_tokens_that_peft_counted),
        scratch_test(what_is_scored_is_what_the_model_must_say_itself),
        scratch_test(long_records_are_cut_from_the_right),
        scratch_test(a_bad_record_is_refused_with_file_line_and_what_was_seen),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
