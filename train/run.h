/* A training run: what it holds, how it is opened, what happens in it and how it is closed.
 *
 * The functions below are in several files; a heading names the file of each group. Calls go one way:
 *     run.c       opens a run: it calls run_memory.c and run_checkpoint.c (to resume)
 *     run_loop.c  takes the steps: it calls all others */
#ifndef GRAFT_TRAIN_RUN_H
#define GRAFT_TRAIN_RUN_H

#include "base/digest.h"
#include "base/lock_file.h"
#include "data/records/loader.h"
#include "infer/adapter_io.h"
#include "optim/schedule.h"
#include "train/audit.h"
#include "train/evaluate.h"
#include "train/metrics.h"
#include "plan/step_time.h"
#include "train/settings.h"
#include "train/tensorboard.h"

/* The state that goes from step to step besides the adapter and its moments. A checkpoint holds it. */
typedef struct {
    double best_loss;   /* lowest evaluation loss */
    uint64_t best_step; /* 0: none yet */
    uint64_t waited;    /* evaluations since the best one */
    bool evaluated;     /* the last finished step has been evaluated */
    double smoothed_loss;
} Progress;

/* Where the time of the steps went. The first step of this process is not counted: its memory is cold. */
typedef struct {
    Timing timing;
    uint64_t steps;
    double seconds;
} RunTiming;

/* One step: its learning rates, its losses and its time. */
typedef struct {
    StepRates rates;
    StepResult result;
    double began, seconds; /* by log_seconds */
} StepReport;

typedef struct {
    Settings settings;
    Dp dp;
    LockFile lock; /* of output_dir; rank 0 holds it for the whole run */
    Model *model;
    Adapter *adapter;
    Tokenizer *tokenizer;
    Dataset *train, **evals; /* one for each eval_file */
    Loader *loader;
    BalanceValues *balance; /* [n_layers], NULL: no balance loss */
    Step *step;
    Audit *audit;
    Metrics metrics;
    TensorBoard *board; /* NULL: none, and on ranks that do not write */
    Progress progress;
    Schedule schedule;
    uint64_t done, total;      /* steps */
    uint64_t first;            /* steps that were done when this process began */
    double started;            /* by log_seconds, when its first step began */
    double saved;              /* by log_seconds, when it last saved a checkpoint, or began */
    uint64_t tokens_seen;      /* by this process */
    uint64_t loss_tokens_seen; /* since the start, resumed or not */
    char *config_json;
    RunTiming run_timing; /* with settings.timing */
    StepWork work;
    Budget budget;
    Plan plan;               /* of the time of a step; only when `planned` */
    bool planned;            /* `graft doctor` has measured this machine */
    double flops;            /* of a step with the longest documents, all ranks together */
    const char *scratch_dir; /* for layer inputs; NULL: they are in memory. Borrowed from settings */
    char state_digest[2 * DIGEST_SUM_BYTES + 1]; /* SHA-256 of values and moments at the last save; only on rank 0 */
    char base_digest[DIGEST_BYTES], data_digest[DATASET_DIGEST];
} Run;

/* ---- run.c ------------------------------------------------------------------------------------------------------ */

/* Read the settings (a configuration file and --key value), open files, attach the adapter, resume when asked.
 * dp is open already. Fails as each part does; run_close is safe after it. */
MUST_USE Err *run_open(Run *run, int argc, char **argv);
void run_close(Run *run);

/* ---- run_memory.c ----------------------------------------------------------------------------------------------- */

/* Plan the memory of the run within memory_limit, and stream the weights if they do not fit. If the run cannot fit, it
 * fails before anything large is read. Collective. */
MUST_USE Err *run_fit_memory(Run *run);

/* Print what was planned, and at the end what was used. */
void run_describe_memory(const Run *run);
void run_describe_use(const Run *run, uint64_t steps, double seconds);

/* ---- run_checkpoint.c ------------------------------------------------------------------------------------------- */

/* Save a checkpoint of the last finished step into a directory and keep the `keep` newest there (0: all).
 * Collective. */
MUST_USE Err *run_save(Run *run, const char *directory, size_t keep);

/* Load the state of a checkpoint and cut metrics.jsonl back to what it was then. Collective. */
MUST_USE Err *run_resume(Run *run, const char *path);

/* The directory of the best step: output_dir/best. */
MUST_USE Err *run_best_directory(const Run *run, char path[PATH_BYTES]);

/* ---- run_overwrite.c -------------------------------------------------------------------------------------------- */

/* Whether a directory holds a run: metrics, a checkpoint, or an exported adapter. */
MUST_USE Err *run_is_in(const char *directory, bool *holds);

/* Remove everything that a run wrote into output_dir, and nothing else. Fails: ERR_USAGE when this run begins with an
 * adapter of that directory. */
MUST_USE Err *run_overwrite(const Run *run);

/* ---- run_describe.c --------------------------------------------------------------------------------------------- */

/* Print what is trained, on which data and how. */
void run_describe(const Run *run);

/* Print the totals of data that was read step by step, for they are known only at the end. */
void run_describe_read(const Run *run);

/* ---- run_timing.c ----------------------------------------------------------------------------------------------- */

/* Add a step that took `seconds` to the timing. `first`: it was the first step of this process and is not counted.
 * run_write_timing prints the table on stdout and writes output_dir/timing.jsonl. Both do nothing without --timing. */
void run_time_step(Run *run, bool first, double seconds);
MUST_USE Err *run_write_timing(const Run *run);

/* ---- run_report.c ----------------------------------------------------------------------------------------------- */

/* Report a finished step: the line of progress for people, and its line in the metrics. */
MUST_USE Err *run_report_step(Run *run, const StepReport *step);

/* ---- run_metrics.c ---------------------------------------------------------------------------------------------- */

/* A new line of metrics.jsonl, with the step and the epoch. Owner: the caller, until run_note. */
Json *run_line(const Run *run);

/* Write a line to metrics.jsonl and to TensorBoard. Takes ownership of the line. */
MUST_USE Err *run_note(Run *run, Json *line);

/* Finished steps, in epochs. */
double run_epoch(const Run *run);

/* ---- run_batch.c ------------------------------------------------------------------------------------------------ */

/* The batch of the step after the `done` finished ones. group_tokens 1: one micro-batch in every group.
 * Owner: the caller, until batch_free. */
MUST_USE Err *run_batch(const Run *run, size_t group_tokens, Batch *batch);

/* ---- run_fault.c ------------------------------------------------------------------------------------------------ */

/* Find out where a step that was not finite went wrong: recompute its gradients with a check after every operation.
 * Takes ownership of err; returns an error that also names the operation, the micro-batch and its records. */
MUST_USE Err *run_find_fault(Run *run, Err *err);

/* ---- run_evaluate.c --------------------------------------------------------------------------------------------- */

/* Evaluate on every eval_file, write the loss of each file and domain, keep the best step. Collective. */
MUST_USE Err *run_evaluate(Run *run);

/* Whether early_stopping_patience evaluations in a row have brought no lower loss. */
bool run_is_out_of_patience(const Run *run);

/* ---- run_loop.c ------------------------------------------------------------------------------------------------- */

/* Train to the end, or until a signal: then save the last finished step and return ERR_STOPPED. Collective. */
MUST_USE Err *run_loop(Run *run);

#endif
