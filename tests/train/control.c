/* Whole runs on the bundled base, a few small steps each: evaluation, the best step, patience, stages, balance,
 * faults. */
#include "train/run.h"

#include "tensor/gemm.h"
#include "tensor/safetensors.h"
#include "tests/support/check.h"
#include "train/signals.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_WORDS = 64, DOCUMENTS = 6 };

/* The first documents of the bundled data, in two files. */
static char data[2][PATH_BYTES];

static int open_data(void **state)
{
    if (scratch_open(state)) return -1;
    char *text;
    size_t bytes;
    assert_ok(file_read(&text, &bytes, "examples/devils/devils_eval.jsonl"));
    const char *at = text;
    for (int i = 0; i < 2; i++) {
        const char *begin = at;
        for (int n = 0; n < DOCUMENTS; n++) at = strchr(at, '\n') + 1;
        scratch_path(state, i ? "second.jsonl" : "first.jsonl", data[i]);
        assert_ok(file_write(data[i], begin, (size_t)(at - begin)));
    }
    free(text);
    return 0;
}

/* A run's words: the common ones, then those given until NULL. */
static Err *open_run(Run *run, const char *directory, const char *const *extra)
{
    const char *words[MOST_WORDS] = {"--model_name_or_path",
                                     "examples/tiny-glm5",
                                     "--train_file",
                                     data[0],
                                     "--output_dir",
                                     directory,
                                     "--r",
                                     "2",
                                     "--max_length",
                                     "40",
                                     "--train_batch_size",
                                     "3",
                                     "--micro_batch_tokens",
                                     "64",
                                     "--warmup_ratio",
                                     "0",
                                     "--lr_scheduler_type",
                                     "constant",
                                     "--tensorboard",
                                     "false",
                                     "--logging_steps",
                                     "1000"};
    size_t n = 22;
    for (; *extra; extra++) words[n++] = *extra;
    *run = (Run){.dp = {.size = 1}};
    return run_open(run, (int)n, (char **)(size_t)words);
}

static Err *whole_run(Run *run, const char *directory, const char *const *extra)
{
    Err *err = open_run(run, directory, extra);
    return err ? err : loop_run(run);
}

#define RUN(run, directory, ...)  whole_run(run, directory, (const char *const[]){__VA_ARGS__, NULL})
#define OPEN(run, directory, ...) open_run(run, directory, (const char *const[]){__VA_ARGS__, NULL})
#define ATTENTION                 "--target_modules", "[\"q_a_proj\",\"o_proj\"]"

static bool is_there(const char *directory, const char *name)
{
    char path[PATH_BYTES];
    assert_ok(file_join(path, directory, name));
    return file_exists(path);
}

static char *metrics_of(const char *directory)
{
    char path[PATH_BYTES], *text;
    size_t bytes;
    assert_ok(file_join(path, directory, "metrics.jsonl"));
    assert_ok(file_read(&text, &bytes, path));
    return text;
}

static size_t count(const char *text, const char *part)
{
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, part)); at++) n++;
    return n;
}

static void the_best_step_is_kept_and_patience_ends_a_run(void **state)
{
    Run run;
    char out[PATH_BYTES], both[2 * PATH_BYTES];
    scratch_path(state, "run", out);
    snprintf(both, sizeof both, "%s,%s", data[0], data[1]);
    const char *const words[] = {ATTENTION, "--eval_file",
                                 both,      "--eval_steps",
                                 "1",       "--early_stopping_patience",
                                 "2",       "--max_steps",
                                 "12",      "--learning_rate",
                                 "0.3",     "--save_total_limit",
                                 "1",       "--save_steps",
                                 "1",       NULL};
    assert_ok(whole_run(&run, out, words));
    assert_true(run.done < 12); /* such a rate ruins the model at once */
    assert_int_equal(run.done, run.progress.best_step + 2);
    char name[64], *metrics = metrics_of(out);
    snprintf(name, sizeof name, "best/checkpoint-%06d.h5", (int)run.progress.best_step);
    assert_true(is_there(out, name) && is_there(out, "best/adapter_config.json") &&
                is_there(out, "best/adapter_model.safetensors"));
    snprintf(name, sizeof name, "checkpoint-%06d.h5", (int)run.progress.best_step);
    assert_false(is_there(out, name)); /* save_total_limit took it */
    assert_int_equal(count(metrics, "first.jsonl\",\"eval_scored"), run.done + 1);
    assert_int_equal(count(metrics, "second.jsonl\",\"eval_scored"), run.done + 1);
    uint64_t done = run.done;
    free(metrics);
    run_close(&run);
    const char *const again[] = {ATTENTION, "--eval_file",
                                 both,      "--eval_steps",
                                 "1",       "--early_stopping_patience",
                                 "2",       "--max_steps",
                                 "12",      "--learning_rate",
                                 "0.3",     "--save_total_limit",
                                 "1",       "--save_steps",
                                 "1",       "--resume_from_checkpoint",
                                 "auto",    NULL};
    assert_ok(whole_run(&run, out, again));
    assert_int_equal(run.done, done); /* a run that has lost patience does not find it by being resumed */
    run_close(&run);
}

