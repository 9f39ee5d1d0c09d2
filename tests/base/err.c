/* Errors: context, the first of two, errno, TRY. */
#include "base/err.h"
#include "tests/support/check.h"

#include <errno.h>

static void context_goes_before_the_message(void **state)
{
    Err *err = err_new(ERR_FORMAT, "r is %d", 16);
    (void)state;
    err = err_wrap(err, "layers.%d", 3);
    err = err_wrap(err, "resume");
    assert_int_equal(err_kind(err), ERR_FORMAT);
    assert_string_equal(err_message(err), "resume: layers.3: r is 16");
    err_free(err);
}

static void success_stays_success(void **state)
{
    (void)state;
    assert_null(err_wrap(NULL, "open %s", "x"));
    assert_null(err_first(NULL, NULL));
    assert_int_equal(err_report("test", NULL), 0);
    err_free(NULL);
}

static void the_first_of_two_errors_is_kept(void **state)
{
    (void)state;
    assert_fails(err_first(err_new(ERR_DATA, "one"), err_new(ERR_IO, "two")), ERR_DATA, "one");
    assert_fails(err_first(NULL, err_new(ERR_IO, "two")), ERR_IO, "two");
    assert_fails(err_first(err_new(ERR_DATA, "one"), NULL), ERR_DATA, "one");
}

static void errno_is_put_into_words(void **state)
{
    (void)state;
    errno = ENOENT;
    assert_fails(err_errno("open %s", "x.h5"), ERR_IO, "open x.h5: No such file or directory");
    errno = ENOMEM;
    assert_fails(err_errno("map"), ERR_MEMORY, "map: ");
}

static Err *fails_below(int *reached)
{
    TRY(NULL);
    TRY(err_new(ERR_COMM, "below"));
    *reached = 1;
    return NULL;
}

static void try_returns_the_error(void **state)
{
    int reached = 0;
    (void)state;
    assert_fails(fails_below(&reached), ERR_COMM, "below");
    assert_int_equal(reached, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(context_goes_before_the_message), cmocka_unit_test(success_stays_success),
        cmocka_unit_test(the_first_of_two_errors_is_kept), cmocka_unit_test(errno_is_put_into_words),
        cmocka_unit_test(try_returns_the_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
