/* Members, items and strings of JSON that is read in place. */
#include "data/text/json_view.h"
#include "tests/support/check.h"

#include <string.h>

static JsonView opened(const char *text)
{
    JsonView value;
    assert_ok(view_open(&value, text, strlen(text)));
    return value;
}

static void members_are_found_by_their_unescaped_names(void **state)
{
    (void)state;
    JsonView object = opened("{\"x\":{\"k\":\"]}\\\"\"}, \"k\" : [1, {\"k\": 2}], \"\\u006b\\\\\": 7, \"k\":\"last\"}");
    assert_true(view_equals(view_find(object, "k"), "last")); /* of two members the last counts, as in Python */
    assert_true(view_equals(view_find(view_find(object, "x"), "k"), "]}\""));
    assert_int_equal(*view_find(object, "k\\").at, '7');
    assert_null(view_find(object, "nobody").at);
    assert_null(view_find(view_find(object, "k"), "k").at);
}

static void strings_keep_their_zero_bytes(void **state)
{
    (void)state;
    Text out = {0};
    view_string(&out, opened("\"a\\u0000b\""));
    assert_int_equal(out.n, 3);
    assert_memory_equal(out.data, "a\0b", 3);
    text_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_are_found_by_their_unescaped_names),
        cmocka_unit_test(strings_keep_their_zero_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