/* Sums of eval_loss times eval_scored over the metrics' lines of one file: of the file itself, and of its domains. */
static void sum_losses(const char *metrics, const char *file, double *whole, double *parts, size_t *n_parts)
{
    *whole = *parts = 0;
    *n_parts = 0;
    for (const char *at = metrics, *end; (end = strchr(at, '\n')); at = end + 1) {
        Json *line;
        double loss = 0, scored = 0;
        const char *of = "";
        assert_ok(json_parse(&line, at, (size_t)(end - at)));
        assert_ok(json_may_string(line, "eval_file", &of));
        if (strcmp(of, file) == 0) {
            assert_ok(json_get_number(line, "eval_loss", &loss));
            assert_ok(json_get_number(line, "eval_scored", &scored));
            *(json_find(line, "eval_domain") ? parts : whole) += loss * scored;
            *n_parts += json_find(line, "eval_domain") != NULL;
        }
        json_free(line);
    }
}

static void every_domain_of_a_held_out_file_has_its_loss(void **state)
{
    Run run;
    char out[PATH_BYTES], both[2 * PATH_BYTES];
    double whole, parts;
    size_t n;
    scratch_path(state, "run", out);
    snprintf(both, sizeof both, "%s,%s", data[0], data[1]);
    assert_ok(RUN(&run, out, ATTENTION, "--eval_file", both, "--max_steps", "1"));
    char *metrics = metrics_of(out);
    for (size_t i = 0; i < 2; i++) {
        sum_losses(metrics, data[i], &whole, &parts, &n);
        assert_int_equal(n, i ? 2 : 4); /* prose and verse, prose alone; before and after */
        assert_true(whole > 0 && fabs(whole - parts) < 1e-9 * whole);
    }
    free(metrics);
    run_close(&run);
}

static void an_evaluation_does_not_depend_on_how_it_is_cut(void **state)
{
    Run run;
    Evaluation once, often;
    char out[PATH_BYTES];
    scratch_path(state, "run", out);
    assert_ok(OPEN(&run, out, ATTENTION, "--eval_file", data[0], "--max_steps", "1"));
    assert_ok(
        evaluate_dataset(&once, run.model, &run.dp, run.adapter, run.evals[0], &(EvaluateHow){.pass_tokens = 100000}));
    assert_ok(evaluate_dataset(&often, run.model, &run.dp, NULL, run.evals[0],
                               &(EvaluateHow){.group_tokens = 1, .pass_tokens = 50}));
    assert_true(once.n == 3 && often.n == 3 && !once.parts[0].domain && once.parts[0].documents == DOCUMENTS);
    for (size_t p = 0; p < once.n; p++) /* a fresh adapter changes nothing */
        assert_true(once.parts[p].nll == often.parts[p].nll && once.parts[p].right == often.parts[p].right &&
                    once.parts[p].n_loss_tokens == often.parts[p].n_loss_tokens);
    evaluation_free(&once);
    evaluation_free(&often);
    signals_stop = 1;
    assert_fails(evaluate_dataset(&once, run.model, &run.dp, NULL, run.evals[0],
                                  &(EvaluateHow){.pass_tokens = 50, .stop = &signals_stop}),
                 ERR_STOPPED, "inside an evaluation");
    signals_stop = 0;
    run_close(&run);
}

