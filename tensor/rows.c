/* Functions along a row: kernels do the arithmetic, choices are made here.
 *
 * Choices order floats by an integer key: sign and magnitude made one unsigned number, zeros made equal, NaN
 * below -INFINITY so that it is chosen last. row_top_k keeps the k best in a heap with the worst on top. */
#include "tensor/rows.h"

#include "tensor/kernel.h"

#include <math.h>
#include <string.h>

float row_dot(size_t n, const float *a, const float *b) { return kernels->dot(n, a, b); }
float row_sum(size_t n, const float *x) { return kernels->sum(n, x); }
float row_max(size_t n, const float *x) { return kernels->max(n, x); }
void row_add(size_t n, float *y, const float *x) { kernels->axpy(n, y, 1, x); }
void row_axpy(size_t n, float *y, float a, const float *x) { kernels->axpy(n, y, a, x); }
void row_scale(size_t n, float *y, float a, const float *x) { kernels->scale(n, y, a, x); }

float row_softmax(size_t n, float *x)
{
    float max = kernels->max(n, x), sum = kernels->exp(n, x, x, max);
    kernels->scale(n, x, 1 / sum, x);
    return (float)((double)max + log((double)sum));
}

float row_logsumexp(size_t n, const float *x)
{
    float max = kernels->max(n, x), sum = kernels->exp(n, NULL, x, max);
    return (float)((double)max + log((double)sum));
}

void row_exp(size_t n, float *x, float shift) { kernels->exp(n, x, x, shift); }
void row_sigmoid(size_t n, float *y, const float *x) { kernels->sigmoid(n, y, x); }
void row_swiglu(size_t n, float *a, const float *g, const float *u) { kernels->swiglu(n, a, g, u); }

void row_swiglu_backward(size_t n, float *dg, float *du, const float *g, const float *u, const float *da)
{
    kernels->swiglu_backward(n, dg, du, g, u, da);
}

/* ---- choices ------------------------------------------------------------------------------------------------- */

static inline uint32_t key_of(float x)
{
    uint32_t bits;
    float value = x + 0.0f; /* -0 becomes 0 */
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return 0;
    return bits >> 31 ? ~bits : bits | 0x80000000;
}

/* a is chosen after b. */
static inline bool worse(const float *x, int32_t a, int32_t b)
{
    uint32_t key_a = key_of(x[a]), key_b = key_of(x[b]);
    return key_a < key_b || (key_a == key_b && a > b);
}

/* Put id at `at` of a heap of n, and let it sink below all ids that are worse. */
static void sink(size_t n, int32_t *heap, size_t at, int32_t id, const float *x)
{
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && worse(x, heap[child + 1], heap[child])) child++;
        if (!worse(x, heap[child], id)) break;
        heap[at] = heap[child];
    }
    heap[at] = id;
}

int32_t row_largest(size_t n, const float *x)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return (int32_t)best;
}

void row_top_k(size_t n, size_t k, int32_t *ids, const float *x)
{
    if (k == 0) return;
    for (size_t i = 0; i < k; i++) ids[i] = (int32_t)i;
    for (size_t i = k / 2; i-- > 0;) sink(k, ids, i, ids[i], x);
    for (size_t i = k; i < n; i++)
        if (key_of(x[i]) > key_of(x[ids[0]])) sink(k, ids, 0, (int32_t)i, x); /* of equals the lower id is kept */
    for (size_t left = k - 1; left > 0; left--) {                             /* the worst goes last */
        int32_t last = ids[left];
        ids[left] = ids[0];
        sink(left, ids, 0, last, x);
    }
}

void row_top_k_set(size_t n, size_t k, uint64_t *bits, const float *x, uint32_t *scratch)
{
    if (k == 0)
        memset(bits, 0, (n + 63) / 64 * sizeof *bits);
    else
        kernels->index->top_k_set(n, k, bits, x, (int32_t *)scratch);
}
