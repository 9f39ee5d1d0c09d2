#define _GNU_SOURCE /* qsort_r */
#include "infer/sample.h"

#include "base/rng.h"
#include "tensor/rows.h"

#include <stdlib.h>

static int32_t largest(size_t V, const float *logits)
{
    size_t best = 0;
    for (size_t i = 1; i < V; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

static int likelier_first(const void *a, const void *b, void *context)
{
    const float *p = context;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (p[x] != p[y]) return p[x] > p[y] ? -1 : 1;
    return (x > y) - (x < y);
}

/* How many of the n likeliest tokens top_p keeps, and their probability together. */
static size_t nucleus(double top_p, size_t n, const float *p, const uint32_t *order, double *kept)
{
    double whole = 0, share = top_p > 0 && top_p < 1 ? top_p : 1;
    for (size_t i = 0; i < n; i++) whole += (double)p[order[i]];
    size_t count = 0;
    *kept = 0;
    while (count < n && (count == 0 || *kept < share * whole)) *kept += (double)p[order[count++]];
    return count;
}

int32_t sample_token(const Sampling *sampling, uint64_t index, size_t V, float *logits, uint32_t *order)
{
    if (sampling->temperature <= 0) return largest(V, logits);
    double top = (double)logits[largest(V, logits)]; /* taken off first: a low temperature must not overflow */
    for (size_t i = 0; i < V; i++) {
        logits[i] = (float)(((double)logits[i] - top) / sampling->temperature);
        order[i] = (uint32_t)i;
    }
    row_softmax(V, logits);
    qsort_r(order, V, sizeof *order, likelier_first, logits);
    size_t most = sampling->top_k > 0 && (size_t)sampling->top_k < V ? (size_t)sampling->top_k : V;
    double kept;
    size_t n = nucleus(sampling->top_p, most, logits, order, &kept);
    double u = rng_uniform_double(rng_name(sampling->seed, "sample"), index) * kept;
    for (size_t i = 0; i + 1 < n; i++) {
        u -= (double)logits[order[i]];
        if (u < 0) return (int32_t)order[i];
    }
    return (int32_t)order[n - 1];
}