static void a_second_stage_begins_where_the_first_ended(void **state)
{
    Run first, second;
    char out[PATH_BYTES], next[PATH_BYTES];
    scratch_path(state, "first", out);
    scratch_path(state, "second", next);
    assert_ok(
        RUN(&first, out, ATTENTION, "--experts", "{\"experts\":{\"2\":[1,4]}}", "--train_router", "--max_steps", "2"));
    assert_ok(OPEN(&second, next, "--init_adapter", out, "--train_file", data[1], "--max_steps", "2"));
    assert_int_equal(second.adapter->n, first.adapter->n); /* experts 1 and 4, and no zeros for the others */
    assert_int_equal(second.adapter->layers[1].n, first.adapter->layers[1].n);
    assert_memory_equal(second.adapter->values + second.adapter->layers[1].offset,
                        first.adapter->values + first.adapter->layers[1].offset,
                        first.adapter->layers[1].n * sizeof(float));
    assert_ok(loop_run(&second));
    assert_int_equal(second.done, 2);
    assert_int_equal(second.audit->n_errors, 0);
    run_close(&second);
    run_close(&first);
    assert_fails(OPEN(&second, next, "--init_adapter", out, "--overwrite_output_dir", ATTENTION), ERR_USAGE,
                 "init_adapter says what is trained");
    run_close(&second);
}

static void a_router_is_trained_by_pairs_and_served_to_the_next_stage(void **state)
{
    Run first, second;
    char out[PATH_BYTES], next[PATH_BYTES], path[PATH_BYTES], *config;
    size_t bytes;
    scratch_path(state, "first", out);
    scratch_path(state, "second", next);
    assert_ok(RUN(&first, out, "--target_modules", "[\"gate\"]", "--aux_loss_coef", "0.1", "--max_steps", "2"));
    assert_int_equal(first.audit->n_errors, 0);
    assert_int_equal(first.audit->n_parts, 5); /* layers 1 to 5 */
    assert_ok(file_join(path, out, "adapter/adapter_config.json"));
    assert_ok(file_read(&config, &bytes, path));
    assert_non_null(strstr(strstr(config, "\"target_parameters\""), "gate.weight"));
    free(config);
    assert_ok(OPEN(&second, next, "--init_adapter", out, "--max_steps", "1"));
    assert_int_equal(second.adapter->n, first.adapter->n);
    assert_memory_equal(second.adapter->values, first.adapter->values, first.adapter->n * sizeof(float));
    run_close(&second);
    run_close(&first);
}

static void timing_shows_where_the_time_of_steps_goes(void **state)
{
    Run run;
    Json *lines;
    char out[PATH_BYTES], path[PATH_BYTES];
    scratch_path(state, "run", out);
    assert_ok(RUN(&run, out, ATTENTION, "--max_steps", "3", "--timing"));
    assert_int_equal(run.run_timing.steps, 2); /* the first meets cold memory */
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

static void coefficients_by_layer_are_those_of_one_number(void **state)
{
    Run run;
    char out[PATH_BYTES], one[80];
    scratch_path(state, "run", out);
    assert_ok(RUN(&run, out, ATTENTION, "--max_steps", "2", "--aux_loss_coef", "0.5"));
    snprintf(one, sizeof one, "%s", run.state_digest);
    run_close(&run);
    const char *const table[] = {ATTENTION,
                                 "--max_steps",
                                 "2",
                                 "--overwrite_output_dir",
                                 "--aux_loss_coef",
                                 "{\"1\":0.5,\"2\":0.5,\"3\":0.5,\"4\":0.5,\"5\":0.5}",
                                 NULL};
    assert_ok(whole_run(&run, out, table));
    assert_string_equal(run.state_digest, one);
    run_close(&run);
    const char *const other[] = {ATTENTION,
                                 "--max_steps",
                                 "2",
                                 "--overwrite_output_dir",
                                 "--aux_loss_coef",
                                 "{\"1\":0.5,\"2\":0.5,\"3\":0.5,\"4\":0.5}",
                                 NULL};
    assert_ok(whole_run(&run, out, other));
    assert_string_not_equal(run.state_digest, one);
    run_close(&run);
}

static void what_cannot_work_is_refused(void **state)
{
    static const struct {
        const char *words[5];
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
        const char *words[12] = {ATTENTION, "--max_steps", "1"};
        for (size_t j = 0; j < 4; j++) words[4 + j] = cases[i].words[j];
        assert_fails(open_run(&run, out, words), ERR_USAGE, cases[i].message);
        run_close(&run);
        assert_false(file_exists(out));
    }
}

static void biases_move_against_the_load_and_come_back_from_a_checkpoint(void **state)
{
    Run run;
    char out[PATH_BYTES];
    scratch_path(state, "run", out);
    assert_ok(RUN(&run, out, ATTENTION, "--max_steps", "1", "--router_bias_update_rate", "0.01"));
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
    const char *const resume[] = {ATTENTION, "--max_steps",
                                  "1",       "--router_bias_update_rate",
                                  "0.01",    "--resume_from_checkpoint",
                                  "auto",    NULL};
    assert_ok(open_run(&run, out, resume));
    assert_memory_equal(run.adapter->biases, biases, run.adapter->n_layers * E * sizeof *biases);
    run_close(&run);
    assert_fails(OPEN(&run, out, ATTENTION, "--max_steps", "1", "--resume_from_checkpoint", "auto"), ERR_FORMAT,
                 "router_bias is in the file");
    run_close(&run);
    free(biases);
}

/* With --guard or without: there the operation is found at once, here by computing the step again. */
static void check_named(const char *out, const char *guard)
{
    Run run;
    static const char *const parts[] = {"step 2",       "nothing was updated",
                                        "micro-batch ", "record",
                                        "first.jsonl",  "layer 2",
                                        "linear",       "nan"};
    assert_ok(OPEN(&run, out, ATTENTION, "--max_steps", "3", "--resume_from_checkpoint", "auto", "--guard", guard));
    float *values = run.adapter->values, *copy = malloc(run.adapter->n * sizeof *copy);
    assert_non_null(copy);
    run.adapter->layers[2].places[LORA_O]->B->data[3] = NAN;
    memcpy(copy, values, run.adapter->n * sizeof *copy);
    Err *err = loop_run(&run);
    assert_non_null(err);
    assert_int_equal(err_kind(err), ERR_NUMERIC);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(err_message(err), parts[i]))
            fail_msg("guard %s: %s is not in: %s", guard, parts[i], err_message(err));
    err_free(err);
    assert_memory_equal(values, copy, run.adapter->n * sizeof *copy);
    assert_true(is_there(out, "checkpoint-000001.h5") && !is_there(out, "checkpoint-000002.h5"));
    free(copy);
    run_close(&run);
}

