/* Answers as text: stop strings, thoughts, calls; the answer that a pattern finds; fail conditions. */
#include "infer/answer.h"

#include "infer/exact_match.h"
#include "infer/summary.h"
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    Tokenizer *tokenizer;
    Encoder *encoder;
    Tokens tokens;
} Case;

static void open_case(Case *c, const char *text)
{
    *c = (Case){0};
    assert_ok(tokenizer_open(&c->tokenizer, "examples/tiny-glm5/tokenizer.json"));
    assert_ok(encoder_new(&c->encoder, c->tokenizer));
    assert_ok(tokenizer_encode(c->encoder, text, strlen(text), &c->tokens));
}

static void close_case(Case *c)
{
    tokens_free(&c->tokens);
    encoder_free(c->encoder);
    tokenizer_close(c->tokenizer);
}

/* What is shown, piece by piece, is the text before the stop string. */
static void check_stop(const char *text, char *stop, const char *expected, bool stops)
{
    Case c;
    Answer answer;
    char shown[512] = "";
    size_t from;
    open_case(&c, text);
    answer_open(&answer, c.tokenizer, 1, &stop);
    for (size_t i = 0; i < c.tokens.n; i++) {
        assert_ok(answer_put(&answer, c.tokens.items[i].id, &from));
        strncat(shown, answer.text.data + from, answer.shown - from);
    }
    assert_ok(answer_end(&answer, &from));
    strncat(shown, answer.text.data + from, answer.shown - from);
    assert_string_equal(shown, expected);
    assert_string_equal(answer.text.data, expected);
    assert_int_equal(answer.stopped, stops);
    answer_free(&answer);
    close_case(&c);
}

static void a_stop_string_ends_the_text_wherever_tokens_part_it(void **state)
{
    (void)state;
    check_stop("A dog and a river.", "river", "A dog and a ", true);
    check_stop("A dog and a river.", "d a", "A dog an", true);
    check_stop("A dog and a river.", "riverside", "A dog and a river.", false); /* its beginning waited, and is shown */
    check_stop("A dog and a river.", "A", "", true);
    check_stop("one\n\ntwo", "\n\n", "one", true);
}

static Text text_of(const char *words)
{
    Text text = {0};
    text_put(&text, words);
    return text;
}

static void check_parts(const char *words, bool thinking, const char *thought, const char *content, const char *calls)
{
    Text text = text_of(words);
    AnswerParts p = answer_parts(&text, thinking);
    assert_int_equal(p.thought_end - p.thought, strlen(thought));
    assert_memory_equal(words + p.thought, thought, strlen(thought));
    assert_int_equal(p.content_end - p.content, strlen(content));
    assert_memory_equal(words + p.content, content, strlen(content));
    assert_string_equal(words + p.calls, calls);
    text_free(&text);
}

static void thought_content_and_calls_lie_apart(void **state)
{
    (void)state;
    check_parts("plain", false, "", "plain", "");
    check_parts("still thinking", true, "still thinking", "", "");
    check_parts("thought</think>said", true, "thought", "said", "");
    check_parts("<think>thought</think>said", false, "thought", "said", "");
    check_parts("said<tool_call>f</tool_call>", false, "", "said", "<tool_call>f</tool_call>");
}

static void calls_become_messages(void **state)
{
    (void)state;
    char *text;
    Json *calls = answer_calls("<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo "
                               "</arg_value>\n<arg_key>days</arg_key><arg_value>3</arg_value></tool_call>"
                               "<tool_call>now</tool_call><tool_call>broken");
    assert_ok(json_print(calls, false, &text));
    assert_string_equal(text, "[{\"function\":{\"name\":\"weather\",\"arguments\":{\"city\":\"Oslo\",\"days\":\"3\"}}},"
                              "{\"function\":{\"name\":\"now\",\"arguments\":{}}}]");
    free(text);
    json_free(calls);
}

static void check_extract(const char *regex, const char *text, const char *expected)
{
    Regex *pattern;
    RegexMatcher *matcher;
    Text found = {0};
    assert_ok(regex_open(&pattern, regex, false));
    assert_ok(regex_matcher_new(&matcher));
    assert_ok(exact_match_extract(pattern, matcher, text, strlen(text), &found));
    assert_int_equal(found.n, strlen(expected));
    assert_memory_equal(found.data ? found.data : "", expected, strlen(expected));
    text_free(&found);
    regex_matcher_free(matcher);
    regex_close(pattern);
}

static void the_last_match_after_the_thought_is_the_answer(void **state)
{
    (void)state;
    const char *gsm8k = "(?<=#### )-?[0-9][0-9.,]*";
    check_extract(gsm8k, "3 + 4 = 7\n#### 7", "7");
    check_extract(gsm8k, "#### 1\n#### 1,234.", "1234");
    check_extract(gsm8k, "#### 5</think>no answer", "");
    check_extract(gsm8k, "#### -12.5 apples", "-12.5");
    check_extract("-?[0-9][0-9.,]*", "first 3, then 18.", "18");
    check_extract("[A-D]", "", "");
}

static bool holds(const char *text, double own, double base)
{
    FailCondition condition;
    Summary a = {.n = 1, .metrics = {{.name = "loss", .value = own}}},
            b = {.n = 1, .metrics = {{.name = "loss", .value = base}}};
    assert_ok(fail_condition_read(&condition, text));
    return fail_condition_holds(&condition, &a, &b);
}

static void conditions_hold_when_they_say_so(void **state)
{
    (void)state;
    FailCondition condition;
    assert_true(holds("loss > base", 2, 1));
    assert_false(holds("loss > base", 1, 1));
    assert_true(holds("loss>=base", 1, 1));
    assert_false(holds("loss > base + 0.5", 1.4, 1));
    assert_true(holds("loss > base - 0.5", 0.6, 1));
    assert_true(holds(" loss < base * 2 ", 1.9, 1));
    assert_true(holds("loss > 1e-3", 0.002, 1));
    assert_true(holds("loss > 100", (double)NAN, 1));
    assert_false(holds("accuracy < base", 1, 2)); /* not a metric of these records */
    assert_fails(fail_condition_read(&condition, "los > base"), ERR_USAGE, "there is no metric los");
    assert_fails(fail_condition_read(&condition, "loss = 3"), ERR_USAGE, "expected METRIC");
    assert_fails(fail_condition_read(&condition, "loss > base / 2"), ERR_USAGE, "expected METRIC");
    assert_fails(fail_condition_read(&condition, "loss > three"), ERR_USAGE, "expected METRIC");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stop_string_ends_the_text_wherever_tokens_part_it),
        cmocka_unit_test(thought_content_and_calls_lie_apart),
        cmocka_unit_test(calls_become_messages),
        cmocka_unit_test(the_last_match_after_the_thought_is_the_answer),
        cmocka_unit_test(conditions_hold_when_they_say_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
