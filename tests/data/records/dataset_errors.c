/* Files of records that are wrong: each error names file, line and what was seen; what is only careless is read. */
#include "data/records/dataset.h"
#include "base/log.h"
#include "tests/support/check.h"
#include "tests/support/records.h"

#include <stdio.h>
#include <string.h>

static const ChatOptions options = {.template = CHAT_GLM47};

static void a_bad_record_is_refused_with_file_line_and_what_was_seen(void **state)
{
    static const char good[] = M(U("q") "," A("a")) "\n";
    static const char *const cases[][2] = {
        {"{\"messages\":[}", "line 2: not valid JSON at line 1, column 14: '}'"},
        {"[1]", "line 2: the record is an array; expected an object"},
        {"{\"hello\":1,\"text\":null}",
         "the record fits no format: it has \"hello\", \"text\" (null); known are messages, conversations"},
        {"{}", "it is empty"},
        {"{\"prompt\":\"a\"}",
         "known are messages, conversations, prompt with completion, instruction with output, text, input_ids"},
        {"{\"messages\":[],\"text\":\"\"}",
         "fits two formats: it has messages (messages) and text (text); say which with data_format"},
        {"{\"prompt\":\"a\",\"completion\":[]}", "prompt is a string and completion is an array"},
        {"{\"prompt\":[],\"completion\":[]}", "every record must train something"},
        {"{\"conversations\":5}", "conversations is a number"},
        {"{\"conversations\":[{\"value\":\"\"}]}", "turn 1: from is nothing"},
        {"{\"conversations\":[{\"from\":\"cat\",\"value\":\"\"}]}", "turn 1: from is \"cat\"; expected human, gpt"},
        {"{\"conversations\":[{\"from\":\"gpt\",\"value\":null}]}", "turn 1: value is null; expected a string"},
        {"{\"conversations\":[{\"from\":\"function_call\",\"value\":\"x\"}]}", "a string that does not hold JSON"},
        {"{\"instruction\":1,\"output\":\"b\"}", "instruction is a number"},
        {"{\"instruction\":\"a\",\"output\":\"b\",\"history\":[\"c\"]}", "history holds a string"},
        {"{\"text\":[]}", "text is an array"},
        {"{\"input_ids\":[1,4096]}", "input_ids[1] is 4096; the tokenizer has 0 to 4095"},
        {"{\"input_ids\":[1,2.5]}", "input_ids[1] is 2.5; expected an integer"},
        {"{\"input_ids\":[1,2],\"labels\":[-100]}", "1 labels for 2 input_ids"},
        {"{\"input_ids\":[1,2],\"labels\":[-100,3]}", "labels[1] is 3; expected -100 or its token, 2"},
        {"{\"input_ids\":[1,2],\"labels\":[1,-100]}", "every record must train something"},
        {"{\"text\":\"a\",\"domain\":7}", "domain is a number"},
        {"{\"text\":\"a\",\"chat_template_kwargs\":{\"x\":1}}", "chat_template_kwargs: \"x\" is unknown"},
        {"{\"messages\":{}}", "messages is an object; expected an array"},
        {"{\"messages\":[]}", "every record must train something"},
        {M(U("q")), "line 2: no token of the record is in the loss; every record must train something"},
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
        {"{\"messages\":[],\"tools\":5}", "tools is a number"},
        {"[", "expected a value; expected one record a line, without an array around them"},
        {"{", "expected a key in quotes; expected a whole record on each line"},
        {"7", "the record is a number; expected an object"},
        {"{\"text\":\"a\xFF\"}", "byte 0xFF; expected valid UTF-8"},
        {"\xFF\xFE{\"", "column 1: byte 0xFF; expected a value"}, /* UTF-16 */
        {"{\"text\":\"\\ud800\"}", "expected the other half of a surrogate pair"},
        {"{\"text\":\"a\tb\"}", "byte 0x09; expected a control character to be escaped"},
        {"{\"text\":NaN}", "expected a value"},
        {"{\"text\":\"a\"} {\"text\":\"b\"}", "expected nothing after the value"},
        {"{\"input_ids\":[1,99999999999999999999]}", "input_ids[1] is 99999999999999999999; expected an integer"},
        {"{\"input_ids\":[1,-1]}", "input_ids[1] is -1; the tokenizer has 0 to 4095"},
        {"{\"input_ids\":[1,1e400]}", "input_ids[1] is 1e400; expected an integer"},
        {"{\"input_ids\":[1,true]}", "input_ids[1] is true; expected an integer"},
        {"{\"input_ids\":[1,2],\"labels\":[0,null]}", "labels[0] is 0"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char file[1000];
        Dataset *ds;
        snprintf(file, sizeof file, "%s%s\n", good, cases[i][0]);
        records_file(state, file);
        assert_fails(records_open(&ds, records_path, records_tokenizer, &options, 512), ERR_DATA, cases[i][1]);
        assert_fails(records_open(&ds, records_path, records_tokenizer, &options, 512), ERR_DATA, records_path);
    }
    Dataset *ds;
    assert_fails(records_open(&ds, records_file(state, "\n \n"), records_tokenizer, &options, 512), ERR_DATA,
                 "has no records");
    assert_fails(records_open(&ds, "/nowhere.jsonl", records_tokenizer, &options, 512), ERR_IO, "/nowhere.jsonl");
    assert_fails(records_open(&ds, "/", records_tokenizer, &options, 512), ERR_IO, "is a directory");
    assert_fails(records_open(&ds, records_file(state, good), records_tokenizer, &options, 4), ERR_DATA,
                 "no token of the record is in the loss within max_length");
    assert_fails(records_open(&ds, records_file(state, good), records_tokenizer, &options, 0), ERR_USAGE, "max_length");
}

/* Byte order marks, blank lines, line ends of other systems; and what only looks like a record. */
static void careless_files_are_read(void **state)
{
    static const char text[] = "\xEF\xBB\xBF" M(U("q") "," A("a")) "\r\n\r\n \t\r\n" M(U("q") "," A("b")),
                      zero[] = M(U("q") "," A("a")) "\n{\"text\":\"\0\"}\n";
    Dataset *ds;
    assert_ok(records_open(&ds, records_file(state, text), records_tokenizer, &options, 512));
    assert_int_equal(dataset_count(ds), 2);
    assert_int_equal(dataset_document(ds, 0)->n, dataset_document(ds, 1)->n);
    assert_int_equal(dataset_document(ds, 1)->record, 4);
    dataset_close(ds);
    assert_ok(file_write(records_path, zero, sizeof zero - 1));
    assert_fails(records_open(&ds, records_path, records_tokenizer, &options, 512), ERR_DATA,
                 "line 2: not valid JSON at line 1, column 10: byte 0x00; expected a control character to be escaped");
    assert_fails(records_open(&ds, records_file(state, ""), records_tokenizer, &options, 512), ERR_DATA,
                 "has no records");
    assert_fails(records_open(&ds, records_file(state, "\x1f\x8b\x08"), records_tokenizer, &options, 512), ERR_IO,
                 records_path);
    assert_fails(records_open(&ds, records_file(state, "\x28\xb5\x2f\xfdxyz"), records_tokenizer, &options, 512),
                 ERR_IO, records_path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_bad_record_is_refused_with_file_line_and_what_was_seen),
        scratch_test(careless_files_are_read),
    };
    return cmocka_run_group_tests(tests, records_open_tokenizer, records_close_tokenizer);
}
