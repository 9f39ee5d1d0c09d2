/* JSON: kinds, errors with their place, typed getters, printing. */
#include "base/json.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

static Json *parse(const char *text)
{
    Json *root;
    assert_ok(json_parse(&root, text, strlen(text)));
    return root;
}

static void refuses(const char *text, const char *message)
{
    Json *root;
    assert_fails(json_parse(&root, text, strlen(text)), ERR_FORMAT, message);
    assert_null(root);
}

static void values_have_their_kinds(void **state)
{
    static const JsonKind kinds[] = {JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT};
    Json *root = parse("[null, true, -1.5e3, \"\\u00e9\\n\", [], {\"k\": 1}]");
    const Json *value = json_first(root);
    (void)state;
    assert_int_equal(json_count(root), 6);
    for (int i = 0; i < 6; i++, value = json_next(value)) assert_int_equal(json_kind(value), kinds[i]);
    assert_null(value);
    value = json_next(json_first(root));
    assert_true(json_bool(value));
    assert_true(json_number(json_next(value)) == -1500);
    assert_string_equal(json_string(json_next(json_next(value))), "\xC3\xA9\n");
    value = json_next(json_next(json_next(json_next(value))));
    assert_string_equal(json_key(json_first(value)), "k");
    assert_null(json_first(json_next(json_first(root))));
    json_free(root);
}

static void errors_give_line_and_column(void **state)
{
    (void)state;
    refuses("{\"a\": 1,\n \"b\": x}", "not valid JSON at line 2, column 7");
    refuses("", "not valid JSON at line 1, column 1");
    refuses("{\"a\": 1", "not valid JSON at line 1");
    refuses("[1] [2]", "more text after the value: not valid JSON at line 1, column 5");
}

static void text_needs_no_zero_at_its_end(void **state)
{
    Json *root;
    char *text = malloc(3); /* so that the address sanitizer sees the end */
    (void)state;
    assert_non_null(text);
    memcpy(text, "123", 3);
    assert_ok(json_parse(&root, text, 3));
    assert_true(json_number(root) == 123);
    json_free(root);
    memcpy(text, "[1,", 3);
    assert_fails(json_parse(&root, text, 3), ERR_FORMAT, "not valid JSON");
    memcpy(text, "\"ab", 3);
    assert_fails(json_parse(&root, text, 3), ERR_FORMAT, "not valid JSON");
    free(text);
}

static void deep_nesting_is_refused(void **state)
{
    static char text[200001];
    Json *root;
    (void)state;
    memset(text, '[', 200000);
    assert_fails(json_parse(&root, text, 200000), ERR_FORMAT, "not valid JSON");
}

static void getters_name_key_found_and_expected(void **state)
{
    Json *root = parse(
        "{\"n\": 3, \"x\": 0.5, \"s\": \"t\", \"b\": true, \"a\": [1], \"o\": {}, \"z\": null, \"big\": 1e300}");
    int64_t n = 0;
    double x = 0;
    bool b = false;
    const char *s = NULL;
    const Json *part;
    (void)state;
    assert_ok(json_get_int(root, "n", 1, 3, &n));
    assert_ok(json_get_number(root, "x", &x));
    assert_ok(json_get_bool(root, "b", &b));
    assert_ok(json_get_string(root, "s", &s));
    assert_ok(json_get_array(root, "a", &part));
    assert_ok(json_get_object(root, "o", &part));
    assert_true(n == 3 && x == 0.5 && b);
    assert_string_equal(s, "t");
    assert_fails(json_get_int(root, "gone", 0, 1, &n), ERR_FORMAT, "key gone is missing; expected an integer");
    assert_fails(json_get_int(root, "n", 4, 5, &n), ERR_FORMAT, "key n is 3; expected 4 to 5");
    assert_fails(json_get_int(root, "x", 0, 1, &n), ERR_FORMAT, "key x is 0.5; expected an integer");
    assert_fails(json_get_int(root, "big", INT64_MIN, INT64_MAX, &n), ERR_FORMAT, "expected an integer");
    assert_fails(json_get_int(root, "z", 0, 1, &n), ERR_FORMAT, "key z is null; expected an integer");
    assert_fails(json_get_number(root, "s", &x), ERR_FORMAT, "key s is a string; expected a number");
    assert_fails(json_get_bool(root, "n", &b), ERR_FORMAT, "key n is a number; expected true or false");
    assert_fails(json_get_string(root, "b", &s), ERR_FORMAT, "key b is true or false; expected a string");
    assert_fails(json_get_array(root, "o", &part), ERR_FORMAT, "key o is an object; expected an array");
    assert_fails(json_get_object(root, "a", &part), ERR_FORMAT, "key a is an array; expected an object");
    assert_int_equal(n, 3);
    json_free(root);
}

