/* Metrics over many records, compared with the base's. A metric is sum(top) / sum(bottom) over the records. */
#ifndef GRAFT_INFER_SUMMARY_H
#define GRAFT_INFER_SUMMARY_H

#include "infer/bootstrap.h"

#include <stdbool.h>

/* The kinds of records, and the metrics of each:
 *   LOSS     per token in the loss: loss, token_accuracy, kl = KL(adapter || base), kl_base = KL(base || adapter)
 *   CHOICE   per question: accuracy (the right choice has the largest log-likelihood per token),
 *            accuracy_sum (it has the largest sum)
 *   WRITTEN  per sample: exact_match */
typedef enum { RECORD_LOSS, RECORD_CHOICE, RECORD_WRITTEN, RECORD_KINDS } RecordKind;
enum { RECORD_METRICS = 4, SUMMARY_METRICS = RECORD_METRICS + 1 };
const char *record_kind_name(RecordKind kind);
const char *record_metric(RecordKind kind, size_t i); /* NULL after the last */

typedef struct {
    double top[RECORD_METRICS];
} RecordScore;

typedef struct {
    const char *name;
    double value;
    Interval difference; /* value less the base's, over the same records; zeros for the base and for perplexity */
    bool compared;
} Metric;

typedef struct {
    size_t n;
    Metric metrics[SUMMARY_METRICS];
} Summary;

typedef struct {
    size_t n_draws;
    double level; /* of the interval: 0.95 */
    uint64_t seed;
} Draws;

/* Summarise n records: bottom [n], own [n], base [n], or NULL when this is the base itself. */
MUST_USE Err *summarise(Summary *summary, RecordKind kind, size_t n, const double *bottom, const RecordScore *own,
                        const RecordScore *base, const Draws *draws);

const Metric *summary_find(const Summary *summary, const char *name); /* NULL: none of that name */

/* A condition that makes an evaluation fail: METRIC (< | <= | > | >=) (NUMBER | base | base (+ | - | *) NUMBER). */
typedef struct {
    char metric[32];
    bool less, equal, with_base;
    char sign; /* between base and number; 0: none */
    double number;
} FailCondition;

MUST_USE Err *fail_condition_read(FailCondition *condition, const char *text);
bool fail_condition_applies(const FailCondition *condition, RecordKind kind); /* has this kind the metric? */

/* Is the condition true? false when the summary has no such metric. */
bool fail_condition_holds(const FailCondition *condition, const Summary *summary, const Summary *base);

#endif