static void a_number_that_is_not_finite_is_named_and_nothing_moves(void **state)
{
    Run run;
    char out[PATH_BYTES];
    scratch_path(state, "run", out);
    assert_ok(RUN(&run, out, ATTENTION, "--max_steps", "1"));
    run_close(&run);
    check_named(out, "false");
    check_named(out, "true");
}

static void a_signal_saves_and_goes_on_or_ends_inside_a_step(void **state)
{
    Run run;
    char out[PATH_BYTES];
    scratch_path(state, "run", out);
    assert_ok(OPEN(&run, out, ATTENTION, "--max_steps", "3"));
    signals_save = 1;
    assert_ok(loop_run(&run));
    assert_true(is_there(out, "checkpoint-000001.h5") && !is_there(out, "checkpoint-000002.h5") &&
                is_there(out, "checkpoint-000003.h5"));
    run_close(&run);
    assert_ok(OPEN(&run, out, ATTENTION, "--max_steps", "3", "--overwrite_output_dir"));
    signals_stop = 1;
    assert_fails(loop_run(&run), ERR_STOPPED, "after step 0, which is saved");
    signals_stop = 0;
    assert_true(is_there(out, "checkpoint-000000.h5"));
    run_close(&run);
}

static void a_dump_holds_every_named_activation_and_gradient(void **state)
{
    Run run;
    Safetensors file;
    char out[PATH_BYTES], dump[PATH_BYTES], path[PATH_BYTES];
    scratch_path(state, "run", out);
    scratch_path(state, "dump", dump);
    assert_ok(RUN(&run, out, ATTENTION, "--train_router", "--max_steps", "2", "--dump", dump));
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
    assert_false(is_there(dump, "step-000002-rank-0.safetensors"));
    safetensors_close(&file);
    run_close(&run);
}

#define small_run(test) cmocka_unit_test_setup_teardown(test, open_data, scratch_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        small_run(the_best_step_is_kept_and_patience_ends_a_run),
        small_run(every_domain_of_a_held_out_file_has_its_loss),
        small_run(an_evaluation_does_not_depend_on_how_it_is_cut),
        small_run(a_second_stage_begins_where_the_first_ended),
        small_run(a_router_is_trained_by_pairs_and_served_to_the_next_stage),
        small_run(timing_shows_where_the_time_of_steps_goes),
        small_run(coefficients_by_layer_are_those_of_one_number),
        small_run(what_cannot_work_is_refused),
        small_run(biases_move_against_the_load_and_come_back_from_a_checkpoint),
        small_run(a_number_that_is_not_finite_is_named_and_nothing_moves),
        small_run(a_signal_saves_and_goes_on_or_ends_inside_a_step),
        small_run(a_dump_holds_every_named_activation_and_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
