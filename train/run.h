/* A training run: everything opened, in order, and closed again. */
#ifndef GRAFT_TRAIN_RUN_H
#define GRAFT_TRAIN_RUN_H

#include "base/digest.h"
#include "data/loader.h"
#include "infer/adapters.h"
#include "optim/schedule.h"
#include "train/budget.h"
#include "train/evaluate.h"
#include "train/metrics.h"
#include "train/settings.h"

typedef struct {
    Settings settings;
    Dp dp;
    Model *model;
    Adapter *adapter;
    Tokenizer *tokenizer;
    Dataset *train, *eval; /* eval NULL: none */
    Loader *loader;
    Step *step;
    Metrics metrics;
    ScheduleKind schedule;
    uint64_t done, total, warmup; /* steps */
    uint64_t tokens_seen, scored_seen;
    char *config_json;
    Work work;
    Budget budget;
    double flops;                 /* of a step with the longest documents, all ranks */
    const char *scratch_dir;      /* NULL: boundaries stay in memory; borrowed from settings */
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

/* Save a checkpoint of the last finished step. Collective. */
MUST_USE Err *run_save(Run *run);

/* Take over the state of a checkpoint, cut the metrics back. Collective. */
MUST_USE Err *run_resume(Run *run, const char *path);

/* What is trained, on what, how: a few lines for people. */
void run_describe(const Run *run);
void run_describe_read(const Run *run); /* of data that was read step by step: what it came to */

/* Train to the end, or until a signal: then the last finished step is saved and ERR_STOPPED returned. Collective. */
MUST_USE Err *loop_run(Run *run);

#endif
