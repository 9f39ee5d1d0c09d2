/* Runs of `graft train` as a program, each with the work shared out in another way, and the comparison of their
 * results.
 *
 * Every run has a directory below one scratch folder, and a log beside it. All train the same small adapter: dropout,
 * balance losses, moving biases, router and experts on. The result of a run is the SHA-256 of adapter and moments that
 * its last step reports, and its metrics without what depends on the clock. The first result is kept; the others must
 * equal it. */
#ifndef GRAFT_TESTS_SUPPORT_SHARED_RUNS_H
#define GRAFT_TESTS_SUPPORT_SHARED_RUNS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    RUN_STEPS = 4,        /* of every run */
    RUN_SAVES_AT = 2,     /* the step of its first checkpoint; the second is of its last step */
    RUN_DIRECTORY = 128,  /* bytes of a run's directory */
    RUN_DESCRIPTION = 128 /* bytes of a line's text */
};

typedef struct {
    const char *graft, *model, *data, *compute;
    char scratch[64];
    char state[80]; /* SHA-256 of the first run */
    char *metrics;  /* of the first run */
    bool evaluates; /* compare the lines of evaluations, too */
    uint64_t kill_key;
    uint64_t run_ms; /* what the first run took, start to end */
    size_t passed, failed;
} SharedRuns;

typedef struct {
    const char *group; /* group_tokens */
    int ranks, threads, keep_layers;
    const char *memory; /* memory_limit; NULL: none */
} Sharing;

/* Start graft train in a directory; extra words are added, NULL ends them. Returns its process, or -1. */
pid_t runs_start(const SharedRuns *runs, const char *directory, const Sharing *sharing, const char *const *extra);

/* Start any program with words that NULL ends, stderr to a file. Returns its process, or -1. */
pid_t runs_spawn(const char *const *words, const char *log);

/* Wait for its end. Returns the exit code; -1 when a signal ended it, or it was not started. */
int runs_wait(pid_t child);

/* Run graft train to its end; returns the exit code, and prints the log when it is not 0. */
int runs_train(const SharedRuns *runs, const char *directory, const Sharing *sharing, const char *const *extra);
void runs_print_log(const char *directory);

/* Print a line and count it as passed or failed. */
void runs_count(SharedRuns *runs, const char *what, const char *outcome, bool passed);

/* Compare the result in a directory with the first run's, print and count it; it fails when code is not 0. */
void runs_compare(SharedRuns *runs, const char *what, const char *directory, int code);

/* Train with another setting; the result must differ from the first run's. */
void runs_control(SharedRuns *runs, const char *what, const char *key, const char *value);

bool runs_has_checkpoint(const char *directory, int step);
void runs_remove(const char *directory);
uint64_t runs_now_ms(void);

#endif
