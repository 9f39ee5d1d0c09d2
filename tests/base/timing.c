#include "base/timing.h"

#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>

/* A second, and hardly more, for a name. */
static void pass(Profile *p, const char *name, long layer, ProfileWay way)
{
    profile_layer(p, layer);
    profile_mark(p);
    p->mark -= 1; /* the clock started a second ago */
    profile_note(p, name, way);
}

static void time_is_kept_by_name_layer_and_way(void **state)
{
    (void)state;
    Profile p = {0};
    for (int step = 0; step < 2; step++) {
        pass(&p, "a", 0, PROFILE_UP);
        pass(&p, "b", 0, PROFILE_UP);
        pass(&p, "a", 1, PROFILE_UP);
        pass(&p, "a", 1, PROFILE_DOWN);
        pass(&p, "b", PROFILE_OUTSIDE, PROFILE_DOWN);
    }
    assert_int_equal(p.n, 4);
    assert_true(fabs(profile_seconds(&p, "a", PROFILE_ALL) - 6) < 0.5);
    assert_true(fabs(profile_seconds(&p, "a", 1) - 4) < 0.5);
    assert_true(fabs(profile_seconds(&p, "b", 0) - 2) < 0.5);
    assert_true(fabs(profile_seconds(&p, NULL, PROFILE_ALL) - 10) < 0.5);
    assert_true(fabs(profile_seconds(&p, NULL, PROFILE_OUTSIDE) - 2) < 0.5);
    assert_true(profile_seconds(&p, "c", PROFILE_ALL) == 0);
    profile_free(&p);
}

static void a_record_has_a_row_for_each_and_null_outside_of_layers(void **state)
{
    (void)state;
    Profile p = {0};
    pass(&p, "a", 3, PROFILE_UP);
    pass(&p, "a", 3, PROFILE_UP);
    pass(&p, "b", PROFILE_OUTSIDE, PROFILE_DOWN);
    Json *rows = profile_json(&p, 2);
    const Json *a = json_first(rows), *b = json_next(a);
    assert_int_equal(json_count(rows), 2);
    assert_string_equal(json_string(json_find(a, "operation")), "a");
    assert_true(json_number(json_find(a, "layer")) == 3);
    assert_true(json_number(json_find(a, "calls")) == 1);
    assert_true(fabs(json_number(json_find(a, "up_ms")) - 1000) < 300);
    assert_true(json_number(json_find(a, "down_ms")) == 0);
    assert_int_equal(json_kind(json_find(b, "layer")), JSON_NULL);
    json_free(rows);
    profile_clear(&p);
    assert_true(profile_seconds(&p, NULL, PROFILE_ALL) == 0);
    profile_free(&p);
}

static void nobody_who_looks_costs_nothing(void **state)
{
    (void)state;
    profile_layer(NULL, 1);
    profile_mark(NULL);
    profile_note(NULL, "a", PROFILE_UP);
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
