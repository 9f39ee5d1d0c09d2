/* Files of questions: choices, written answers, and the errors for bad records. */
#include "data/records/questions.h"

#include "tests/support/check.h"
#include "tests/support/records.h"

#include <string.h>

static Err *open_text(void **state, const char *text, Questions **questions, size_t max_length)
{
    char path[PATH_BYTES];
    assert_ok(file_write(scratch_path(state, "q.jsonl", path), text, strlen(text)));
    return questions_open(questions, path, records_tokenizer, &(ChatOptions){.enable_thinking = CHAT_NO}, max_length);
}

static void only_the_choice_is_in_the_loss(void **state)
{
    Questions *questions;
    Text text = {0};
    assert_ok(open_text(state,
                        "\n{\"question\": \"Which?\", \"choices\": [\"this one\", \"that other one\"], \"answer\": "
                        "\"that other one\"}\n",
                        &questions, 64));
    const Question *q = questions_get(questions, 0);
    assert_int_equal(questions_count(questions), 1);
    assert_int_equal(q->record, 2);
    assert_int_equal(q->answer, 1);
    for (size_t i = 0; i < q->choices[1].n; i++)
        if (q->choices[1].targets[i] >= 0)
            assert_ok(tokenizer_decode(records_tokenizer, &q->choices[1].targets[i], 1, false, &text));
    assert_string_equal(text.data, "that other one");
    text_free(&text);
    questions_close(questions);
}

static void a_written_answer_has_a_prompt_that_ends_where_the_model_begins(void **state)
{
    Questions *questions;
    Text text = {0};
    assert_ok(open_text(
        state,
        "{\"messages\": [{\"role\": \"user\", \"content\": \"2 + 2?\"}], \"answer\": \"#### 4\", \"domain\": \"sums\"}",
        &questions, 64));
    const Question *q = questions_get(questions, 0);
    assert_ok(tokenizer_decode(records_tokenizer, q->prompt, q->n_prompt, false, &text));
    assert_string_equal(text.data, "[gMASK]<sop><|user|>2 + 2?<|assistant|></think>");
    assert_string_equal(q->written, "#### 4");
    assert_string_equal(q->domain, "sums");
    text_free(&text);
    questions_close(questions);
}

static void a_line_of_zero_bytes_is_a_record(void **state)
{
    static const char text[] = " \t\r\n\0\0\n{\"question\": \"?\", \"answer\": 1}\n";
    char path[PATH_BYTES];
    Questions *questions;
    bool asks;
    assert_ok(file_write(scratch_path(state, "zeros.jsonl", path), text, sizeof text - 1));
    assert_fails(questions_recognise(&asks, path), ERR_FORMAT, "zeros.jsonl: line 2: not valid JSON");
    assert_fails(questions_open(&questions, path, records_tokenizer, &(ChatOptions){0}, 64), ERR_FORMAT,
                 "zeros.jsonl: line 2: not valid JSON");
}

static void a_record_that_is_no_question_is_refused_with_its_line(void **state)
{
    Questions *questions;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{\"question\": \"?\", \"choices\": [\"a\", \"b\"], \"answer\": 2}",
         "line 1: answer is 2; expected the index"},
        {"{\"question\": \"?\", \"choices\": [\"a\", \"b\"], \"answer\": 0.5}", "answer is 0.5"},
        {"{\"question\": \"?\", \"choices\": [\"a\", \"b\"], \"answer\": \"C\"}", "answer is \"C\""},
        {"{\"question\": \"?\", \"choices\": [\"a\"], \"answer\": 0}", "expected a list of two at least"},
        {"{\"question\": \"?\", \"choices\": [\"a\", 3], \"answer\": 0}", "choice 1 is a number"},
        {"{\"question\": \"?\", \"choices\": [\"a\", \"\"], \"answer\": 0}", "choice 1 is empty"},
        {"{\"choices\": [\"a\", \"b\"], \"answer\": 0}", "no question"},
        {"{\"question\": \"?\"}", "the record has no answer"},
        {"{\"question\": \"?\", \"answer\": null}", "answer is null"},
        {"{\"question\": \"one two three four five six seven eight nine ten\", \"answer\": 1}", "max_length is 12"},
        {"", "has no records"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(open_text(state, cases[i].text, &questions, 12), ERR_DATA, cases[i].message);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(only_the_choice_is_in_the_loss),
        scratch_test(a_written_answer_has_a_prompt_that_ends_where_the_model_begins),
        scratch_test(a_line_of_zero_bytes_is_a_record),
        scratch_test(a_record_that_is_no_question_is_refused_with_its_line),
    };
    return cmocka_run_group_tests(tests, records_open_tokenizer, records_close_tokenizer);
}
