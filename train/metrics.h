/* metrics.jsonl: one JSON object per line, flushed as it is written, synced before a checkpoint that holds its length.
 * A resume cuts the file back to that length. The keys are a file format:
 *   a step         step, epoch, loss, learning_rate, grad_norm, tokens, "scored" (tokens in the loss), the balance
 *                  losses that are on, and last the values that depend on the clock
 *   an evaluation  step, epoch, eval_loss, eval_accuracy, eval_file, eval_domain, "eval_scored" (tokens in the loss):
 *                  one line for each file and for each of its domains */
#ifndef GRAFT_TRAIN_METRICS_H
#define GRAFT_TRAIN_METRICS_H

#include "base/file.h"
#include "base/json.h"

#include <stdint.h>

typedef struct {
    char path[PATH_BYTES];
    FILE *stream; /* NULL on ranks that do not write */
    uint64_t bytes;
} Metrics;

/* Begin with an empty file. */
MUST_USE Err *metrics_open(Metrics *metrics, const char *directory);

/* Open for appending after the first `bytes` bytes, which a checkpoint of `step` counted. Where lines of them are lost,
 * a warning says how many bytes, and the run goes on after the last whole line up to that step. The file is as it was
 * until metrics_cut, which drops what follows. */
MUST_USE Err *metrics_resume(Metrics *metrics, const char *directory, uint64_t bytes, uint64_t step);
MUST_USE Err *metrics_cut(Metrics *metrics);

/* Write one line. Takes ownership of the object. */
MUST_USE Err *metrics_write(Metrics *metrics, Json *line);

/* Hand all lines to the disk. */
MUST_USE Err *metrics_sync(Metrics *metrics);

MUST_USE Err *metrics_close(Metrics *metrics);

#endif
