/* Step after step: train, note, evaluate, save. What follows a step always has this order:
 *     metrics of the step, audit (after step 1 and before planned saves), evaluation, checkpoint, signals
 * so that a resume from a checkpoint writes exactly the lines that are missing. */
#include "base/log.h"
#include "base/proc_memory.h"
#include "train/balance.h"
#include "train/dump.h"
#include "train/run.h"
#include "train/signals.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    Run *run;
    double started;
    uint64_t first; /* step at the start of this process */
} Loop;

/* ---- one step --------------------------------------------------------------------------------------------------- */

static void add_balance(Json *line, const Settings *s, const BalanceValues *b)
{
    if (balance_is_on(s->seq_aux_loss_coef)) json_add_number(line, "seq_aux_loss", b->seq_aux_loss);
    if (balance_is_on(s->aux_loss_coef)) json_add_number(line, "aux_loss", b->aux_loss);
    if (s->load_balancing_loss_coef > 0) json_add_number(line, "load_balancing_loss", b->load_balancing_loss);
    if (balance_is_on(s->z_loss_coef)) json_add_number(line, "z_loss", b->z_loss);
}

/* The most uneven layer; 0 when none has a router. */
static double worst_load(const Run *run)
{
    double worst = 0;
    for (size_t l = 0; l < run->model->n_layers; l++)
        worst = fmax(worst, balance_max_over_mean(run->step, l, run->model->router.E));
    return worst;
}

/* "expert_load": the fullest expert over the mean, for every layer; null where there is no router. */
static void add_load(Json *line, const Run *run)
{
    if (worst_load(run) == 0) return;
    Json *layers = json_new_array();
    for (size_t l = 0; l < run->model->n_layers; l++) {
        if (run->model->layers[l].dense)
            json_add_null(layers, NULL);
        else
            json_add_number(layers, NULL, balance_max_over_mean(run->step, l, run->model->router.E));
    }
    json_add_number(line, "load_max_over_mean", worst_load(run));
    json_add(line, "expert_load", layers);
}

static Err *note_step(Run *run, const StepResult *result, const StepRates *rates, double seconds)
{
    Json *line = run_line(run);
    json_add_number(line, "loss", result->loss);
    json_add_number(line, "learning_rate", rates->A);
    if (rates->B != rates->A) json_add_number(line, "learning_rate_B", rates->B);
    if (run->settings.router_learning_rate > 0) json_add_number(line, "learning_rate_router", rates->router);
    json_add_number(line, "grad_norm", result->grad_norm);
    json_add_number(line, "tokens", (double)result->tokens);
    json_add_number(line, "scored", (double)result->n_loss_tokens);
    add_balance(line, &run->settings, &result->balance);
    add_load(line, run);
    json_add_number(line, "seconds", seconds);
    json_add_number(line, "tokens_per_second", (double)result->tokens / seconds);
    json_add_number(line, "memory_bytes", (double)proc_memory_peak());
    return run_note(run, line);
}

static void time_left(char text[32], double seconds)
{
    if (seconds >= 36000)
        snprintf(text, 32, "%.0f h", seconds / 3600);
    else if (seconds >= 600)
        snprintf(text, 32, "%.0f min", seconds / 60);
    else
        snprintf(text, 32, "%.0f s", seconds);
}

static void show_progress(const Loop *loop, const StepResult *result, double rate, double seconds)
{
    const Run *run = loop->run;
    char left[32], load[32] = "";
    double per_step = (log_seconds() - loop->started) / (double)(run->done - loop->first);
    time_left(left, per_step * (double)(run->total - run->done));
    if (worst_load(run) > 0)
        snprintf(load, sizeof load, "load %.1fx  ", worst_load(run)); /* what matters most comes first: rows are cut */
    bool keep = run->done % (uint64_t)run->settings.logging_steps == 0 || run->done == run->total;
    log_progress(
        keep,
        "step %llu/%llu  %s left  loss %.4f (smoothed %.4f)  %.0f tok/s  lr %.2e  norm %.3f  %s%.0f MiB  epoch %.2f",
        (unsigned long long)run->done, (unsigned long long)run->total, left, result->loss, run->progress.smoothed_loss,
        (double)result->tokens / seconds, rate, result->grad_norm, load, (double)proc_memory_peak() / 1048576,
        run_epoch(run));
}

