/* Evaluation during a run: the best step, early stopping, domains; and the same bits for any group and pass. */
#include "tests/support/small_run.h"
#include "train/signals.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    snprintf(both, sizeof both, "%s,%s", small_run_data[0], small_run_data[1]);
    char *const words[] = {SMALL_TARGETS, "--eval_file",
                           both,          "--eval_steps",
                           "1",           "--early_stopping_patience",
                           "2",           "--max_steps",
                           "12",          "--learning_rate",
                           "0.3",         "--save_total_limit",
                           "1",           "--save_steps",
                           "1",           NULL};
    assert_ok(small_run(&run, out, words));
    assert_true(run.done < 12); /* such a rate ruins the model at once */
    assert_int_equal(run.done, run.progress.best_step + 2);
    char name[64], *metrics = small_run_metrics(out);
    snprintf(name, sizeof name, "best/checkpoint-%06d.h5", (int)run.progress.best_step);
    assert_true(small_run_has(out, name) && small_run_has(out, "best/adapter_config.json") &&
                small_run_has(out, "best/adapter_model.safetensors"));
    snprintf(name, sizeof name, "checkpoint-%06d.h5", (int)run.progress.best_step);
    assert_false(small_run_has(out, name)); /* save_total_limit took it */
    assert_int_equal(count(metrics, "first.jsonl\",\"eval_scored"), run.done + 1);
    assert_int_equal(count(metrics, "second.jsonl\",\"eval_scored"), run.done + 1);
    uint64_t done = run.done;
    free(metrics);
    run_close(&run);
    char *const again[] = {SMALL_TARGETS, "--eval_file",
                           both,          "--eval_steps",
                           "1",           "--early_stopping_patience",
                           "2",           "--max_steps",
                           "12",          "--learning_rate",
                           "0.3",         "--save_total_limit",
                           "1",           "--save_steps",
                           "1",           "--resume_from_checkpoint",
                           "auto",        NULL};
    assert_ok(small_run(&run, out, again));
    assert_int_equal(run.done, done); /* early stopping also ends the resumed run */
    run_close(&run);
}

static void sum_losses(const char *metrics, const char *file, double *whole, double *parts, size_t *n_parts)
{
    *whole = *parts = 0;
    *n_parts = 0;
    for (const char *at = metrics, *end; (end = strchr(at, '\n')); at = end + 1) {
        Json *line;
        double loss = 0, n_loss_tokens = 0;
        const char *of = "";
        assert_ok(json_parse(&line, at, (size_t)(end - at)));
        assert_ok(json_may_string(line, "eval_file", &of));
        if (strcmp(of, file) == 0) {
            assert_ok(json_get_number(line, "eval_loss", &loss));
            assert_ok(json_get_number(line, "eval_scored", &n_loss_tokens));
            *(json_find(line, "eval_domain") ? parts : whole) += loss * n_loss_tokens;
            *n_parts += json_find(line, "eval_domain") != NULL;
        }
        json_free(line);
    }
}

static void every_domain_of_an_evaluation_file_has_its_loss(void **state)
{
    Run run;
    char out[PATH_BYTES], both[2 * PATH_BYTES];
    double whole, parts;
    size_t n;
    scratch_path(state, "run", out);
    snprintf(both, sizeof both, "%s,%s", small_run_data[0], small_run_data[1]);
    assert_ok(SMALL_RUN(&run, out, SMALL_TARGETS, "--eval_file", both, "--max_steps", "1"));
    char *metrics = small_run_metrics(out);
    for (size_t i = 0; i < 2; i++) {
        sum_losses(metrics, small_run_data[i], &whole, &parts, &n);
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
    assert_ok(SMALL_RUN_OPEN(&run, out, SMALL_TARGETS, "--eval_file", small_run_data[0], "--max_steps", "1"));
    assert_ok(
        evaluate_dataset(&once, run.model, &run.dp, run.adapter, run.evals[0], &(EvaluateHow){.pass_tokens = 100000}));
    assert_ok(evaluate_dataset(&often, run.model, &run.dp, NULL, run.evals[0],
                               &(EvaluateHow){.group_tokens = 1, .pass_tokens = 50}));
    assert_true(once.n == 3 && often.n == 3 && !once.parts[0].domain && once.parts[0].documents == SMALL_RUN_DOCUMENTS);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        small_run_test(the_best_step_is_kept_and_patience_ends_a_run),
        small_run_test(every_domain_of_an_evaluation_file_has_its_loss),
        small_run_test(an_evaluation_does_not_depend_on_how_it_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
