/* Seconds by name, layer and pass, and their JSON rows. */
#include "base/timing.h"

#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>

/* Note a second, and hardly more, for a name. */
static void pass(Timing *timing, const char *name, long layer, TimingPass which)
{
    timing_layer(timing, layer);
    timing_mark(timing);
    timing->mark -= 1; /* the clock started a second ago */
    timing_note(timing, name, which);
}

static void time_is_kept_by_name_layer_and_pass(void **state)
{
    (void)state;
    Timing timing = {0};
    for (int step = 0; step < 2; step++) {
        pass(&timing, "a", 0, TIMING_FORWARD);
        pass(&timing, "b", 0, TIMING_FORWARD);
        pass(&timing, "a", 1, TIMING_FORWARD);
        pass(&timing, "a", 1, TIMING_BACKWARD);
        pass(&timing, "b", TIMING_OUTSIDE, TIMING_BACKWARD);
    }
    assert_int_equal(timing.n, 4);
    assert_true(fabs(timing_seconds(&timing, "a", TIMING_ALL) - 6) < 0.5);
    assert_true(fabs(timing_seconds(&timing, "a", 1) - 4) < 0.5);
    assert_true(fabs(timing_seconds(&timing, "b", 0) - 2) < 0.5);
    assert_true(fabs(timing_seconds(&timing, NULL, TIMING_ALL) - 10) < 0.5);
    assert_true(fabs(timing_seconds(&timing, NULL, TIMING_OUTSIDE) - 2) < 0.5);
    assert_true(timing_seconds(&timing, "c", TIMING_ALL) == 0);
    timing_free(&timing);
}

static void json_has_a_row_for_each_name_and_layer(void **state)
{
    (void)state;
    Timing timing = {0};
    pass(&timing, "a", 3, TIMING_FORWARD);
    pass(&timing, "a", 3, TIMING_FORWARD);
    pass(&timing, "b", TIMING_OUTSIDE, TIMING_BACKWARD);
    Json *rows = timing_json(&timing, 2);
    const Json *a = json_first(rows), *b = json_next(a);
    assert_int_equal(json_count(rows), 2);
    assert_string_equal(json_string(json_find(a, "operation")), "a");
    assert_true(json_number(json_find(a, "layer")) == 3);
    assert_true(json_number(json_find(a, "calls")) == 1);
    assert_true(fabs(json_number(json_find(a, "up_ms")) - 1000) < 300);
    assert_true(json_number(json_find(a, "down_ms")) == 0);
    assert_int_equal(json_kind(json_find(b, "layer")), JSON_NULL);
    json_free(rows);
    timing_clear(&timing);
    assert_true(timing_seconds(&timing, NULL, TIMING_ALL) == 0);
    timing_free(&timing);
}

static void without_a_timing_nothing_happens(void **state)
{
    (void)state;
    timing_layer(NULL, 1);
    timing_mark(NULL);
    timing_note(NULL, "a", TIMING_FORWARD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_is_kept_by_name_layer_and_pass),
        cmocka_unit_test(json_has_a_row_for_each_name_and_layer),
        cmocka_unit_test(without_a_timing_nothing_happens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
