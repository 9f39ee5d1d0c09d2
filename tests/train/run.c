/* Whole runs: a second stage from an adapter, balance losses, correction biases, and options that are refused. */
#include "tests/support/small_run.h"

#include "ckpt/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void a_second_stage_begins_where_the_first_ended(void **state)
{
    Run first, second;
    char out[PATH_BYTES], next[PATH_BYTES];
    scratch_path(state, "first", out);
    scratch_path(state, "second", next);
    assert_ok(SMALL_RUN(&first, out, SMALL_TARGETS, "--experts", "{\"experts\":{\"2\":[1,4]}}", "--train_router",
                        "--max_steps", "2"));
    assert_ok(
        SMALL_RUN_OPEN(&second, next, "--init_adapter", out, "--train_file", small_run_data[1], "--max_steps", "2"));
    assert_int_equal(second.adapter->n, first.adapter->n); /* experts 1 and 4, and no zeros for the others */
    assert_int_equal(second.adapter->layers[1].n, first.adapter->layers[1].n);
    assert_memory_equal(second.adapter->values + second.adapter->layers[1].offset,
                        first.adapter->values + first.adapter->layers[1].offset,
                        first.adapter->layers[1].n * sizeof(float));
    assert_ok(run_loop(&second));
    assert_int_equal(second.done, 2);
    assert_int_equal(second.audit->n_errors, 0);
    run_close(&second);
    run_close(&first);
    assert_fails(SMALL_RUN_OPEN(&second, next, "--init_adapter", out, "--overwrite_output_dir", SMALL_TARGETS),
                 ERR_USAGE, "init_adapter says what is trained");
    run_close(&second);
}

static void a_second_stage_goes_on_without_the_adapter_of_the_first(void **state)
{
    Run run;
    Adapter *adapter;
    char out[PATH_BYTES], next[PATH_BYTES], path[PATH_BYTES], digest[80];
    scratch_path(state, "first", out);
    scratch_path(state, "second", next);
    assert_ok(SMALL_RUN(&run, out, SMALL_TARGETS, "--experts", "{\"experts\":{\"2\":[1,4]}}", "--train_router",
                        "--max_steps", "1"));
    run_close(&run);
    assert_ok(SMALL_RUN(&run, next, "--init_adapter", out, "--max_steps", "2", "--save_steps", "1"));
    snprintf(digest, sizeof digest, "%s", run.state_digest);
    run_close(&run);
    assert_ok(checkpoint_path(path, next, 2));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rename(out, scratch_path(state, "moved", path)), 0);
    assert_ok(SMALL_RUN(&run, next, "--init_adapter", out, "--max_steps", "2", "--save_steps", "1",
                        "--resume_from_checkpoint", "auto"));
    assert_string_equal(run.state_digest, digest);
    assert_ok(checkpoint_path(path, next, 2));
    assert_ok(adapter_open(&adapter, run.model, path));
    assert_memory_equal(adapter->values, run.adapter->values, adapter->n * sizeof(float));
    adapter_free(adapter);
    run_close(&run);
}

static void a_router_is_trained_with_lora_and_given_to_the_next_stage(void **state)
{
    Run first, second;
    char out[PATH_BYTES], next[PATH_BYTES], path[PATH_BYTES], *config;
    size_t bytes;
    scratch_path(state, "first", out);
    scratch_path(state, "second", next);
    assert_ok(SMALL_RUN(&first, out, "--target_modules", "[\"gate\"]", "--aux_loss_coef", "0.1", "--max_steps", "2"));
    assert_int_equal(first.audit->n_errors, 0);
    assert_int_equal(first.audit->n_parts, 5); /* layers 1 to 5 */
    assert_ok(file_join(path, out, "adapter/adapter_config.json"));
    assert_ok(file_read(&config, &bytes, path));
    assert_non_null(strstr(strstr(config, "\"target_parameters\""), "gate.weight"));
    free(config);
    assert_ok(SMALL_RUN_OPEN(&second, next, "--init_adapter", out, "--max_steps", "1"));
    assert_int_equal(second.adapter->n, first.adapter->n);
    assert_memory_equal(second.adapter->values, first.adapter->values, first.adapter->n * sizeof(float));
    run_close(&second);
    run_close(&first);
}

