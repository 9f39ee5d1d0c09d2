/* Step after step: train, note, evaluate, save. What follows a step always has this order:
 *     metrics of the step, audit (after step 1 and before planned saves), evaluation, checkpoint, signals and the clock
 * so that a resume from a checkpoint writes exactly the lines that are missing. */
#include "base/log.h"
#include "train/balance.h"
#include "train/dump.h"
#include "train/run.h"
#include "train/signals.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- one step --------------------------------------------------------------------------------------------------- */

static StepRates rates_now(const Run *run)
{
    const Settings *s = &run->settings;
    double router = s->router_learning_rate > 0 ? s->router_learning_rate : s->learning_rate;
    return (StepRates){.A = schedule_rate(&run->schedule, s->learning_rate, run->done),
                       .B = schedule_rate(&run->schedule, s->learning_rate * s->loraplus_lr_ratio, run->done),
                       .router = schedule_rate(&run->schedule, router, run->done)};
}

/* The step's documents; and a dump to fill where one is asked for and this is the first step of the process. */
static Err *next_batch(const Run *run, Batch *batch, Dump **dump)
{
    TRY(run_batch(run, run->budget.group_tokens, batch));
    return run->settings.dump && run->done == run->first ? dump_new(dump, batch->T) : NULL;
}

static Err *update(Run *run, Dump *dump, StepReport *step)
{
    if (dump) TRY(dump_write(dump, &run->dp, run->step, run->adapter, run->done + 1, run->settings.dump));
    TRY(step_update(run->step, run->done + 1, &step->rates, &step->result));
    audit_observe(run->audit, &run->dp, run->step);
    if (run->settings.router_bias_update_rate > 0)
        balance_move_biases(run->adapter, run->step, run->settings.router_bias_update_rate);
    return NULL;
}

/* What went wrong in a step. Takes err. */
static Err *explain(Run *run, Err *err)
{
    if (err_kind(err) == ERR_STOPPED) return err;
    if (err_kind(err) == ERR_NUMERIC) err = run_find_fault(run, err);
    return err_wrap(err, "step %llu", (unsigned long long)run->done + 1);
}

/* The step is finished: count it, then tell people and metrics. */
static Err *report(Run *run, StepReport *step)
{
    Progress *p = &run->progress;
    p->smoothed_loss = run->done == 0 ? step->result.loss : 0.95 * p->smoothed_loss + 0.05 * step->result.loss;
    p->evaluated = false;
    run->done++;
    run->tokens_seen += step->result.tokens;
    run->loss_tokens_seen += step->result.n_loss_tokens;
    step->seconds = log_seconds() - step->began;
    run_time_step(run, run->done == run->first + 1, step->seconds);
    return run_report_step(run, step);
}

static Err *take_step(Run *run)
{
    Batch batch = {0};
    Dump *dump = NULL;
    StepReport step = {.rates = rates_now(run), .began = log_seconds()};
    Err *err = next_batch(run, &batch, &dump);
    if (!err) err = step_forward(run->step, &batch, run->done, dump_probe(dump), &step.result);
    if (!err) err = step_backward(run->step, &step.result);
    if (!err) err = update(run, dump, &step);
    batch_free(&batch);
    dump_free(dump);
    return err ? explain(run, err) : report(run, &step);
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
    TRY(run_save(run, run->settings.output_dir, (size_t)run->settings.save_total_limit));
    run->saved = log_seconds();
    return NULL;
}

/* ---- signals and the clock --------------------------------------------------------------------------------------- */

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

/* save_minutes have passed since the last checkpoint, by the clock of rank 0. */
static bool minutes_are_over(const Run *run)
{
    double minutes = run->settings.save_minutes;
    return run->dp.rank == 0 && minutes > 0 && log_seconds() - run->saved >= 60 * minutes;
}

/* What one rank is asked to do all ranks do, after the same step. */
static Err *obey(Run *run)
{
    enum { STOP = 1, SAVE = 2, MINUTES = 4 };
    unsigned asked = (signals_stop ? STOP : 0U) | (signals_save ? SAVE : 0U) | (minutes_are_over(run) ? MINUTES : 0U);
    asked = dp_any(&run->dp, asked);
    if (asked & STOP) return err_new(ERR_STOPPED, "stopped between two steps");
    if (!asked) return NULL;
    if (asked & SAVE) signals_save = 0;
    TRY(audit_now(run, false));
    TRY(save_now(run));
    if (asked & SAVE) log_line("  saved     step %llu, as SIGUSR1 asked", (unsigned long long)run->done);
    return NULL;
}

/* ---- the run ---------------------------------------------------------------------------------------------------- */

static Err *step_after_step(Run *run)
{
    if (eval_due(run)) { /* at the start, or because a signal came in between */
        TRY(run_evaluate(run));
        if (run->done && save_due(run)) TRY(save_now(run));
    }
    while (run->done < run->total && !run_is_out_of_patience(run)) {
        TRY(take_step(run));
        bool due = save_due(run);
        if (run->done == 1 || due) TRY(audit_now(run, true));
        if (eval_due(run)) TRY(run_evaluate(run));
        if (run_is_out_of_patience(run) && !due) TRY(audit_now(run, false));
        if (due || run_is_out_of_patience(run)) TRY(save_now(run));
        if (run->done < run->total) TRY(obey(run));
    }
    return NULL;
}

static Err *export_adapter(Run *run, const char *path)
{
    TRY(adapter_export(run->adapter, path, run->settings.model_name_or_path, run->settings.bf16_adapter));
    TRY(audit_export(run->adapter, path));
    log_line("  adapter   %s: step %llu, read back and compared", path, (unsigned long long)run->done);
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

Err *run_loop(Run *run)
{
    run->started = run->saved = log_seconds();
    run->first = run->done;
    signals_catch();
    run_describe(run);
    Err *err = step_after_step(run);
    if (err && err_kind(err) == ERR_STOPPED) return stop(run, err);
    if (!err && run->done > run->first) run_describe_use(run, run->done - run->first, log_seconds() - run->started);
    if (!err) err = run_write_timing(run);
    return err ? err : dp_agree(&run->dp, finish(run));
}
