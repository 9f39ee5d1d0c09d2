/* Learning rates: every schedule at chosen steps, and arguments that are refused. */
#include "optim/schedule.h"

#include "tests/support/check.h"

#include <math.h>
#include <string.h>

static void assert_near(double found, double expected)
{
    if (fabs(found - expected) > 1e-15) fail_msg("found %.17g, expected %.17g", found, expected);
}

static Err *open_schedule(Schedule *s, const char *name, const char *kwargs, uint64_t warmup, uint64_t total)
{
    Json *json = NULL;
    if (kwargs) assert_ok(json_parse(&json, kwargs, strlen(kwargs)));
    Err *err = schedule_init(s, name, json, 0.5, warmup, total);
    json_free(json);
    return err;
}

static Schedule schedule(const char *name, const char *kwargs, uint64_t warmup, uint64_t total)
{
    Schedule s;
    assert_ok(open_schedule(&s, name, kwargs, warmup, total));
    return s;
}

static const struct {
    const char *name, *kwargs;
} all[] = {{"constant", NULL},
           {"constant_with_warmup", "{}"},
           {"linear", NULL},
           {"cosine", NULL},
           {"cosine_with_min_lr", "{\"min_lr_rate\": 0.1}"},
           {"warmup_stable_decay", "{\"num_decay_steps\": 3}"}};
enum { N_ALL = sizeof all / sizeof *all };

static void warm_up_rises_from_zero_on_a_line(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ALL; i++) {
        Schedule s = schedule(all[i].name, all[i].kwargs, 4, 10);
        assert_near(schedule_rate(&s, 0.5, 0), 0);
        assert_near(schedule_rate(&s, 0.5, 3), 0.375);
        assert_near(schedule_rate(&s, 0.5, 4), 0.5);
    }
}

static void without_warm_up_the_first_step_has_the_full_rate(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ALL; i++) {
        Schedule s = schedule(all[i].name, all[i].kwargs, 0, 7);
        assert_near(schedule_rate(&s, 2e-4, 0), 2e-4);
    }
}

static void a_constant_rate_does_not_change(void **state)
{
    (void)state;
    Schedule s = schedule("constant", NULL, 4, 10);
    for (uint64_t k = 4; k < 12; k++) assert_near(schedule_rate(&s, 0.5, k), 0.5);
}

static void linear_falls_to_zero_at_the_end(void **state)
{
    (void)state;
    Schedule s = schedule("linear", NULL, 4, 10);
    assert_near(schedule_rate(&s, 0.5, 7), 0.25);
    assert_near(schedule_rate(&s, 0.5, 9), 0.5 / 6);
    assert_near(schedule_rate(&s, 0.5, 10), 0);
    assert_near(schedule_rate(&s, 0.5, 13), 0);
}

static void cosine_falls_along_half_a_wave(void **state)
{
    (void)state;
    Schedule s = schedule("cosine", NULL, 4, 10);
    for (uint64_t k = 4; k <= 10; k++)
        assert_near(schedule_rate(&s, 0.5, k), 0.25 * (1 + cos(acos(-1) * (double)(k - 4) / 6)));
}

static void cosine_with_a_min_lr_ends_at_it(void **state)
{
    (void)state;
    Schedule share = schedule("cosine_with_min_lr", "{\"min_lr_rate\": 0.2}", 4, 10),
             rate = schedule("cosine_with_min_lr", "{\"min_lr\": 0.1}", 4, 10);
    for (uint64_t k = 0; k <= 10; k++) assert_near(schedule_rate(&share, 0.5, k), schedule_rate(&rate, 0.5, k));
    assert_near(schedule_rate(&share, 0.5, 7), 0.3);
    assert_near(schedule_rate(&share, 0.5, 10), 0.1);
}

static void a_stable_rate_decays_in_its_last_steps(void **state)
{
    (void)state;
    Schedule s = schedule("warmup_stable_decay",
                          "{\"num_decay_steps\": 4, \"decay_type\": \"linear\", \"min_lr_ratio\": 0.2}", 2, 10);
    static const double factors[] = {0.2, 0.6, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2};
    for (uint64_t k = 0; k < 12; k++) assert_near(schedule_rate(&s, 1, k), factors[k]);
    s = schedule("warmup_stable_decay", "{\"num_decay_steps\": 4, \"decay_type\": \"1-sqrt\"}", 2, 10);
    assert_near(schedule_rate(&s, 1, 7), 0.5);
    s = schedule("warmup_stable_decay", "{\"num_decay_steps\": 4}", 2, 10);
    assert_near(schedule_rate(&s, 1, 8), 0.5);
}

static void a_warm_up_longer_than_the_run_divides_by_one(void **state)
{
    (void)state;
    Schedule s = schedule("linear", NULL, 5, 3);
    assert_near(schedule_rate(&s, 1, 5), 0);
    assert_near(schedule_rate(&s, 1, 2), 0.4);
}

static void a_ratio_is_rounded_up(void **state)
{
    (void)state;
    assert_int_equal(schedule_warmup_steps(10, 0.1), 1);
    assert_int_equal(schedule_warmup_steps(11, 0.1), 2);
    assert_int_equal(schedule_warmup_steps(10, 0), 0);
}

static void an_argument_that_a_schedule_does_not_have_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name, *kwargs, *part;
    } cases[] = {
        {"cosines", NULL, "lr_scheduler_type cosines is unknown"},
        {"cosine", "{\"min_lr\": 0.1}", "min_lr is not an argument of cosine"},
        {"cosine", "[1]", "is an array; expected an object"},
        {"cosine_with_min_lr", NULL, "needs either min_lr or min_lr_rate"},
        {"cosine_with_min_lr", "{\"min_lr\": 0.1, \"min_lr_rate\": 0.1}", "needs either"},
        {"cosine_with_min_lr", "{\"min_lr\": 0.6}", "min_lr is 0.6; expected 0 to 0.5"},
        {"cosine_with_min_lr", "{\"min_lr_rate\": \"x\"}", "min_lr_rate"},
        {"warmup_stable_decay", "{}", "needs num_decay_steps"},
        {"warmup_stable_decay", "{\"num_decay_steps\": 7}", "num_decay_steps"},
        {"warmup_stable_decay", "{\"num_decay_steps\": 2, \"decay_type\": \"steep\"}", "decay_type is \"steep\""},
        {"warmup_stable_decay", "{\"num_decay_steps\": 2, \"min_lr_ratio\": 2}", "min_lr_ratio is 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Schedule s;
        assert_fails(open_schedule(&s, cases[i].name, cases[i].kwargs, 4, 10), ERR_USAGE, cases[i].part);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_up_rises_from_zero_on_a_line),
        cmocka_unit_test(without_warm_up_the_first_step_has_the_full_rate),
        cmocka_unit_test(a_constant_rate_does_not_change),
        cmocka_unit_test(linear_falls_to_zero_at_the_end),
        cmocka_unit_test(cosine_falls_along_half_a_wave),
        cmocka_unit_test(cosine_with_a_min_lr_ends_at_it),
        cmocka_unit_test(a_stable_rate_decays_in_its_last_steps),
        cmocka_unit_test(a_warm_up_longer_than_the_run_divides_by_one),
        cmocka_unit_test(a_ratio_is_rounded_up),
        cmocka_unit_test(an_argument_that_a_schedule_does_not_have_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
