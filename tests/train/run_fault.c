/* What a run does when something happens: a number that is not finite, a signal; and what it shows on request: timing,
 * a dump. */
#include "tensor/safetensors.h"
#include "tests/support/small_run.h"
#include "train/signals.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_named(char *out, char *guard)
{
    Run run;
    static const char *const parts[] = {"step 2",       "nothing was updated",
                                        "micro-batch ", "record",
                                        "first.jsonl",  "layer 2",
                                        "linear",       "nan"};
    assert_ok(SMALL_RUN_OPEN(&run, out, SMALL_TARGETS, "--max_steps", "3", "--resume_from_checkpoint", "auto",
                             "--guard", guard));
    float *values = run.adapter->values, *copy = malloc(run.adapter->n * sizeof *copy);
    assert_non_null(copy);
    run.adapter->layers[2].places[LORA_O]->B->data[3] = NAN;
    memcpy(copy, values, run.adapter->n * sizeof *copy);
    Err *err = run_loop(&run);
    assert_non_null(err);
    assert_int_equal(err_kind(err), ERR_NUMERIC);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(err_message(err), parts[i]))
            fail_msg("guard %s: %s is not in: %s", guard, parts[i], err_message(err));
    err_free(err);
    assert_memory_equal(values, copy, run.adapter->n * sizeof *copy);
    assert_true(small_run_has(out, "checkpoint-000001.h5") && !small_run_has(out, "checkpoint-000002.h5"));
    free(copy);
    run_close(&run);
}

static void a_number_that_is_not_finite_is_named_and_nothing_moves(void **state)
{
    Run run;
    char out[PATH_BYTES];
    scratch_path(state, "run", out);
    assert_ok(SMALL_RUN(&run, out, SMALL_TARGETS, "--max_steps", "1"));
    run_close(&run);
    check_named(out, "false");
    check_named(out, "true");
}

static void a_signal_saves_and_goes_on_or_ends_inside_a_step(void **state)
{
    Run run;
    char out[PATH_BYTES];
    scratch_path(state, "run", out);
    assert_ok(SMALL_RUN_OPEN(&run, out, SMALL_TARGETS, "--max_steps", "3"));
    signals_save = 1;
    assert_ok(run_loop(&run));
    assert_true(small_run_has(out, "checkpoint-000001.h5") && !small_run_has(out, "checkpoint-000002.h5") &&
                small_run_has(out, "checkpoint-000003.h5"));
    run_close(&run);
    assert_ok(SMALL_RUN_OPEN(&run, out, SMALL_TARGETS, "--max_steps", "3", "--overwrite_output_dir"));
    signals_stop = 1;
    assert_fails(run_loop(&run), ERR_STOPPED, "after step 0, which is saved");
    signals_stop = 0;
    assert_true(small_run_has(out, "checkpoint-000000.h5"));
    run_close(&run);
}

static void timing_shows_where_the_time_of_steps_goes(void **state)
{
    Run run;
    Json *lines;
    char out[PATH_BYTES], path[PATH_BYTES];
    scratch_path(state, "run", out);
    assert_ok(SMALL_RUN(&run, out, SMALL_TARGETS, "--max_steps", "3", "--timing"));
    assert_int_equal(run.run_timing.steps, 2); /* the first one is not counted */
    assert_ok(file_join(path, out, "timing.jsonl"));
    assert_ok(json_read_lines(&lines, path));
    double sum = 0, whole = json_number(json_find(json_first(lines), "seconds"));
    bool layers[8] = {false};
    for (const Json *row = json_first(json_find(json_first(lines), "profile")); row; row = json_next(row)) {
        const Json *layer = json_find(row, "layer");
        sum += 1e-3 * (json_number(json_find(row, "up_ms")) + json_number(json_find(row, "down_ms")));
        if (json_kind(layer) == JSON_NUMBER) layers[(size_t)json_number(layer)] = true;
    }
    assert_true(layers[0] && layers[1] && layers[2]);
    if (!(sum > 0.2 * whole && sum < whole)) fail_msg("the timing accounts for %g of %g seconds", sum, whole);
    json_free(lines);
    run_close(&run);
}

static void a_dump_holds_every_named_activation_and_gradient(void **state)
{
    Run run;
    Safetensors file;
    char out[PATH_BYTES], dump[PATH_BYTES], path[PATH_BYTES];
    scratch_path(state, "run", out);
    scratch_path(state, "dump", dump);
    assert_ok(SMALL_RUN(&run, out, SMALL_TARGETS, "--train_router", "--max_steps", "2", "--dump", dump));
    assert_ok(file_join(path, dump, "step-000001-rank-0.safetensors"));
    assert_ok(safetensors_open(&file, path));
    static const char *const names[] = {"hidden.0",
                                        "hidden.6",
                                        "grad.hidden.0",
                                        "grad.hidden.6",
                                        "router.logits.3",
                                        "router.weights.3",
                                        "router.experts.5",
                                        "grad.model.layers.0.self_attn.q_a_proj.lora_B",
                                        "grad.model.layers.4.mlp.gate.weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!safetensors_find(&file, names[i])) fail_msg("no %s", names[i]);
    assert_false(small_run_has(dump, "step-000002-rank-0.safetensors"));
    safetensors_close(&file);
    run_close(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        small_run_test(a_number_that_is_not_finite_is_named_and_nothing_moves),
        small_run_test(a_signal_saves_and_goes_on_or_ends_inside_a_step),
        small_run_test(timing_shows_where_the_time_of_steps_goes),
        small_run_test(a_dump_holds_every_named_activation_and_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
