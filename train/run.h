/* A training run: everything opened, in order, and closed again. */
#ifndef GRAFT_TRAIN_RUN_H
#define GRAFT_TRAIN_RUN_H

#include "base/digest.h"
#include "data/records/loader.h"
#include "infer/adapter_io.h"
#include "optim/schedule.h"
#include "train/audit.h"
#include "train/evaluate.h"
#include "train/metrics.h"
#include "plan/step_time.h"
#include "train/settings.h"
#include "train/tensorboard.h"

/* What a run remembers from step to step besides adapter and moments. */
typedef struct {
    double best_loss;   /* lowest evaluation loss */
    uint64_t best_step; /* 0: none yet */
    uint64_t waited;    /* evaluations since then */
    bool evaluated;     /* the evaluation that is due after the last step is done */
    double smoothed_loss;
} Progress;

/* Where the time of steps went, but for the first of this process: it meets cold memory. */
typedef struct {
    Timing timing;
    uint64_t steps;
    double seconds;
} RunTiming;

typedef struct {
    Settings settings;
    Dp dp;
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
    uint64_t tokens_seen;      /* by this process */
    uint64_t loss_tokens_seen; /* since the start, resumed or not */
    char *config_json;
    RunTiming run_timing; /* of settings.timing */
    StepWork work;
    Budget budget;
    Plan plan; /* of the same, when `planned`: this machine was measured */
    bool planned;
    double flops;                                /* of a step with the longest documents, all ranks */
    const char *scratch_dir;                     /* NULL: boundaries stay in memory; borrowed from settings */
    char state_digest[2 * DIGEST_SUM_BYTES + 1]; /* of the last save: SHA-256 of values and moments; rank 0 knows it */
    char base_digest[DIGEST_BYTES], data_digest[DATASET_DIGEST];
} Run;

/* Read the settings (a configuration file and --key value), open files, attach the adapter, resume when asked.
 * dp is open already. Fails as each part does; run_close is safe after it. */
MUST_USE Err *run_open(Run *run, int argc, char **argv);
void run_close(Run *run);

/* Share out memory_limit, stream the weights if they must be; fails before anything large is read when a run cannot fit.
 * Collective. What was planned, and at the end what happened: lines for people. */
MUST_USE Err *run_fit_memory(Run *run);
void run_describe_memory(const Run *run);
void run_describe_use(const Run *run, uint64_t steps, double seconds);

/* Save a checkpoint of the last finished step into a directory, of which the `keep` newest stay (0: all). Collective. */
MUST_USE Err *run_save(Run *run, const char *directory, size_t keep);

/* Where the best step is kept. */
MUST_USE Err *run_best_directory(const Run *run, char path[PATH_BYTES]);

/* Take over the state of a checkpoint, cut the metrics back. Collective. */
MUST_USE Err *run_resume(Run *run, const char *path);

/* What is trained, on what, how: a few lines for people. */
void run_describe(const Run *run);
void run_describe_read(const Run *run); /* of data that was read step by step: what it came to */

/* Take a step of so many seconds into the profile; at the end a table on stdout, and profile.jsonl in output_dir. */
void run_time_step(Run *run, bool first, double seconds);
MUST_USE Err *run_write_timing(const Run *run);

/* What is wrong with a step whose numbers are not finite: its gradients once more, looking after every operation.
 * Takes err, gives back what it found instead. */
MUST_USE Err *run_find_fault(Run *run, Err *err);

/* The documents of the step that follows `done` ones, cut for this run. group_tokens 1: every micro-batch alone. */
MUST_USE Err *run_batch(const Run *run, size_t group_tokens, Batch *batch);

/* A new line for the metrics, which says where it stands; and write it where metrics go. The line is taken. */
Json *run_line(const Run *run);
MUST_USE Err *run_note(Run *run, Json *line);

/* Evaluate on all held-out files, note every file's and domain's loss, keep the best step. Collective. */
MUST_USE Err *run_evaluate(Run *run);
bool run_is_out_of_patience(const Run *run);

/* Train to the end, or until a signal: then the last finished step is saved and ERR_STOPPED returned. Collective. */
MUST_USE Err *loop_run(Run *run);

#endif
