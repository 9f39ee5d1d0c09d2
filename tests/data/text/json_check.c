/* JSON that is accepted and refused, and the position in the error. */
#include "data/text/json_check.h"
#include "tests/support/check.h"

#include <string.h>

static void a_value_is_found_between_white_space(void **state)
{
    const char *text = " \t{\"a\": [1, -2.5e3, \"\\u00e9\", true, null]}\r\n", *begin, *end;
    (void)state;
    assert_ok(json_check(text, strlen(text), &begin, &end));
    assert_int_equal(begin - text, 2);
    assert_int_equal(end - text, strlen(text) - 2);
}

static void what_is_not_json_is_refused_with_its_position(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"", "ends at line 1, column 1; expected a value"},
                                           {"{\"a\":}", "column 6: '}'; expected a value"},
                                           {"[1,]", "expected a value"},
                                           {"{\"a\" 1}", "a colon"},
                                           {"{a:1}", "a key in quotes"},
                                           {"[1 2]", "a comma or ]"},
                                           {"\"abc", "the end of a string"},
                                           {"\"a\nb\"", "byte 0x0A"},
                                           {"01", "nothing after the value"},
                                           {"1.", "a digit"},
                                           {"-", "a digit"},
                                           {"NaN", "a value"},
                                           {"[1] x", "nothing after"},
                                           {"{\n\"a\":\ntru}", "line 3, column 1"},
                                           {"\"\\ud800\"", "surrogate pair"},
                                           {"\"\\udc00\"", "surrogate pair"},
                                           {"\"\\x\"", "an escape"},
                                           {"\"\\u12g4\"", "hexadecimal"},
                                           {"\"\xff\"", "valid UTF-8"},
                                           {"\"\xc3\"", "valid UTF-8"},
                                           {"\"\xed\xa0\x80\"", "valid UTF-8"}};
    const char *begin, *end;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(json_check(cases[i][0], strlen(cases[i][0]), &begin, &end), ERR_FORMAT, cases[i][1]);
    char deep[1000];
    memset(deep, '[', sizeof deep);
    assert_fails(json_check(deep, sizeof deep, &begin, &end), ERR_FORMAT, "200 levels");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_is_found_between_white_space),
        cmocka_unit_test(what_is_not_json_is_refused_with_its_position),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
