/* Random models, training steps measured on them, their records, and reports. */
#include "bench/steps.h"

#include "bench/random_model.h"
#include "bench/report.h"
#include "bench/sample.h"
#include "bench/step_record.h"
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char config[] = "tests/fixtures/model/sparse/config.json";

static const char *make_model(void **state, char directory[PATH_BYTES], const char *name, uint64_t seed)
{
    scratch_path(state, name, directory);
    assert_ok(random_model_make(config, directory, seed));
    return directory;
}

static void a_random_model_is_the_same_for_the_same_seed(void **state)
{
    char directory[PATH_BYTES], path[PATH_BYTES], *text[3];
    size_t bytes[3];
    for (uint64_t i = 0; i < 3; i++) {
        assert_ok(file_join(path, make_model(state, directory, (const char *[]){"a", "b", "c"}[i], i / 2),
                            "model.safetensors"));
        assert_ok(file_read(&text[i], &bytes[i], path));
        assert_int_equal(bytes[i], bytes[0]);
    }
    assert_memory_equal(text[0], text[1], bytes[0]);
    assert_true(memcmp(text[0], text[2], bytes[0]) != 0);
    for (size_t i = 0; i < 3; i++) free(text[i]);
}

static void an_existing_model_is_not_made_again(void **state)
{
    char folder[PATH_BYTES], directory[PATH_BYTES], weights[PATH_BYTES];
    scratch_path(state, "", folder);
    assert_ok(random_model_have(directory, folder, config, 0));
    assert_ok(file_join(weights, directory, "model.safetensors"));
    assert_ok(file_write(weights, "kept", 4));
    assert_ok(random_model_have(directory, folder, config, 0));
    char *text;
    size_t bytes;
    assert_ok(file_read(&text, &bytes, weights));
    assert_int_equal(bytes, 4);
    free(text);
    assert_fails(random_model_have(directory, folder, "tests/fixtures/model/lite/config.json", 0), ERR_USAGE,
                 "is not the config of");
    assert_fails(random_model_have(directory, folder, "nothing", 0), ERR_USAGE, "configs/nothing.json");
}

static StepsConfig three_steps(void)
{
    return (StepsConfig){.targets = "attn+experts",
                         .compute = "fp32",
                         .tokens = 24,
                         .steps = 3,
                         .warm_up = 1,
                         .r = 2,
                         .keep_layers = 9,
                         .seed = 1};
}

static double number(const Json *record, const char *key)
{
    assert_non_null(json_find(record, key));
    return json_number(json_find(record, key));
}

static void steps_are_recorded_and_repeat_exactly(void **state)
{
    char directory[PATH_BYTES];
    Json *a, *b;
    Timing timing = {0};
    StepsConfig steps = three_steps();
    make_model(state, directory, "model", 0);
    assert_ok(steps_measure(&a, directory, &steps, NULL));
    assert_ok(steps_measure(&b, directory, &steps, &timing));
    assert_string_equal(json_string(json_find(a, "model")), "model");
    assert_int_equal(json_count(json_find(a, "losses")), 4);
    assert_int_equal(json_count(json_find(a, "seconds_each")), 3);
    assert_true(json_equal(json_find(a, "losses"), json_find(b, "losses")));
    assert_true(number(a, "first_step_s") > 0 && number(a, "anonymous_bytes") > 0);
    assert_true(fabs(number(a, "share") -
                     number(a, "flop_per_token") * 24 / number(a, "seconds") / number(a, "peak_gflops") * 1e-9) < 1e-9);
    assert_null(json_find(a, "profile"));
    double noted = timing_seconds(&timing, NULL, TIMING_ALL), whole = step_record_seconds(b);
    if (!(noted > 0.3 * whole && noted < whole)) fail_msg("the timing accounts for %g of %g seconds", noted, whole);
    assert_true(timing_seconds(&timing, "experts", 0) == 0); /* a dense layer */
    assert_true(timing_seconds(&timing, "experts", 1) > 0 && timing_seconds(&timing, "loss", TIMING_OUTSIDE) > 0);
    assert_ok(step_record_print(a));
    timing_print(&timing, 3, whole);
    timing_free(&timing);
    json_free(a);
    json_free(b);
}

static void records_of_several_processes_become_one(void **state)
{
    char directory[PATH_BYTES];
    Json *records[2], *joined;
    StepsConfig steps = three_steps();
    make_model(state, directory, "model", 0);
    for (int i = 0; i < 2; i++) assert_ok(steps_measure(&records[i], directory, &steps, NULL));
    json_set_number(records[1], "first_step_s", 7);
    json_set_number(records[0], "first_step_s", 5);
    json_set_number(records[1], "anonymous_bytes", 1e12);
    assert_ok(step_record_join(&joined, 2, (const Json *const *)records));
    assert_int_equal(json_count(json_find(joined, "seconds_each")), 6);
    assert_true(number(joined, "first_step_s") == 5);
    assert_true(number(joined, "anonymous_bytes") == 1e12);
    double all[6];
    size_t n = 0;
    for (const Json *item = json_first(json_find(joined, "seconds_each")); item; item = json_next(item))
        all[n++] = json_number(item);
    assert_true(number(joined, "seconds") == sample_median(6, all));
    json_free(joined);
    for (int i = 0; i < 2; i++) json_free(records[i]);
}

static void a_report_appears_complete_or_not_at_all(void **state)
{
    char path[PATH_BYTES];
    BenchReport *report;
    Json *lines;
    scratch_path(state, "r.jsonl", path);
    assert_ok(report_open(&report, path));
    assert_ok(report_add(report, report_record("machine")));
    assert_false(file_exists(path));
    report_discard(report);
    assert_false(file_exists(path));
    assert_ok(report_open(&report, path));
    Json *record = report_record("operation");
    report_measure(record, (Cost){4e9, 2e9}, 2, 8e9);
    assert_ok(report_add(report, record));
    assert_ok(report_add(report, report_record("machine")));
    assert_ok(report_close(report));
    assert_ok(json_read_lines(&lines, path));
    assert_int_equal(json_count(lines), 2);
    assert_true(number(json_first(lines), "gflops") == 2 && number(json_first(lines), "gbs") == 1);
    assert_true(number(json_first(lines), "share") == 0.25 && number(json_first(lines), "peak_gflops") == 8);
    json_free(lines);
    assert_ok(report_open(&report, NULL)); /* records are dropped */
    assert_ok(report_add(report, report_record("machine")));
    assert_ok(report_close(report));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_random_model_is_the_same_for_the_same_seed),
        scratch_test(an_existing_model_is_not_made_again),
        scratch_test(steps_are_recorded_and_repeat_exactly),
        scratch_test(records_of_several_processes_become_one),
        scratch_test(a_report_appears_complete_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
