/* A machine is read back from its file unchanged; rates of products are interpolated between measured ones. */
#include "tests/support/check.h"

#include "base/machine.h"

#include <stdlib.h>

static const Machine measured = {2, 500, 70, 4, 24, {100, 300, 400, 450, 460, 440}, {120, 440, 800, 860, 870, 850}};

static bool near(double a, double b) { return a > b - 1e-9 && a < b + 1e-9; }

static void rates_are_interpolated_between_measured_ones(void **state)
{
    (void)state;
    for (size_t i = 0; i < MACHINE_ROWS; i++) {
        assert_true(near(machine_rate(&measured, false, (double)machine_rows[i]), measured.fp32[i]));
        assert_true(near(machine_rate(&measured, true, (double)machine_rows[i]), measured.bf16[i]));
    }
    assert_true(near(machine_rate(&measured, false, 8), 200)); /* half of the way from 4 to 16, by the logarithm */
    assert_true(near(machine_rate(&measured, false, 1), 25));
    assert_true(near(machine_rate(&measured, true, 1e6), 850));
}

static void without_measured_rates_the_rate_is_a_share_of_the_peak(void **state)
{
    (void)state;
    Machine m = {.gflops = 1000};
    assert_true(near(machine_rate(&m, false, 8), 300));
    assert_true(near(machine_rate(&m, true, 8), 300));
}

static void a_machine_is_read_back_unchanged(void **state)
{
    char path[PATH_BYTES];
    Machine m;
    bool found;
    setenv("XDG_CACHE_HOME", scratch_path(state, "cache", path), 1);
    assert_ok(machine_load(&m, &found));
    assert_false(found);
    assert_ok(machine_save(&measured));
    assert_ok(machine_load(&m, &found));
    assert_true(found);
    assert_memory_equal(&m, &measured, sizeof m);
}

static void the_cpu_has_a_name(void **state)
{
    char name[MACHINE_NAME_BYTES];
    (void)state;
    machine_cpu_name(name);
    assert_true(*name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rates_are_interpolated_between_measured_ones),
                                       cmocka_unit_test(without_measured_rates_the_rate_is_a_share_of_the_peak),
                                       scratch_test(a_machine_is_read_back_unchanged),
                                       cmocka_unit_test(the_cpu_has_a_name)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