static void coefficients_by_layer_are_those_of_one_number(void **state)
{
    Run run;
    char out[PATH_BYTES], one[80];
    scratch_path(state, "run", out);
    assert_ok(SMALL_RUN(&run, out, SMALL_TARGETS, "--max_steps", "2", "--aux_loss_coef", "0.5"));
    snprintf(one, sizeof one, "%s", run.state_digest);
    run_close(&run);
    char *const table[] = {SMALL_TARGETS,
                           "--max_steps",
                           "2",
                           "--overwrite_output_dir",
                           "--aux_loss_coef",
                           "{\"1\":0.5,\"2\":0.5,\"3\":0.5,\"4\":0.5,\"5\":0.5}",
                           NULL};
    assert_ok(small_run(&run, out, table));
    assert_string_equal(run.state_digest, one);
    run_close(&run);
    char *const other[] = {SMALL_TARGETS,
                           "--max_steps",
                           "2",
                           "--overwrite_output_dir",
                           "--aux_loss_coef",
                           "{\"1\":0.5,\"2\":0.5,\"3\":0.5,\"4\":0.5}",
                           NULL};
    assert_ok(small_run(&run, out, other));
    assert_string_not_equal(run.state_digest, one);
    run_close(&run);
}

static void options_without_effect_are_refused(void **state)
{
    static const struct {
        char *words[5];
        const char *message;
    } cases[] = {
        {{"--aux_loss_coef", "{\"0\":1}"}, "layer 0 has no router"},
        {{"--aux_loss_coef", "{\"77\":1}"}, "layer 77 has no router"},
        {{"--aux_loss_coef", "{\"1\":-1}"}, "from 0 to 1e6"},
        {{"--layers_to_transform", "[3]", "--aux_loss_coef", "{\"2\":1}"}, "at or below the router of layer 2"},
        {{"--router_learning_rate", "1e-4"}, "no router is trained in full"},
        {{"--early_stopping_patience", "2"}, "needs an eval_file"},
    };
    char out[PATH_BYTES];
    scratch_path(state, "run", out);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Run run;
        char *words[12] = {SMALL_TARGETS, "--max_steps", "1"};
        for (size_t j = 0; j < 4; j++) words[4 + j] = cases[i].words[j];
        assert_fails(small_run_open(&run, out, words), ERR_USAGE, cases[i].message);
        run_close(&run);
        assert_false(file_exists(out));
    }
}

static void biases_move_against_the_load_and_come_back_from_a_checkpoint(void **state)
{
    Run run;
    char out[PATH_BYTES];
    scratch_path(state, "run", out);
    assert_ok(SMALL_RUN(&run, out, SMALL_TARGETS, "--max_steps", "1", "--router_bias_update_rate", "0.01"));
    size_t E = run.model->router.E;
    for (size_t l = 1; l < run.model->n_layers; l++) {
        uint64_t total = 0;
        for (size_t e = 0; e < E; e++) total += step_counts(run.step, l).load[e];
        for (size_t e = 0; e < E; e++) {
            float before = run.model->layers[l].router_bias[e], after = run.adapter->layers[l].router_bias[e];
            uint64_t load = step_counts(run.step, l).load[e] * E;
            assert_true(after == (load < total ? before + 0.01f : load > total ? before - 0.01f : before));
        }
    }
    float *biases = malloc(run.adapter->n_layers * E * sizeof *biases);
    assert_non_null(biases);
    memcpy(biases, run.adapter->biases, run.adapter->n_layers * E * sizeof *biases);
    run_close(&run);
    char *const resume[] = {SMALL_TARGETS, "--max_steps",
                            "1",           "--router_bias_update_rate",
                            "0.01",        "--resume_from_checkpoint",
                            "auto",        NULL};
    assert_ok(small_run_open(&run, out, resume));
    assert_memory_equal(run.adapter->biases, biases, run.adapter->n_layers * E * sizeof *biases);
    run_close(&run);
    assert_fails(SMALL_RUN_OPEN(&run, out, SMALL_TARGETS, "--max_steps", "1", "--resume_from_checkpoint", "auto"),
                 ERR_FORMAT, "router_bias is in the file");
    run_close(&run);
    free(biases);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        small_run_test(a_second_stage_begins_where_the_first_ended),
        small_run_test(a_second_stage_goes_on_without_the_adapter_of_the_first),
        small_run_test(a_router_is_trained_with_lora_and_given_to_the_next_stage),
        small_run_test(coefficients_by_layer_are_those_of_one_number),
        small_run_test(options_without_effect_are_refused),
        small_run_test(biases_move_against_the_load_and_come_back_from_a_checkpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
