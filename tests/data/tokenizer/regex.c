/* Patterns that mean in PCRE2 what they mean in Oniguruma, and those that are refused. */
#include "data/tokenizer/regex.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

static void assert_found(const char *regex, const char *text, size_t from, size_t begin, size_t end)
{
    Regex *pattern;
    RegexMatcher *matcher;
    size_t b, e;
    assert_ok(regex_open(&pattern, regex, false));
    assert_ok(regex_matcher_new(&matcher));
    assert_ok(regex_find(pattern, matcher, text, strlen(text), from, &b, &e));
    assert_int_equal(b, begin);
    assert_int_equal(e, end);
    regex_matcher_free(matcher);
    regex_close(pattern);
}

static void classes_mean_what_oniguruma_means(void **state)
{
    (void)state;
    assert_found("\\s", "a\u180eb", 0, 5, 5); /* the Mongolian separator is no white space */
    assert_found("\\s+", "a\xC2\x85\u2003b", 0, 1, 6);
    assert_found("[^\\s]+", "\u3000ab ", 0, 3, 5);
    assert_found("\\w+", "-a\u0301_9\u203f-", 0, 1, 9); /* marks and connectors belong to words */
}

static void a_search_starts_at_its_position_and_can_look_back(void **state)
{
    (void)state;
    assert_found("(?<=a)b", "abab", 2, 3, 4);
    assert_found("b", "abab", 4, 4, 4);
    assert_found("x*", "abx", 0, 2, 3); /* empty matches are skipped */
    assert_found("(?i:'s)", "x'\u017f", 0, 1, 4);
    assert_found("^b", "a\nb", 0, 2, 3);
}

static void a_literal_is_not_a_pattern(void **state)
{
    Regex *pattern;
    RegexMatcher *matcher;
    size_t begin, end;
    (void)state;
    assert_ok(regex_open(&pattern, "a.[", true));
    assert_ok(regex_matcher_new(&matcher));
    assert_ok(regex_find(pattern, matcher, "aba.[", 5, 0, &begin, &end));
    assert_int_equal(begin, 2);
    assert_int_equal(end, 5);
    regex_matcher_free(matcher);
    regex_close(pattern);
}

static void what_would_mean_something_else_is_refused(void **state)
{
    static const char *const bad[][2] = {{"\\h", "\\h is not supported"},
                                         {"\\b", "\\b is not supported"},
                                         {"\\K", "\\K"},
                                         {"\\1", "\\1"},
                                         {"(?m:a)", "group"},
                                         {"(?<n>a)", "group"},
                                         {"(*UTF)", "(*"},
                                         {"[a[b]]", "a set in a set"},
                                         {"[]a]", "] as the first"},
                                         {"[a", "without an end"},
                                         {"[\\W]", "\\W in a set"},
                                         {"a{1}+", "}+"},
                                         {"\\pL", "\\p without"},
                                         {"\\", "backslash at the end"},
                                         {"(a", "closing parenthesis"}};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Regex *pattern;
        assert_fails(regex_open(&pattern, bad[i][0], false), ERR_FORMAT, bad[i][1]);
    }
}

static void backtracking_over_a_megabyte_exceeds_no_limit(void **state)
{
    enum { N = 1 << 20 };
    char *text = malloc(N);
    Regex *pattern;
    RegexMatcher *matcher;
    size_t begin, end;
    (void)state;
    assert_non_null(text);
    memset(text, ' ', N);
    text[N - 1] = 'x';
    assert_ok(regex_open(&pattern, "\\s*[\\r\\n]+|(?:\\s|y)+z|\\s+(?!\\S)", false));
    assert_ok(regex_matcher_new(&matcher));
    assert_ok(regex_find(pattern, matcher, text, N, 0, &begin, &end));
    assert_int_equal(begin, 0);
    assert_int_equal(end, N - 2);
    regex_matcher_free(matcher);
    regex_close(pattern);
    free(text);
}

static void a_pattern_without_end_is_given_up(void **state)
{
    char text[64];
    Regex *pattern;
    RegexMatcher *matcher;
    size_t begin, end;
    (void)state;
    memset(text, 'a', sizeof text);
    assert_ok(regex_open(&pattern, "(?:a|aa|a+)+[bc]", false));
    assert_ok(regex_matcher_new(&matcher));
    assert_fails(regex_find(pattern, matcher, text, sizeof text, 0, &begin, &end), ERR_DATA,
                 "took more than 20000000 steps at byte 0 of 64");
    regex_matcher_free(matcher);
    regex_close(pattern);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_mean_what_oniguruma_means),
        cmocka_unit_test(a_search_starts_at_its_position_and_can_look_back),
        cmocka_unit_test(a_literal_is_not_a_pattern),
        cmocka_unit_test(what_would_mean_something_else_is_refused),
        cmocka_unit_test(backtracking_over_a_megabyte_exceeds_no_limit),
        cmocka_unit_test(a_pattern_without_end_is_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