static StepRates rates_now(const Run *run)
{
    const Settings *s = &run->settings;
    double router = s->router_learning_rate > 0 ? s->router_learning_rate : s->learning_rate;
    return (StepRates){.A = schedule_rate(&run->schedule, s->learning_rate, run->done),
                       .B = schedule_rate(&run->schedule, s->learning_rate * s->loraplus_lr_ratio, run->done),
                       .router = schedule_rate(&run->schedule, router, run->done)};
}

/* Gradients; the first step of this process goes to a dump where one is asked for. */
static Err *gradients(Loop *loop, const Batch *batch, StepResult *result)
{
    Run *run = loop->run;
    Dump *dump;
    if (!run->settings.dump || run->done != loop->first)
        return step_gradients(run->step, batch, run->done, NULL, result);
    TRY(dump_new(&dump, batch->T));
    Err *err = step_gradients(run->step, batch, run->done, dump_probe(dump), result);
    if (!err) err = dump_write(dump, &run->dp, run->step, run->adapter, run->done + 1, run->settings.dump);
    dump_free(dump);
    return err;
}

static Err *update(Run *run, const StepRates *rates, StepResult *result)
{
    TRY(step_update(run->step, run->done + 1, rates, result));
    audit_observe(run->audit, &run->dp, run->step);
    if (run->settings.router_bias_update_rate > 0)
        balance_move_biases(run->adapter, run->step, run->settings.router_bias_update_rate);
    return NULL;
}

static Err *take_step(Loop *loop)
{
    Run *run = loop->run;
    Batch batch;
    StepResult result;
    double began = log_seconds();
    StepRates rates = rates_now(run);
    TRY(run_batch(run, run->budget.group_tokens, &batch));
    Err *err = gradients(loop, &batch, &result);
    if (!err) err = update(run, &rates, &result);
    batch_free(&batch);
    if (err && err_kind(err) == ERR_STOPPED) return err;
    if (err && err_kind(err) == ERR_NUMERIC) err = run_find_fault(run, err);
    if (err) return err_wrap(err, "step %llu", (unsigned long long)run->done + 1);
    Progress *p = &run->progress;
    p->smoothed_loss = run->done == 0 ? result.loss : 0.95 * p->smoothed_loss + 0.05 * result.loss;
    p->evaluated = false;
    run->done++;
    run->tokens_seen += result.tokens;
    run->loss_tokens_seen += result.n_loss_tokens;
    double seconds = log_seconds() - began;
    run_time_step(run, run->done == loop->first + 1, seconds);
    show_progress(loop, &result, rates.A, seconds);
    return note_step(run, &result, &rates, seconds);
}

/* ---- evaluation and saving -------------------------------------------------------------------------------------- */

static bool eval_due(const Run *run)
{
    if (!run->settings.eval_file.count || run->progress.evaluated) return false;
    uint64_t every = run->settings.eval_steps ? (uint64_t)run->settings.eval_steps
                                              : loader_steps_per_epoch(run->loader);
    return run->done % every == 0 || run->done == run->total;
}

static bool save_due(const Run *run)
{
    uint64_t every = (uint64_t)run->settings.save_steps;
    return run->done == run->total || (every && run->done % every == 0);
}

/* planned: the same in every run of these settings, so that it belongs into the metrics. */
static Err *audit_now(Run *run, bool planned)
{
    Json *result;
    TRY(audit_check(run->audit, &run->dp, run->step, planned, &result));
    if (!planned) {
        json_free(result);
        return NULL;
    }
    Json *line = run_line(run);
    json_add(line, "audit", result);
    return run_note(run, line);
}

