/* From logits to a token. */
#ifndef GRAFT_INFER_SAMPLE_H
#define GRAFT_INFER_SAMPLE_H

#include "base/err.h"

#include <stdint.h>

typedef struct {
    double temperature; /* 0: greedy, ties to the lower id */
    double top_p;       /* 1: off; the smallest set of tokens whose probabilities reach it */
    int64_t top_k;      /* 0: off */
    uint64_t seed;
} Sampling;

/* Choose the token of position `index` (which keys the random number). logits [V] are used up; order [V] is scratch.
 * Temperature first, then top_k, then top_p, as transformers does. */
int32_t sample_token(const Sampling *sampling, uint64_t index, size_t V, float *logits, uint32_t *order);

#endif
