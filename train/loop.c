/* Step after step: train, note, evaluate, save. */
#include "base/log.h"
#include "base/memory.h"
#include "train/run.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t stop_asked;

static void ask_to_stop(int signal_number)
{
    (void)signal_number;
    stop_asked = 1;
}

typedef struct {
    Run *run;
    double smoothed, started, last_loss;
    uint64_t first; /* step at the start of this process */
    double eval_loss;
} Loop;

static double epoch_of(const Run *run, uint64_t step) { return (double)step / (double)loader_steps_per_epoch(run->loader); }

/* ---- one step ------------------------------------------------------------------------------------------------- */

static Err *make_batch(Run *run, Batch *batch)
{
    size_t n;
    const Document *const *docs;
    TRY(loader_documents(run->loader, run->done, &n, &docs));
    return batch_new(batch, &run->dp, n, docs, (size_t)run->settings.micro_batch_tokens, run->budget.group_tokens);
}

static void add_balance(Json *line, const Settings *s, const BalanceValues *b)
{
    if (s->seq_aux_loss_coef > 0) json_add_number(line, "seq_aux_loss", b->seq_aux_loss);
    if (s->aux_loss_coef > 0) json_add_number(line, "aux_loss", b->aux_loss);
    if (s->load_balancing_loss_coef > 0) json_add_number(line, "load_balancing_loss", b->load_balancing_loss);
    if (s->z_loss_coef > 0) json_add_number(line, "z_loss", b->z_loss);
}

static Err *note_step(Loop *loop, const StepResult *result, double rate, double seconds)
{
    Run *run = loop->run;
    Json *line = json_new_object();
    json_add_number(line, "step", (double)run->done);
    json_add_number(line, "epoch", epoch_of(run, run->done));
    json_add_number(line, "loss", result->loss);
    json_add_number(line, "learning_rate", rate);
    json_add_number(line, "grad_norm", result->grad_norm);
    json_add_number(line, "tokens", (double)result->tokens);
    json_add_number(line, "scored", (double)result->scored);
    add_balance(line, &run->settings, &result->balance);
    json_add_number(line, "seconds", seconds);
    json_add_number(line, "tokens_per_second", (double)result->tokens / seconds);
    return metrics_write(&run->metrics, line);
}

static void time_left(char text[32], double seconds)
{
    if (seconds >= 36000) snprintf(text, 32, "%.0f h", seconds / 3600);
    else if (seconds >= 600) snprintf(text, 32, "%.0f min", seconds / 60);
    else snprintf(text, 32, "%.0f s", seconds);
}

static void show_progress(const Loop *loop, const StepResult *result, double rate, double seconds)
{
    const Run *run = loop->run;
    char left[32];
    double per_step = (log_seconds() - loop->started) / (double)(run->done - loop->first);
    time_left(left, per_step * (double)(run->total - run->done));
    bool keep = run->done % (uint64_t)run->settings.logging_steps == 0 || run->done == run->total;
    log_progress(keep, "step %llu/%llu  epoch %.2f  loss %.4f (smoothed %.4f)  lr %.2e  norm %.3f  %.0f tok/s  %.0f MiB  %s left",
                 (unsigned long long)run->done, (unsigned long long)run->total, epoch_of(run, run->done), result->loss, loop->smoothed, rate,
                 result->grad_norm, (double)result->tokens / seconds, (double)log_peak_bytes() / 1048576, left);
}

static Err *take_step(Loop *loop)
{
    Run *run = loop->run;
    Batch batch;
    StepResult result;
    double began = log_seconds();
    double rate = schedule_rate(run->schedule, run->settings.learning_rate, run->done, run->warmup, run->total);
    TRY(make_batch(run, &batch));
    Err *err = step_gradients(run->step, &batch, run->done, NULL, &result);
    if (!err) err = step_update(run->step, run->done + 1, rate, &result);
    batch_free(&batch);
    if (err) return err_wrap(err, "step %llu", (unsigned long long)run->done + 1);
    run->done++;
    run->tokens_seen += result.tokens;
    run->scored_seen += result.scored;
    loop->smoothed = run->done == loop->first + 1 ? result.loss : 0.95 * loop->smoothed + 0.05 * result.loss;
    double seconds = log_seconds() - began;
    show_progress(loop, &result, rate, seconds);
    return note_step(loop, &result, rate, seconds);
}

/* ---- between steps -------------------------------------------------------------------------------------------- */

static Err *evaluate_now(Loop *loop)
{
    Run *run = loop->run;
    Evaluation e;
    const Settings *s = &run->settings;
    TRY(evaluate_dataset(run->step, &run->dp, run->adapter, run->eval, (size_t)s->micro_batch_tokens, run->budget.group_tokens, &e));
    double loss = e.nll / (double)e.scored;
    log_line("  held out  step %llu: loss %.4f, perplexity %.2f, %zu scored tokens", (unsigned long long)run->done, loss, exp(loss), e.scored);
    Json *line = json_new_object();
    json_add_number(line, "step", (double)run->done);
    json_add_number(line, "epoch", epoch_of(run, run->done));
    json_add_number(line, "eval_loss", loss);
    json_add_string(line, "eval_file", s->eval_file);
    json_add_number(line, "eval_scored", (double)e.scored);
    return metrics_write(&run->metrics, line);
}

static bool eval_due(const Run *run)
{
    if (!run->eval) return false;
    uint64_t every = run->settings.eval_steps ? (uint64_t)run->settings.eval_steps : loader_steps_per_epoch(run->loader);
    return run->done % every == 0 || run->done == run->total;
}

static bool save_due(const Run *run)
{
    uint64_t every = (uint64_t)run->settings.save_steps;
    return run->done == run->total || (every && run->done % every == 0);
}

/* A signal on one rank stops all, after the same step. */
static Err *stop_if_asked(Loop *loop)
{
    Run *run = loop->run;
    Err *err = dp_agree(&run->dp, stop_asked ? err_new(ERR_STOPPED, "stopped by a signal after step %llu", (unsigned long long)run->done) : NULL);
    if (!err || err_kind(err) != ERR_STOPPED) return err;
    Err *failed = run_save(run);
    if (failed) {
        err_free(err);
        return failed;
    }
    return err_wrap(err, "saved; go on with --resume_from_checkpoint auto");
}

static Err *finish(Run *run)
{
    char path[PATH_BYTES];
    TRY(file_join(path, run->settings.output_dir, "adapter"));
    if (run->dp.rank == 0) TRY(adapter_export(run->adapter, path, run->settings.model_name_or_path, run->settings.bf16_adapter));
    run_describe_read(run);
    log_line("  adapter   %s", path);
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
    struct sigaction action = {.sa_handler = ask_to_stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL); /* through mpirun */
    run_describe(run);
    if (run->done == 0 && run->eval) TRY(evaluate_now(&loop));
    while (run->done < run->total) {
        TRY(take_step(&loop));
        if (eval_due(run)) TRY(evaluate_now(&loop));
        if (save_due(run)) TRY(run_save(run));
        if (run->done < run->total) TRY(stop_if_asked(&loop));
    }
    run_describe_use(run, run->done - loop.first, log_seconds() - loop.started);
    return dp_agree(&run->dp, finish(run));
}
