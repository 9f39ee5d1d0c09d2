/* JSON values written as Python's json.dumps writes them; the expected strings are Python's. */
#include "data/chat/python_json.h"
#include "tests/support/check.h"

#include <string.h>

static JsonView opened(const char *text)
{
    JsonView value;
    assert_ok(view_open(&value, text, strlen(text)));
    return value;
}

static void assert_python(const char *text, const char *expected)
{
    Text out = {0};
    assert_ok(python_json(&out, opened(text)));
    assert_string_equal(out.data, expected);
    text_free(&out);
}

static void numbers_are_written_as_python_writes_them(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"1", "1"},
        {"-0", "0"},
        {"-0.0", "-0.0"},
        {"1.0", "1.0"},
        {"1e5", "100000.0"},
        {"1E+20", "1e+20"},
        {"1e16", "1e+16"},
        {"1e15", "1000000000000000.0"},
        {"123456789012345678901234567890", "123456789012345678901234567890"},
        {"0.0001", "0.0001"},
        {"0.00001", "1e-05"},
        {"0.1", "0.1"},
        {"0.30000000000000004", "0.30000000000000004"},
        {"5e-324", "5e-324"},
        {"1.7976931348623157e308", "1.7976931348623157e+308"},
        {"1e999", "Infinity"},
        {"-1e999", "-Infinity"},
        {"5.684341886080802e-14", "5.684341886080802e-14"}, /* 2^-44: the nearest 16 digits are not the shortest */
        {"9007199254740993.0", "9007199254740992.0"},
        {"1.5e-7", "1.5e-07"},
        {"123.456", "123.456"},
        {"100.0", "100.0"},
        {"2.2250738585072014e-308", "2.2250738585072014e-308"},
        {"9.5367431640625e-07", "9.5367431640625e-07"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_python(cases[i][0], cases[i][1]);
}

static void containers_get_pythons_separators_and_escapes(void **state)
{
    (void)state;
    assert_python(" { \"b\" :[1 ,2],\n\"a\":{ },\"c\":[ ] , \"\\u00e9\":null} ",
                  "{\"b\": [1, 2], \"a\": {}, \"c\": [], \"é\": null}");
    assert_python("\"\\/<>&\\u0041\\u001f\\u007f\\u2028\\n\\\"\\\\\\ud83d\\ude42\"",
                  "\"/<>&A\\u001f\x7f\xE2\x80\xA8\\n\\\"\\\\🙂\"");
    assert_python("[true,false,null]", "[true, false, null]");
}

static void a_key_that_appears_twice_is_refused_however_it_is_escaped(void **state)
{
    (void)state;
    Text out = {0};
    assert_fails(python_json(&out, opened("{\"a\":1,\"b\":2,\"\\u0061\":3}")), ERR_DATA, "key \"a\" appears twice");
    text_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_written_as_python_writes_them),
        cmocka_unit_test(containers_get_pythons_separators_and_escapes),
        cmocka_unit_test(a_key_that_appears_twice_is_refused_however_it_is_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
