#include "optim/schedule.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void assert_near(double found, double expected)
{
    if (fabs(found - expected) > 1e-15) fail_msg("found %.17g, expected %.17g", found, expected);
}

static void warm_up_rises_from_zero_on_a_line(void **state)
{
    (void)state;
    for (int kind = 0; kind < SCHEDULE_COUNT; kind++) {
        assert_near(schedule_rate((ScheduleKind)kind, 0.5, 0, 4, 10), 0);
        assert_near(schedule_rate((ScheduleKind)kind, 0.5, 3, 4, 10), 0.375);
        assert_near(schedule_rate((ScheduleKind)kind, 0.5, 4, 4, 10), 0.5);
    }
}

static void without_warm_up_the_first_step_has_the_full_rate(void **state)
{
    (void)state;
    for (int kind = 0; kind < SCHEDULE_COUNT; kind++) assert_near(schedule_rate((ScheduleKind)kind, 2e-4, 0, 0, 7), 2e-4);
}

static void constant_stays(void **state)
{
    (void)state;
    for (uint64_t k = 4; k < 12; k++) assert_near(schedule_rate(SCHEDULE_CONSTANT, 0.5, k, 4, 10), 0.5);
}

static void linear_falls_to_zero_at_the_end_and_stays(void **state)
{
    (void)state;
    assert_near(schedule_rate(SCHEDULE_LINEAR, 0.5, 7, 4, 10), 0.25);
    assert_near(schedule_rate(SCHEDULE_LINEAR, 0.5, 9, 4, 10), 0.5 / 6);
    assert_near(schedule_rate(SCHEDULE_LINEAR, 0.5, 10, 4, 10), 0);
    assert_near(schedule_rate(SCHEDULE_LINEAR, 0.5, 13, 4, 10), 0);
}

static void cosine_falls_along_half_a_wave(void **state)
{
    (void)state;
    for (uint64_t k = 4; k <= 10; k++)
        assert_near(schedule_rate(SCHEDULE_COSINE, 0.5, k, 4, 10), 0.25 * (1 + cos(acos(-1) * (double)(k - 4) / 6)));
}

static void a_warm_up_longer_than_the_run_divides_by_one(void **state)
{
    (void)state;
    assert_near(schedule_rate(SCHEDULE_LINEAR, 1, 5, 5, 3), 0);
    assert_near(schedule_rate(SCHEDULE_LINEAR, 1, 2, 5, 3), 0.4);
}

static void a_ratio_is_rounded_up(void **state)
{
    (void)state;
    assert_int_equal(schedule_warmup_steps(10, 0.1), 1);
    assert_int_equal(schedule_warmup_steps(11, 0.1), 2);
    assert_int_equal(schedule_warmup_steps(10, 0), 0);
}

static void names_go_both_ways(void **state)
{
    (void)state;
    ScheduleKind kind;
    for (int i = 0; i < SCHEDULE_COUNT; i++) {
        assert_true(schedule_from_name(&kind, schedule_name((ScheduleKind)i)));
        assert_int_equal(kind, i);
    }
    assert_true(schedule_from_name(&kind, "constant_with_warmup") && kind == SCHEDULE_CONSTANT);
    assert_string_equal(schedule_name(SCHEDULE_CONSTANT), "constant");
    assert_false(schedule_from_name(&kind, "cosines"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_up_rises_from_zero_on_a_line),
        cmocka_unit_test(without_warm_up_the_first_step_has_the_full_rate),
        cmocka_unit_test(constant_stays),
        cmocka_unit_test(linear_falls_to_zero_at_the_end_and_stays),
        cmocka_unit_test(cosine_falls_along_half_a_wave),
        cmocka_unit_test(a_warm_up_longer_than_the_run_divides_by_one),
        cmocka_unit_test(a_ratio_is_rounded_up),
        cmocka_unit_test(names_go_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
