/* metrics.jsonl: one JSON object per line, flushed as it is written. A resume cuts the file back to the length that its
 * checkpoint holds. The keys are a file format:
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

/* Open for appending after the first `bytes` bytes; the file is cut there. Fails: ERR_IO; ERR_FORMAT when it is
 * shorter. */
MUST_USE Err *metrics_open(Metrics *metrics, const char *directory, uint64_t bytes);

/* Write one line. Takes ownership of the object. */
MUST_USE Err *metrics_write(Metrics *metrics, Json *line);

MUST_USE Err *metrics_close(Metrics *metrics);

#endif
