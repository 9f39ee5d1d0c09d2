#include "data/raw.h"
#include "tests/support/check.h"

#include <string.h>

static Raw opened(const char *text)
{
    Raw value;
    assert_ok(raw_open(&value, text, strlen(text)));
    return value;
}

static void assert_python(const char *text, const char *expected)
{
    Text out = {0};
    assert_ok(raw_python(&out, opened(text)));
    assert_string_equal(out.data, expected);
    text_free(&out);
}

static void numbers_are_written_as_python_writes_them(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"1", "1"}, {"-0", "0"}, {"-0.0", "-0.0"}, {"1.0", "1.0"}, {"1e5", "100000.0"}, {"1E+20", "1e+20"}, {"1e16", "1e+16"},
        {"1e15", "1000000000000000.0"}, {"123456789012345678901234567890", "123456789012345678901234567890"},
        {"0.0001", "0.0001"}, {"0.00001", "1e-05"}, {"0.1", "0.1"}, {"0.30000000000000004", "0.30000000000000004"},
        {"5e-324", "5e-324"}, {"1.7976931348623157e308", "1.7976931348623157e+308"}, {"1e999", "Infinity"}, {"-1e999", "-Infinity"},
        {"5.684341886080802e-14", "5.684341886080802e-14"}, /* 2^-44: the nearest 16 digits are not the shortest */
        {"9007199254740993.0", "9007199254740992.0"}, {"1.5e-7", "1.5e-07"}, {"123.456", "123.456"}, {"100.0", "100.0"},
        {"2.2250738585072014e-308", "2.2250738585072014e-308"}, {"9.5367431640625e-07", "9.5367431640625e-07"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) assert_python(pairs[i][0], pairs[i][1]);
}

static void containers_get_pythons_separators_and_escapes(void **state)
{
    (void)state;
    assert_python(" { \"b\" :[1 ,2],\n\"a\":{ },\"c\":[ ] , \"\\u00e9\":null} ", "{\"b\": [1, 2], \"a\": {}, \"c\": [], \"é\": null}");
    assert_python("\"\\/<>&\\u0041\\u001f\\u007f\\u2028\\n\\\"\\\\\\ud83d\\ude42\"", "\"/<>&A\\u001f\x7f\xE2\x80\xA8\\n\\\"\\\\🙂\"");
    assert_python("[true,false,null]", "[true, false, null]");
}

static void a_key_given_twice_is_refused_however_it_is_spelled(void **state)
{
    (void)state;
    Text out = {0};
    assert_fails(raw_python(&out, opened("{\"a\":1,\"b\":2,\"\\u0061\":3}")), ERR_DATA, "key \"a\" appears twice");
    text_free(&out);
}

static void what_is_not_json_is_refused_with_its_place(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", "ends at line 1, column 1; expected a value"}, {"{\"a\":}", "column 6: '}'; expected a value"},
        {"[1,]", "expected a value"}, {"{\"a\" 1}", "a colon"}, {"{a:1}", "a key in quotes"}, {"[1 2]", "a comma or ]"},
        {"\"abc", "the end of a string"}, {"\"a\nb\"", "byte 0x0A"}, {"01", "nothing after the value"}, {"1.", "a digit"},
        {"-", "a digit"}, {"NaN", "a value"}, {"[1] x", "nothing after"}, {"{\n\"a\":\ntru}", "line 3, column 1"},
        {"\"\\ud800\"", "surrogate pair"}, {"\"\\udc00\"", "surrogate pair"}, {"\"\\x\"", "an escape"}, {"\"\\u12g4\"", "hexadecimal"},
        {"\"\xff\"", "valid UTF-8"}, {"\"\xc3\"", "valid UTF-8"}, {"\"\xed\xa0\x80\"", "valid UTF-8"}};
    Raw value;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(raw_open(&value, cases[i][0], strlen(cases[i][0])), ERR_FORMAT, cases[i][1]);
    char deep[1000];
    memset(deep, '[', sizeof deep);
    assert_fails(raw_open(&value, deep, sizeof deep), ERR_FORMAT, "200 levels");
}

static void members_are_found_by_their_unescaped_names(void **state)
{
    (void)state;
    Raw object = opened("{\"x\":{\"k\":\"]}\\\"\"}, \"k\" : [1, {\"k\": 2}], \"\\u006b\\\\\": 7, \"k\":\"last\"}");
    assert_true(raw_equals(raw_find(object, "k"), "last")); /* as Python keeps the last of two */
    assert_true(raw_equals(raw_find(raw_find(object, "x"), "k"), "]}\""));
    assert_int_equal(*raw_find(object, "k\\").at, '7');
    assert_null(raw_find(object, "nobody").at);
    assert_null(raw_find(raw_find(object, "k"), "k").at);
}

static void strings_keep_their_zeros(void **state)
{
    (void)state;
    Text out = {0};
    raw_string(&out, opened("\"a\\u0000b\""));
    assert_int_equal(out.n, 3);
    assert_memory_equal(out.data, "a\0b", 3);
    text_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_written_as_python_writes_them),
        cmocka_unit_test(containers_get_pythons_separators_and_escapes),
        cmocka_unit_test(a_key_given_twice_is_refused_however_it_is_spelled),
        cmocka_unit_test(what_is_not_json_is_refused_with_its_place),
        cmocka_unit_test(members_are_found_by_their_unescaped_names),
        cmocka_unit_test(strings_keep_their_zeros),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
