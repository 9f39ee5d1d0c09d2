/* Evaluation during a run: the loss of every eval_file and of its domains, the best step, early stopping.
 *
 * A signal may stop an evaluation. Nothing is written until all files are evaluated, so the evaluation is repeated as a
 * whole after the resume, and metrics.jsonl has each line once. */
#include "base/log.h"
#include "base/memory.h"
#include "ckpt/adapter_file.h"
#include "train/run.h"
#include "train/signals.h"

#include <math.h>
#include <stdlib.h>

/* ---- the best step -------------------------------------------------------------------------------------------- */

/* Save and export the best step at once. save_total_limit does not count it. */
static Err *save_best(Run *run)
{
    char best[PATH_BYTES];
    TRY(run_best_directory(run, best));
    TRY(run_save(run, best, 1));
    if (run->dp.rank != 0) return NULL;
    return adapter_export(run->adapter, best, run->settings.model_name_or_path, run->settings.bf16_adapter);
}

/* Take the mean loss of an evaluation into the progress of the run. */
static Err *update_best(Run *run, double loss)
{
    Progress *p = &run->progress;
    p->evaluated = true;
    if (run->done == 0) return NULL; /* the base model's loss */
    if (p->best_step && !(loss < p->best_loss)) {
        p->waited++;
        return NULL;
    }
    *p = (Progress){.best_loss = loss, .best_step = run->done, .evaluated = true, .smoothed_loss = p->smoothed_loss};
    return run->settings.keep_best ? dp_agree(&run->dp, save_best(run)) : NULL;
}

bool run_is_out_of_patience(const Run *run)
{
    return run->settings.early_stopping_patience &&
           run->progress.waited >= (uint64_t)run->settings.early_stopping_patience;
}

/* ---- lines ---------------------------------------------------------------------------------------------------- */

static double loss_of(const EvalPart *part) { return part->nll / (double)part->n_loss_tokens; }

static void report(const Run *run, const char *file, const EvalPart *part)
{
    bool several = run->settings.eval_file.count > 1;
    double loss = loss_of(part);
    if (part->domain) {
        log_line("            domain %s: loss %.4f, perplexity %.2f, %zu tokens in the loss", part->domain, loss,
                 exp(loss), part->n_loss_tokens);
        return;
    }
    log_line("  evaluated step %llu: loss %.4f, perplexity %.2f, %zu tokens in the loss%s%s",
             (unsigned long long)run->done, loss, exp(loss), part->n_loss_tokens, several ? " of " : "",
             several ? file : "");
}

static Err *note_part(Run *run, const char *file, const EvalPart *part)
{
    report(run, file, part);
    Json *line = run_line(run);
    json_add_number(line, "eval_loss", loss_of(part));
    json_add_number(line, "eval_accuracy", part->right / (double)part->n_loss_tokens);
    json_add_string(line, "eval_file", file);
    if (part->domain) json_add_string(line, "eval_domain", part->domain);
    json_add_number(line, "eval_scored", (double)part->n_loss_tokens);
    return run_note(run, line);
}

/* ---- evaluation ----------------------------------------------------------------------------------------------- */

/* Groups as in a step. The weights are read once for at least MIN_PASS_TOKENS tokens. */
static EvaluateHow evaluate_how(const Run *run)
{
    enum { MIN_PASS_TOKENS = 8192 };
    size_t step = run->work.step_tokens / (size_t)run->dp.size + 1, group = run->budget.group_tokens;
    return (EvaluateHow){.group_tokens = group && group < step ? group : step,
                         .pass_tokens = step > MIN_PASS_TOKENS ? step : MIN_PASS_TOKENS,
                         .stop = &signals_stop};
}

static Err *evaluate_files(Run *run, Evaluation *each)
{
    EvaluateHow how = evaluate_how(run);
    step_release(run->step); /* the evaluation needs the memory of a step */
    for (size_t i = 0; i < run->settings.eval_file.count; i++)
        TRY(evaluate_dataset(&each[i], run->model, &run->dp, run->adapter, run->evals[i], &how));
    return NULL;
}

/* The lines of all files, and the mean loss of all tokens. */
static Err *note_all(Run *run, const Evaluation *each)
{
    const TextList *files = &run->settings.eval_file;
    double nll = 0, n_loss_tokens = 0;
    for (size_t i = 0; i < files->count; i++) {
        nll += each[i].parts[0].nll;
        n_loss_tokens += (double)each[i].parts[0].n_loss_tokens;
        for (size_t p = 0; p < each[i].n; p++) TRY(note_part(run, files->items[i], &each[i].parts[p]));
    }
    if (!isfinite(nll))
        return err_new(ERR_NUMERIC, "the evaluation loss after step %llu is %g", (unsigned long long)run->done, nll);
    return update_best(run, nll / n_loss_tokens);
}

Err *run_evaluate(Run *run)
{
    Evaluation *each;
    TRY(mem_new(&each, run->settings.eval_file.count, sizeof *each));
    Err *err = evaluate_files(run, each);
    if (!err) err = note_all(run, each);
    for (size_t i = 0; i < run->settings.eval_file.count; i++) evaluation_free(&each[i]);
    free(each);
    return err;
}