static Err *save_now(Run *run)
{
    if (run->board) TRY(tensorboard_picture(run->board, run->done));
    return run_save(run, run->settings.output_dir, (size_t)run->settings.save_total_limit);
}

/* ---- signals ---------------------------------------------------------------------------------------------------- */

/* The last finished step is saved, and how the run ends says so. Takes err. */
static Err *stop(Run *run, Err *err)
{
    Err *failed = run_save(run, run->settings.output_dir, (size_t)run->settings.save_total_limit);
    if (failed) {
        err_free(err);
        return failed;
    }
    err_free(err);
    return err_new(ERR_STOPPED,
                   "stopped by a signal after step %llu, which is saved; go on with --resume_from_checkpoint auto",
                   (unsigned long long)run->done);
}

/* A signal on one rank counts for all, after the same step. */
static Err *obey_signals(Run *run)
{
    unsigned asked = dp_any(&run->dp, (signals_stop ? 1U : 0U) | (signals_save ? 2U : 0U));
    if (asked & 1) return err_new(ERR_STOPPED, "stopped between two steps");
    if (!(asked & 2)) return NULL;
    signals_save = 0;
    TRY(audit_now(run, false));
    TRY(save_now(run));
    log_line("  saved     step %llu, as SIGUSR1 asked", (unsigned long long)run->done);
    return NULL;
}

/* ---- the run ---------------------------------------------------------------------------------------------------- */

static Err *step_after_step(Loop *loop)
{
    Run *run = loop->run;
    if (eval_due(run)) { /* at the start, or because a signal came in between */
        TRY(run_evaluate(run));
        if (run->done && save_due(run)) TRY(save_now(run));
    }
    while (run->done < run->total && !run_is_out_of_patience(run)) {
        TRY(take_step(loop));
        bool due = save_due(run);
        if (run->done == 1 || due) TRY(audit_now(run, true));
        if (eval_due(run)) TRY(run_evaluate(run));
        if (run_is_out_of_patience(run) && !due) TRY(audit_now(run, false));
        if (due || run_is_out_of_patience(run)) TRY(save_now(run));
        if (run->done < run->total) TRY(obey_signals(run));
    }
    return NULL;
}

static Err *export_adapter(Run *run, const char *path)
{
    TRY(adapter_export(run->adapter, path, run->settings.model_name_or_path, run->settings.bf16_adapter));
    TRY(audit_export(run->adapter, path));
    log_line("  adapter   %s, read back and compared", path);
    return NULL;
}

static Err *finish(Run *run)
{
    char path[PATH_BYTES], base[DIGEST_BYTES];
    const Progress *p = &run->progress;
    if (run_is_out_of_patience(run))
        log_line("  stopped   early: %llu evaluations brought nothing better", (unsigned long long)p->waited);
    if (p->best_step)
        log_line("  best      step %llu, loss %.4f%s", (unsigned long long)p->best_step, p->best_loss,
                 run->settings.keep_best ? ", in best/" : "");
    weights_digest(run->model->weights, base);
    if (strcmp(base, run->base_digest) != 0)
        return err_new(ERR_FORMAT, "the base model's files changed while this run read them");
    TRY(file_join(path, run->settings.output_dir, "adapter"));
    if (run->dp.rank == 0) TRY(export_adapter(run, path));
    run_describe_read(run);
    if (!*run->state_digest) return NULL;
    log_line("  state     %s", run->state_digest);
    Json *line = json_new_object();
    json_add_number(line, "step", (double)run->done);
    json_add_string(line, "state_sha256", run->state_digest);
    return metrics_write(&run->metrics, line);
}

Err *loop_run(Run *run)
{
    Loop loop = {.run = run, .started = log_seconds(), .first = run->done};
    signals_catch();
    run_describe(run);
    Err *err = step_after_step(&loop);
    if (err && err_kind(err) == ERR_STOPPED) return stop(run, err);
    if (!err && run->done > loop.first) run_describe_use(run, run->done - loop.first, log_seconds() - loop.started);
    if (!err) err = run_write_timing(run);
    return err ? err : dp_agree(&run->dp, finish(run));
}
