/* Tokens are taken from a heap, the likeliest first, and only as many as the filters need: the vocabulary is never
 * sorted. The order of the filters is that of transformers: temperature, top_k, top_p, min_p. */
#include "infer/sample.h"

#include "base/rng.h"
#include "tensor/rows.h"

#include <stdbool.h>
#include <string.h>

/* ---- a heap of ids: the likeliest on top, ties to the lower id --------------------------------------------------- */

static bool before(const float *p, uint32_t a, uint32_t b) { return p[a] > p[b] || (p[a] == p[b] && a < b); }

static void sink(const float *p, size_t n, uint32_t *heap, size_t i)
{
    uint32_t id = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(p, heap[child + 1], heap[child])) child++;
        if (before(p, id, heap[child])) break;
        heap[i] = heap[child];
    }
    heap[i] = id;
}

static void make_heap(const float *p, size_t n, uint32_t *heap)
{
    for (size_t i = 0; i < n; i++) heap[i] = (uint32_t)i;
    for (size_t i = n / 2; i-- > 0;) sink(p, n, heap, i);
}

/* Move the likeliest id behind the heap, which shrinks to n - 1. */
static uint32_t pop(const float *p, size_t n, uint32_t *heap)
{
    uint32_t top = heap[0];
    heap[0] = heap[n - 1];
    sink(p, n - 1, heap, 0);
    heap[n - 1] = top;
    return top;
}

/* ---- filters ----------------------------------------------------------------------------------------------------- */

static double sum_of(size_t V, const float *p)
{
    double sum = 0;
    for (size_t i = 0; i < V; i++) sum += (double)p[i];
    return sum;
}

/* Pop the ids that pass the filters: they end up behind the heap, the likeliest last. Returns how many there are; *kept
 * is their probability. */
static size_t keep(const Sampling *s, size_t V, const float *p, uint32_t *heap, double *kept)
{
    size_t max_n = s->top_k > 0 && (size_t)s->top_k < V ? (size_t)s->top_k : V, n = 0;
    double whole = sum_of(V, p), share = s->top_p > 0 && s->top_p < 1 ? s->top_p : 1, min_p = 0;
    if (max_n < V && share < 1) { /* top_p is a share of what top_k keeps */
        for (whole = 0; n < max_n; n++) whole += (double)p[pop(p, V - n, heap)];
        size_t count = 0;
        for (*kept = 0; count < n && (count == 0 || *kept < share * whole); count++)
            *kept += (double)p[heap[V - 1 - count]];
        n = count;
    } else {
        for (*kept = 0; n < max_n && (n == 0 || *kept < share * whole); n++) {
            float q = p[pop(p, V - n, heap)];
            if (n == 0) min_p = s->min_p * (double)q;
            if (n && (double)q < min_p) return n;
            *kept += (double)q;
        }
    }
    min_p = s->min_p * (double)p[heap[V - 1]];
    while (n > 1 && (double)p[heap[V - n]] < min_p) *kept -= (double)p[heap[V - n--]];
    return n;
}

/* Draw from the whole vocabulary, in id order. */
static int32_t draw_unfiltered(size_t V, const float *p, double u)
{
    u *= sum_of(V, p);
    for (size_t i = 0; i + 1 < V; i++) {
        u -= (double)p[i];
        if (u < 0) return (int32_t)i;
    }
    return (int32_t)V - 1;
}

int32_t sample_token(const Sampling *s, uint64_t index, size_t V, float *logits, uint32_t *order)
{
    if (s->temperature <= 0) return row_largest(V, logits);
    double top = (double)logits[row_largest(V, logits)]; /* subtracted, so that a low temperature does not overflow */
    for (size_t i = 0; i < V; i++) logits[i] = (float)(((double)logits[i] - top) / s->temperature);
    row_softmax(V, logits);
    double kept, u = rng_uniform_double(rng_name(s->seed, "sample"), index);
    bool filters = s->top_k > 0 || (s->top_p > 0 && s->top_p < 1) || s->min_p > 0;
    if (!filters) return draw_unfiltered(V, logits, u);
    make_heap(logits, V, order);
    size_t n = keep(s, V, logits, order, &kept);
    u *= kept;
    for (size_t i = 0; i + 1 < n; i++) {
        u -= (double)logits[order[V - 1 - i]];
        if (u < 0) return (int32_t)order[V - 1 - i];
    }
    return (int32_t)order[V - n];
}

void sample_penalise(double penalty, size_t n, const int32_t *sequence, size_t V, float *logits, uint32_t *mark)
{
    if (penalty <= 0 || penalty == 1) return;
    memset(mark, 0, V * sizeof *mark);
    for (size_t i = 0; i < n; i++) {
        size_t id = (size_t)sequence[i];
        if (id >= V || mark[id]) continue;
        mark[id] = 1;
        logits[id] = (float)(logits[id] > 0 ? (double)logits[id] / penalty : (double)logits[id] * penalty);
    }
}

double sample_log_probability(size_t V, const float *logits, int32_t token)
{
    return (double)logits[token] - (double)row_logsumexp(V, logits);
}
