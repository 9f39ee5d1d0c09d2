/* Sampling: from logits to a token. */
#ifndef GRAFT_INFER_SAMPLE_H
#define GRAFT_INFER_SAMPLE_H

#include "base/err.h"

#include <stdint.h>

typedef struct {
    double temperature; /* 0: greedy, ties to the lower id */
    double top_p;       /* 1 or 0: off; the smallest set of tokens whose probabilities reach it */
    int64_t top_k;      /* 0: off */
    uint64_t seed;
    double min_p;              /* 0: off; the lowest probability, relative to that of the likeliest token */
    double repetition_penalty; /* 1 or 0: off; above 1 makes tokens that the sequence already has less likely */
} Sampling;

/* Choose the token of position `index` (which keys the random number). logits [V] are overwritten; order [V] is
 * scratch. Temperature first, then top_k, top_p and min_p, as transformers does. The penalty is not applied here. */
int32_t sample_token(const Sampling *sampling, uint64_t index, size_t V, float *logits, uint32_t *order);

/* Before that: divide positive logits of the sequence's tokens by the penalty, multiply negative ones; each token once.
 * mark [V] is scratch.   Source: Keskar et al. 2019, section 4.1 (arXiv:1909.05858), as transformers applies it. */
void sample_penalise(double penalty, size_t n, const int32_t *sequence, size_t V, float *logits, uint32_t *mark);

/* log p of a token, in nats. */
double sample_log_probability(size_t V, const float *logits, int32_t token);

#endif
