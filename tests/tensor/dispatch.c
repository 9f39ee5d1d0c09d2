/* The choice of a compute path: its name, and what happens with a name that is unknown. */
#include "tensor/dispatch.h"

#include "tests/support/chains.h"

#include <string.h>

static void the_path_is_named_and_an_unknown_one_refused(void **state)
{
    (void)state;
    assert_true(dispatch_init("plain"));
    assert_string_equal(dispatch_path(), "fp32/plain");
    assert_false(dispatch_init("abacus"));
    assert_false(dispatch_init("fp32/abacus"));
    assert_string_equal(dispatch_path(), "fp32/plain");
    assert_true(dispatch_init("fp32"));
    assert_int_equal(strncmp(dispatch_path(), "fp32/", 5), 0);
    assert_true(dispatch_init("fp32/plain"));
    assert_string_equal(dispatch_path(), "fp32/plain");
    if (has_path(N_PATHS - 1)) assert_string_equal(dispatch_path(), "bf16/avx512bf16");
    assert_true(dispatch_init("auto"));
    assert_true(dispatch_init(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_path_is_named_and_an_unknown_one_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