static void an_absent_optional_member_changes_nothing(void **state)
{
    Json *root = parse("{\"null\": null, \"n\": 3}");
    int64_t n = 7;
    double x = 0.5;
    bool b = true;
    const char *s = "s";
    (void)state;
    assert_ok(json_may_int(root, "null", 0, 1, &n));
    assert_ok(json_may_int(root, "gone", 0, 1, &n));
    assert_ok(json_may_number(root, "null", &x));
    assert_ok(json_may_bool(root, "gone", &b));
    assert_ok(json_may_string(root, "null", &s));
    assert_true(n == 7 && x == 0.5 && b && strcmp(s, "s") == 0);
    assert_fails(json_may_string(root, "n", &s), ERR_FORMAT, "key n is a number");
    json_free(root);
}

static void a_built_value_is_printed_and_read_back(void **state)
{
    Json *root = json_new_object(), *list = json_new_array(), *again;
    char *text;
    (void)state;
    json_add_number(list, NULL, 0.1);
    json_add_number(list, NULL, 9007199254740991.0);
    json_add_string(root, "text", "a \"b\"\n");
    json_add_bool(root, "yes", true);
    json_add_null(root, "none");
    json_add(root, "list", list);
    json_set(root, "yes", json_duplicate(json_find(root, "none")));
    json_set(root, "more", json_new_array());
    assert_ok(json_print(root, false, &text));
    assert_string_equal(
        text, "{\"text\":\"a \\\"b\\\"\\n\",\"yes\":null,\"none\":null,\"list\":[0.1,9007199254740991],\"more\":[]}");
    again = parse(text);
    assert_true(json_equal(root, again));
    json_set(again, "more", json_new_object());
    assert_false(json_equal(root, again));
    json_free(root);
    json_free(again);
    free(text);
}

static void every_number_reads_back_as_itself(void **state)
{
    static const double numbers[] = {
        0.1 + 0.2, 1.0 / 3,           1e-300, 5e-324, 1.7976931348623157e308,  9007199254740993.0,
        1e15,      123456789012345.0, -0.5,   1e22,   2.2250738585072014e-308, 0.1f};
    (void)state;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        Json *list = json_new_array();
        char *text;
        json_add_number(list, NULL, numbers[i]);
        assert_ok(json_print(list, false, &text));
        Json *again = parse(text);
        assert_true(json_number(json_first(again)) == numbers[i]);
        json_free(again), json_free(list);
        free(text);
    }
}

static void pretty_text_is_indented_by_two(void **state)
{
    Json *root = parse("{\"a\":[1,{\"b\":\"\\u0001\\t\\\\\"}],\"c\":{},\"d\":[]}");
    char *text;
    (void)state;
    assert_ok(json_print(root, true, &text));
    assert_string_equal(
        text,
        "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"\\u0001\\t\\\\\"\n    }\n  ],\n  \"c\": {},\n  \"d\": []\n}");
    free(text);
    json_free(root);
}

static void a_file_is_named_in_errors(void **state)
{
    char path[PATH_BYTES];
    Json *root;
    assert_ok(file_write(scratch_path(state, "broken.json", path), "{", 1));
    assert_fails(json_read_file(&root, path), ERR_FORMAT, "broken.json: not valid JSON at line 1");
    assert_fails(json_read_file(&root, "nowhere.json"), ERR_IO, "nowhere.json");
}

static void a_key_that_stands_twice_in_a_file_is_named(void **state)
{
    char path[PATH_BYTES];
    Json *root;
    static const char twice[] = "{\"a\": [{\"r\": 8, \"b\": 1, \"\\u0072\": 16}], \"r\": 1}",
                      once[] = "{\"r\": {\"r\": {\"r\": 1}}, \"R\": 2}";
    assert_ok(file_write(scratch_path(state, "twice.json", path), twice, strlen(twice)));
    assert_fails(json_read_file(&root, path), ERR_FORMAT, "twice.json: key r stands twice in one object; keep one");
    assert_null(root);
    assert_ok(file_write(path, once, strlen(once)));
    assert_ok(json_read_file(&root, path));
    json_free(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_have_their_kinds),
        cmocka_unit_test(errors_give_line_and_column),
        cmocka_unit_test(text_needs_no_zero_at_its_end),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(getters_name_key_found_and_expected),
        cmocka_unit_test(an_absent_optional_member_changes_nothing),
        cmocka_unit_test(a_built_value_is_printed_and_read_back),
        cmocka_unit_test(every_number_reads_back_as_itself),
        cmocka_unit_test(pretty_text_is_indented_by_two),
        scratch_test(a_file_is_named_in_errors),
        scratch_test(a_key_that_stands_twice_in_a_file_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
