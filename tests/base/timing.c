#include "base/timing.h"

#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>

/* A second, and hardly more, for a name. */
static void pass(Timing *p, const char *name, long layer, TimingPass way)
{
    timing_layer(p, layer);
    timing_mark(p);
    p->mark -= 1; /* the clock started a second ago */
    timing_note(p, name, way);
}

static void time_is_kept_by_name_layer_and_way(void **state)
{
    (void)state;
    Timing p = {0};
    for (int step = 0; step < 2; step++) {
        pass(&p, "a", 0, TIMING_FORWARD);
        pass(&p, "b", 0, TIMING_FORWARD);
        pass(&p, "a", 1, TIMING_FORWARD);
        pass(&p, "a", 1, TIMING_BACKWARD);
        pass(&p, "b", TIMING_OUTSIDE, TIMING_BACKWARD);
    }
    assert_int_equal(p.n, 4);
    assert_true(fabs(timing_seconds(&p, "a", TIMING_ALL) - 6) < 0.5);
    assert_true(fabs(timing_seconds(&p, "a", 1) - 4) < 0.5);
    assert_true(fabs(timing_seconds(&p, "b", 0) - 2) < 0.5);
    assert_true(fabs(timing_seconds(&p, NULL, TIMING_ALL) - 10) < 0.5);
    assert_true(fabs(timing_seconds(&p, NULL, TIMING_OUTSIDE) - 2) < 0.5);
    assert_true(timing_seconds(&p, "c", TIMING_ALL) == 0);
    timing_free(&p);
}

static void a_record_has_a_row_for_each_and_null_outside_of_layers(void **state)
{
    (void)state;
    Timing p = {0};
    pass(&p, "a", 3, TIMING_FORWARD);
    pass(&p, "a", 3, TIMING_FORWARD);
    pass(&p, "b", TIMING_OUTSIDE, TIMING_BACKWARD);
    Json *rows = timing_json(&p, 2);
    const Json *a = json_first(rows), *b = json_next(a);
    assert_int_equal(json_count(rows), 2);
    assert_string_equal(json_string(json_find(a, "operation")), "a");
    assert_true(json_number(json_find(a, "layer")) == 3);
    assert_true(json_number(json_find(a, "calls")) == 1);
    assert_true(fabs(json_number(json_find(a, "up_ms")) - 1000) < 300);
    assert_true(json_number(json_find(a, "down_ms")) == 0);
    assert_int_equal(json_kind(json_find(b, "layer")), JSON_NULL);
    json_free(rows);
    timing_clear(&p);
    assert_true(timing_seconds(&p, NULL, TIMING_ALL) == 0);
    timing_free(&p);
}

static void nobody_who_looks_costs_nothing(void **state)
{
    (void)state;
    timing_layer(NULL, 1);
    timing_mark(NULL);
    timing_note(NULL, "a", TIMING_FORWARD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_is_kept_by_name_layer_and_way),
        cmocka_unit_test(a_record_has_a_row_for_each_and_null_outside_of_layers),
        cmocka_unit_test(nobody_who_looks_costs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
