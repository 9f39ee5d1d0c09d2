/* metrics.jsonl: one JSON object a line, flushed as it is written; a resume cuts the file back to what its checkpoint
 * knew. Lines of a step: step, epoch, loss, learning_rate, grad_norm, tokens, scored, balance losses when they act, and
 * last what depends on the clock. Lines of an evaluation, one for
 * each file and for each of its domains: step, epoch, eval_loss, eval_accuracy, eval_file, eval_domain, eval_scored. */
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

/* Open for appending after `bytes` bytes; what is behind them is cut off. Fails: ERR_IO; ERR_FORMAT when shorter. */
MUST_USE Err *metrics_open(Metrics *metrics, const char *directory, uint64_t bytes);

/* Write one line; takes ownership of the object. */
MUST_USE Err *metrics_write(Metrics *metrics, Json *line);

MUST_USE Err *metrics_close(Metrics *metrics);

#endif
