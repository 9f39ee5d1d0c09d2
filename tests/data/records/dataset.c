/* Records of every format -> documents: tokens, tokens in the loss, cuts; and the errors for bad files. */
#include "data/records/dataset.h"
#include "base/log.h"
#include "tests/support/check.h"
#include "tests/support/records.h"

#include <stdio.h>
#include <string.h>

static const ChatOptions options = {.template = CHAT_GLM47};

static void the_demo_has_as_many_tokens_and_tokens_in_the_loss_as_with_peft(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        size_t records, tokens, n_loss_tokens;
    } splits[] = {{"examples/devils/devils_train.jsonl", 881, 103998, 94150},
                  {"examples/devils/devils_eval.jsonl", 98, 12684, 11577}};
    for (size_t i = 0; i < 2; i++) {
        Dataset *ds;
        ChatOptions recognised = {0};
        assert_ok(template_recognise(&recognised.template, "examples/tiny-glm5", NULL));
        assert_ok(records_open(&ds, splits[i].path, records_tokenizer, &recognised, 512));
        DatasetTotals totals = dataset_totals(ds);
        assert_int_equal(dataset_count(ds), splits[i].records);
        assert_int_equal(totals.tokens, splits[i].tokens);
        assert_int_equal(totals.n_loss_tokens, splits[i].n_loss_tokens);
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

/* The tokens of one record in the loss must read `expected`, with a bar between ranges. Returns the document's tokens.
 */
static size_t assert_in_loss_with(void **state, const char *record, const DocumentOptions *how, const char *expected)
{
    Dataset *ds;
    Text text = {0};
    assert_ok(dataset_open_file(&ds, records_tokenizer, records_file(state, record), how));
    const Document *document = dataset_document(ds, 0);
    for (size_t i = 0; i < document->n; i++) {
        if (document->targets[i] < 0) continue;
        if (text.n) text_put(&text, "|");
        size_t n = 1;
        while (document->targets[i + n] >= 0) n++; /* the last is -1 */
        assert_ok(tokenizer_decode(records_tokenizer, &document->targets[i], n, false, &text));
        i += n - 1;
    }
    assert_string_equal(text.data, expected);
    text_free(&text);
    size_t n = document->n;
    dataset_close(ds);
    return n;
}

static void assert_in_loss(void **state, const char *record, const ChatOptions *how, const char *expected)
{
    assert_in_loss_with(state, record, &(DocumentOptions){.chat = *how, .max_length = 512}, expected);
}

static void the_loss_has_what_the_model_writes_itself(void **state)
{
    ChatOptions keep = {.clear_thinking = CHAT_NO}, last = {.train_on = CHAT_TRAIN_LAST},
                all = {.train_on = CHAT_TRAIN_ALL}, quiet = {.train_on_reasoning = CHAT_NO},
                glm45 = {.template = CHAT_GLM45};
    static const char tools[] = M(U("q") ",{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"r\",\"tool_"
                                         "calls\":[{\"name\":\"f\",\"arguments\":{\"x\":1}}]},"
                                         "{\"role\":\"tool\",\"content\":\"out\"}," R("s", "done"));
    assert_in_loss(state, M(U("q") "," A("a")), &options, "a<|endoftext|>");
    assert_in_loss(state, M(U("q") "," R("r", "a")), &options, "r</think>a<|endoftext|>");
    assert_in_loss(state, M(U("q") "," R("r", "a")), &quiet, "a<|endoftext|>");
    assert_in_loss(state, M(U("q") "," R("  ", "a")), &options, "a<|endoftext|>");
    assert_in_loss(state, M(U("1") "," A("one") "," U("2") "," A("two")), &options, "one<|user|>|two<|endoftext|>");
    assert_in_loss(state, M(U("1") "," A("one") "," U("2") "," A("two")), &last, "two<|endoftext|>");
    assert_in_loss(state, M(U("1") "," A("one")), &all, "<sop><|user|>1<|assistant|></think>one<|endoftext|>");
    assert_in_loss(state, M(U("1") "," A("one") "," U("2")), &options, "one<|user|>");
    assert_in_loss(state, M(U("1") "," R("r", "one") "," U("2") "," R("s", "two")), &options,
                   "s</think>two<|endoftext|>"); /* r is cleared */
    assert_in_loss(state, M(U("1") "," R("r", "one") "," U("2") "," R("s", "two")), &keep,
                   "r</think>one<|user|>|s</think>two<|endoftext|>");
    assert_in_loss(state, tools, &options,
                   "r</think><tool_call>f<arg_key>x</arg_key><arg_value>1</arg_value></tool_call><|observation|>|s</"
                   "think>done<|endoftext|>");
    assert_in_loss(state, M(U("1") ",{\"role\":\"assistant\",\"content\":\"no\",\"weight\":0}," U("2") "," A("two")),
                   &options, "two<|endoftext|>");
    assert_in_loss(state, M(U("q") "," R("r", "a")), &glm45, "r</think>\na<|endoftext|>");
    assert_in_loss(state, M(U("q") "," A("a")), &glm45, "\na<|endoftext|>");
    assert_in_loss(state, M(U("1") "," R("r", "one")),
                   &(ChatOptions){.train_on = CHAT_TRAIN_ALL, .train_on_reasoning = CHAT_NO},
                   "<sop><|user|>1<|assistant|><think>|one<|endoftext|>");
    assert_in_loss(state, tools, &all,
                   "<sop><|user|>q<|assistant|><think>r</think><tool_call>f<arg_key>x</arg_key><arg_value>1</"
                   "arg_value></tool_call><|observation|>|"
                   "<|assistant|><think>s</think>done<|endoftext|>"); /* a tool's result is never in the loss */
    assert_in_loss(state, M("{\"role\":\"user\",\"content\":\"no\",\"weight\":0}," A("one")), &all,
                   "<sop><|user|>|<|assistant|></think>one<|endoftext|>");
    assert_in_loss(state, M(U("q") "," A("a") "," U("p")), &(ChatOptions){.template = CHAT_DEEPSEEK_V3},
                   "a<｜end▁of▁sentence｜>");
    assert_in_loss(state, M(U("q") "," A("a")), &(ChatOptions){.template = CHAT_GLM52}, "a<|endoftext|>");
    assert_in_loss(state, M(U("q") "," R("r", "a")), &(ChatOptions){.template = CHAT_GLM52}, "r</think>a<|endoftext|>");
    assert_in_loss(state, M(U("<|user|></think>") "," A("a<|user|>b")), &options, "a<|user|>b<|endoftext|>");
}

static void every_format_has_its_tokens_in_the_loss(void **state)
{
    static const struct {
        const char *record, *n_loss_tokens;
    } cases[] = {{"{\"conversations\":[{\"from\":\"human\",\"value\":\"q\"},{\"from\":\"gpt\",\"value\":\"\\u0061\\n\"}"
                  "],\"system\":\"s\"}",
                  "a<|endoftext|>"},
                 {"{\"conversations\":[{\"from\":\"human\",\"value\":\"q\"},{\"from\":\"function_call\",\"value\":\"{"
                  "\\\"name\\\":\\\"f\\\",\\\"arguments\\\":{}}\"},"
                  "{\"from\":\"observation\",\"value\":\"out\"},{\"from\":\"gpt\",\"value\":\"a\"}]}",
                  "<tool_call>f</tool_call><|observation|>|a<|endoftext|>"},
                 {"{\"conversations\":[{\"from\":\"human\",\"value\":\"q\"},{\"from\":\"gpt\",\"value\":\"a\","
                  "\"weight\":0},{\"from\":\"human\",\"value\":\"p\"},"
                  "{\"from\":\"gpt\",\"value\":\"b\",\"weight\":1}]}",
                  "b<|endoftext|>"},
                 {"{\"conversations\":[" U("q") "," A("a") "]}", "a<|endoftext|>"},
                 {"{\"prompt\":\"q\",\"completion\":\"a\"}", "a<|endoftext|>"},
                 {"{\"prompt\":[" U("q") "," A("no") "," U("p") "],\"completion\":[" A("a") "]}", "a<|endoftext|>"},
                 {"{\"prompt\":[],\"completion\":[" U("q") "," A("a") "]}", "a<|endoftext|>"},
                 {"{\"instruction\":\"i\",\"input\":\"x\",\"output\":\"a\",\"system\":\"s\"}", "a<|endoftext|>"},
                 {"{\"instruction\":\"i\",\"input\":null,\"output\":\"a\",\"history\":[[\"q\",\"h\"]]}",
                  "h<|user|>|a<|endoftext|>"},
                 {"{\"text\":\"abc<|user|>d\"}", "c<|user|>d<|endoftext|>"},
                 {"{\"input_ids\":[97,98,99,100]}", NULL},
                 {"{\"messages\":[" U("q") "," R("r", "a") "," U("p") "," A(
                      "b") "],\"chat_template_kwargs\":{\"clear_thinking\":false}}",
                  "r</think>a<|user|>|b<|endoftext|>"},
                 {M("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"q\"}]},{\"role\":\"assistant\","
                    "\"content\":[{\"type\":\"text\",\"text\":\"a\"},\"b\"]}"),
                  "ab<|endoftext|>"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (cases[i].n_loss_tokens) assert_in_loss(state, cases[i].record, &options, cases[i].n_loss_tokens);
    DocumentOptions plain = {.max_length = 512, .plain_prompts = true};
    assert_in_loss_with(state, "{\"prompt\":\"Q: x\\n\",\"completion\":\"A\"}", &plain, "A<|endoftext|>");
    plain.format = RECORD_TEXT; /* a record of two formats is read as the one that is asked for */
    assert_in_loss_with(state, "{\"text\":\"a<|user|>\",\"instruction\":\"i\",\"output\":\"o\"}", &plain,
                        "<|user|><|endoftext|>");
}

static void labels_belong_to_the_tokens_at_their_positions(void **state)
{
    Dataset *ds;
    static const int32_t ids[] = {5, 6, 7, 8}, targets[] = {-1, 7, -1, -1};
    records_file(state, "{\"input_ids\":[5,6,7,8],\"labels\":[-100,-100,7,-100]}\n{\"input_ids\":[5,6,7,8]}");
    assert_ok(records_open(&ds, records_path, records_tokenizer, &options, 512));
    assert_memory_equal(dataset_document(ds, 0)->ids, ids, sizeof ids);
    assert_memory_equal(dataset_document(ds, 0)->targets, targets, sizeof targets);
    assert_int_equal(dataset_document(ds, 1)->n_loss_tokens, 3);
    dataset_close(ds);
}

static void the_input_of_alpaca_is_a_line_of_its_own(void **state)
{
    Dataset *a, *b;
    assert_ok(records_open(
        &a, records_file(state, "{\"instruction\":\"i\\\"\",\"input\":\"x\",\"output\":\"a\",\"system\":\"s\"}"),
        records_tokenizer, &options, 512));
    assert_ok(records_open(&b,
                           records_file(state, M("{\"role\":\"system\",\"content\":\"s\"}," U("i\\\"\\nx") "," A("a"))),
                           records_tokenizer, &options, 512));
    assert_int_equal(dataset_document(a, 0)->n, dataset_document(b, 0)->n);
    assert_memory_equal(dataset_document(a, 0)->ids, dataset_document(b, 0)->ids,
                        dataset_document(a, 0)->n * sizeof(int32_t));
    dataset_close(a);
    dataset_close(b);
}

/* Three turns of six tokens each after a head of two: [gMASK]<sop> | <|user|>1<|assistant|></think>one | ... */
static void long_conversations_are_cut_between_turns(void **state)
{
    static const char talk[] = M(U("1") "," A("one") "," U("2") "," A("two") "," U("3") "," A("six")),
                      headed[] = M("{\"role\":\"system\",\"content\":\"s\"}," U("1") "," A("one") "," U("2") "," A(
                          "two") "," U("3") "," A("six"));
    DocumentOptions how = {.max_length = 512};
    size_t whole = assert_in_loss_with(state, talk, &how, "one<|user|>|two<|user|>|six<|endoftext|>");
    how.max_length = whole - 1;
    size_t right = assert_in_loss_with(state, talk, &how,
                                       "one<|user|>|two<|user|>"); /* the role token that ends it is kept */
    how.max_length = right;
    assert_int_equal(assert_in_loss_with(state, talk, &how, "one<|user|>|two<|user|>"), right);
    how.max_length = right - 1; /* enough for the turn, not for the role token after it */
    assert_int_equal(assert_in_loss_with(state, talk, &how, "one<|user|>|two"), right - 1);
    how.max_length = 8; /* shorter than the first turn */
    assert_int_equal(assert_in_loss_with(state, M(U("1") "," A("one two three four five six")), &how, "one two"), 8);
    how = (DocumentOptions){.max_length = whole - 1, .truncation = TRUNCATE_LEFT};
    size_t left = assert_in_loss_with(state, talk, &how, "two<|user|>|six<|endoftext|>");
    how.max_length = left - 1;
    assert_in_loss_with(state, talk, &how, "six<|endoftext|>");
    how.max_length = whole;
    assert_in_loss_with(state, headed, &how, "two<|user|>|six<|endoftext|>");
    Dataset *ds;
    assert_ok(
        dataset_open_file(&ds, records_tokenizer, records_file(state, headed), &how)); /* the system message is kept */
    Text text = {0};
    const Document *document = dataset_document(ds, 0);
    assert_ok(tokenizer_decode(records_tokenizer, document->ids, document->n, false, &text));
    assert_string_equal(
        text.data,
        "[gMASK]<sop><|system|>s<|user|>2<|assistant|></think>two<|user|>3<|assistant|></think>six<|endoftext|>");
    text_free(&text);
    dataset_close(ds);
    how.max_length = 4; /* when no turn fits: the last tokens */
    assert_int_equal(assert_in_loss_with(state, "{\"text\":\"a b c d e f\"}", &how, " e f<|endoftext|>"), 4);
}

static void dropped_records_are_counted(void **state)
{
    Dataset *ds;
    DocumentOptions how = {.max_length = 8, .truncation = TRUNCATE_DROP};
    records_file(state, M(U("q") "," A("one two three four five six seven")) "\n" M(U("q") "," A("a")) "\n");
    assert_ok(dataset_open_file(&ds, records_tokenizer, records_path, &how));
    assert_int_equal(dataset_count(ds), 1);
    assert_int_equal(dataset_totals(ds).dropped, 1);
    assert_int_equal(dataset_document(ds, 0)->record, 2);
    dataset_close(ds);
    how.max_length = 3;
    assert_fails(dataset_open_file(&ds, records_tokenizer, records_path, &how), ERR_DATA,
                 "all 2 records are longer than max_length");
}

static void domains_have_totals_of_their_own(void **state)
{
    Dataset *ds;
    records_file(state, "{\"text\":\"ab\",\"domain\":\"x\"}\n{\"text\":\"ab\"}\n{\"text\":\"ab\",\"domain\":\"x\"}\n");
    assert_ok(records_open(&ds, records_path, records_tokenizer, &options, 512));
    assert_int_equal(dataset_n_domains(ds), 2);
    assert_string_equal(dataset_domain(ds, dataset_document(ds, 2)->domain), "x");
    assert_int_equal(dataset_document(ds, 1)->domain, 0);
    assert_int_equal(dataset_domain_totals(ds, 1).documents, 2);
    dataset_close(ds);
}

/* With a look at every earlier domain for every record, these take 3,200,000,000 comparisons. */
static void a_domain_for_every_record_takes_no_longer(void **state)
{
    enum { N = 80000, MAX_SECONDS = 5 };
    Dataset *ds;
    Text text = {0};
    char line[64];
    for (int i = 0; i < N; i++) {
        snprintf(line, sizeof line, "{\"text\":\"ab\",\"domain\":\"domain %d\"}\n", i);
        text_put(&text, line);
    }
    records_file(state, text.data);
    text_free(&text);
    double began = log_cpu_seconds();
    assert_ok(records_open(&ds, records_path, records_tokenizer, &options, 512));
    if (log_cpu_seconds() - began > MAX_SECONDS) fail_msg("took %.1f s", log_cpu_seconds() - began);
    assert_int_equal(dataset_n_domains(ds), N + 1); /* and that of records without one */
    for (size_t i = 0; i < N; i += 9999) {
        snprintf(line, sizeof line, "domain %zu", i);
        assert_string_equal(dataset_domain(ds, dataset_document(ds, i)->domain), line);
        assert_int_equal(dataset_document(ds, i)->domain, i + 1);
    }
    dataset_close(ds);
}

static void files_can_be_given_in_three_ways(void **state)
{
    static const char *const good[] = {"\"a\"", "[\"a\",\"b\"]", "[{\"path\":\"a\",\"weight\":0.5},\"b\"]"};
    static const char *const bad[][2] = {{"[]", "is empty"},
                                         {"5", "a data file is a number"},
                                         {"[{\"weight\":1}]", "key path is missing"},
                                         {"[{\"path\":\"a\",\"wait\":1}]", "a data file has wait"},
                                         {"[{\"path\":\"a\",\"weight\":0}]", "weight is 0"}};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        Json *setting;
        DataFiles files;
        assert_ok(json_parse(&setting, good[i], strlen(good[i])));
        assert_ok(data_files_read(&files, setting));
        assert_int_equal(files.n, i ? 2 : 1);
        assert_string_equal(files.items[0].path, "a");
        assert_true(files.items[0].weight == (i == 2 ? 0.5 : 1));
        data_files_free(&files);
        json_free(setting);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Json *setting;
        DataFiles files;
        assert_ok(json_parse(&setting, bad[i][0], strlen(bad[i][0])));
        Err *err = data_files_read(&files, setting);
        assert_non_null(err);
        assert_non_null(strstr(err_message(err), bad[i][1]));
        err_free(err);
        json_free(setting);
    }
}

static void long_records_lose_their_end(void **state)
{
    Dataset *whole, *cut;
    records_file(state, M(U("q") "," A("one two three four five six seven")) "\n\n" M(U("q") "," A("a")) "\n");
    assert_ok(records_open(&whole, records_path, records_tokenizer, &options, 512));
    assert_ok(records_open(&cut, records_path, records_tokenizer, &options, 8));
    const Document *a = dataset_document(whole, 0), *b = dataset_document(cut, 0);
    assert_int_equal(dataset_totals(whole).truncated, 0);
    assert_int_equal(dataset_totals(cut).truncated, 1);
    assert_int_equal(dataset_document(cut, 1)->record, 3); /* the blank line counts */
    assert_true(a->n > 8 && b->n == 8);
    for (size_t i = 0; i < 8; i++) assert_int_equal(a->ids[i], b->ids[i]);
    for (size_t i = 0; i < 7; i++) assert_int_equal(a->targets[i], b->targets[i]);
    assert_int_equal(b->targets[7], -1);
    char x[DATASET_DIGEST], y[DATASET_DIGEST];
    assert_ok(dataset_digest(whole, x));
    assert_ok(dataset_digest(cut, y));
    assert_int_equal(strlen(x), 32);
    assert_string_not_equal(x, y);
    dataset_close(whole);
    dataset_close(cut);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_demo_has_as_many_tokens_and_tokens_in_the_loss_as_with_peft),
        scratch_test(the_loss_has_what_the_model_writes_itself),
        scratch_test(every_format_has_its_tokens_in_the_loss),
        scratch_test(labels_belong_to_the_tokens_at_their_positions),
        scratch_test(the_input_of_alpaca_is_a_line_of_its_own),
        scratch_test(long_conversations_are_cut_between_turns),
        scratch_test(dropped_records_are_counted),
        scratch_test(domains_have_totals_of_their_own),
        scratch_test(a_domain_for_every_record_takes_no_longer),
        scratch_test(files_can_be_given_in_three_ways),
        scratch_test(long_records_lose_their_end),
    };
    return cmocka_run_group_tests(tests, records_open_tokenizer, records_close_tokenizer);
}
