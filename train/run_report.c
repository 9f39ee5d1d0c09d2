/* What a finished step reports: a line of progress for people, a line of metrics.jsonl for programs. The keys of the
 * latter are a file format: they keep their names. */
#include "base/log.h"
#include "base/proc_memory.h"
#include "train/balance.h"
#include "train/run.h"

#include <math.h>
#include <stdio.h>

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

/* The line of a step in metrics.jsonl. */
static Err *note_step(Run *run, const StepReport *step)
{
    const StepResult *result = &step->result;
    const StepRates *rates = &step->rates;
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
    json_add_number(line, "seconds", step->seconds);
    json_add_number(line, "tokens_per_second", (double)result->tokens / step->seconds);
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

static void show_progress(const Run *run, const StepReport *step)
{
    const StepResult *result = &step->result;
    char left[32], load[32] = "";
    double per_step = (log_seconds() - run->started) / (double)(run->done - run->first);
    time_left(left, per_step * (double)(run->total - run->done));
    if (worst_load(run) > 0)
        snprintf(load, sizeof load, "max/mean load %.1f  ",
                 worst_load(run)); /* what matters most comes first: rows are cut */
    bool keep = run->done % (uint64_t)run->settings.logging_steps == 0 || run->done == run->total;
    log_progress(
        keep,
        "step %llu/%llu  %s left  loss %.4f (smoothed %.4f)  %.0f tok/s  lr %.2e  norm %.3f  %s%.0f MiB  epoch %.2f",
        (unsigned long long)run->done, (unsigned long long)run->total, left, result->loss, run->progress.smoothed_loss,
        (double)result->tokens / step->seconds, step->rates.A, result->grad_norm, load,
        (double)proc_memory_peak() / 1048576, run_epoch(run));
}

Err *run_report_step(Run *run, const StepReport *step)
{
    show_progress(run, step);
    return note_step(run, step);
}
