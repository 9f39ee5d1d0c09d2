/* States in a file come back as they were, to where they were. */
#include "tests/support/check.h"

#include "train/layer_inputs.h"

enum { STATES = 7, FLOATS = 5000 };

static void up_and_down(const char *directory)
{
    LayerInputs b = {0};
    const float *was[STATES];
    for (int round = 0; round < 2; round++) {
        size_t floats = round ? FLOATS : FLOATS / 3; /* the second round is larger */
        assert_ok(layer_inputs_begin(&b, STATES, floats, directory));
        for (size_t i = 0; i < STATES; i++) {
            float *x = layer_inputs_at(&b, i);
            was[i] = x;
            for (size_t j = 0; j < floats; j++) x[j] = (float)(i * 100000 + j);
            assert_ok(layer_inputs_store(&b, i));
        }
        for (size_t i = STATES - 1; i-- > 0;) {
            assert_ok(layer_inputs_load(&b, i));
            const float *x = layer_inputs_at(&b, i);
            assert_ptr_equal(x, was[i]);
            for (size_t j = 0; j < floats; j++) assert_true(x[j] == (float)(i * 100000 + j));
        }
    }
    layer_inputs_free(&b);
}

static void states_come_back_from_memory_and_from_a_file(void **state)
{
    char path[PATH_BYTES];
    up_and_down(NULL);
    up_and_down(scratch_path(state, "", path));
}

static void a_directory_that_cannot_hold_them_is_named(void **state)
{
    LayerInputs b = {0};
    (void)state;
    assert_fails(layer_inputs_begin(&b, STATES, FLOATS, "/nowhere/at/all"), ERR_IO, "/nowhere/at/all");
    layer_inputs_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {scratch_test(states_come_back_from_memory_and_from_a_file),
                                       cmocka_unit_test(a_directory_that_cannot_hold_them_is_named)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
