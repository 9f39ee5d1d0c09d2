/* Functions along a row (rows.h) for one instruction set, KERNEL: avx512, avx2 or plain; and the table of all kernels
 * of that instruction set. Sums run over LANES lanes on every CPU; what does not fill the lanes at the end of a row is
 * read from a copy with a neutral filling. */
#include "tensor/vector.h"

#include "tensor/latent.h"

#include <math.h>

enum { CHUNK = 4096 };

/* Load n < W values, the other lanes filled; store the first n values of a vector. */
INLINE V load_part(size_t n, const float *x, float fill)
{
    float lane[W];
    for (size_t i = 0; i < W; i++) lane[i] = i < n ? x[i] : fill;
    return load(lane);
}
INLINE void store_part(size_t n, float *x, V v)
{
    float lane[W];
    store(lane, v);
    for (size_t i = 0; i < n; i++) x[i] = lane[i];
}

/* The last n values of a row, filled up to LANES. */
INLINE const float *filled(float lane[LANES], size_t n, const float *x, float fill)
{
    for (size_t i = 0; i < LANES; i++) lane[i] = i < n ? x[i] : fill;
    return lane;
}

/* Long rows are summed in chunks, and chunks in double, so that an error does not grow with the row. */
static float chunk_dot(size_t n, const float *a, const float *b)
{
    V sum[PARTS] = {{0}};
    float rest_a[LANES], rest_b[LANES];
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t p = 0; p < PARTS; p++) sum[p] = fma_v(load(a + i + p * W), load(b + i + p * W), sum[p]);
    if (i < n) {
        filled(rest_a, n - i, a + i, 0);
        filled(rest_b, n - i, b + i, 0);
        for (size_t p = 0; p < PARTS; p++) sum[p] = fma_v(load(rest_a + p * W), load(rest_b + p * W), sum[p]);
    }
    return fold(sum);
}

static float dot(size_t n, const float *a, const float *b)
{
    double total = 0;
    for (size_t i = 0; i < n; i += CHUNK) total += (double)chunk_dot(size_min(CHUNK, n - i), a + i, b + i);
    return (float)total;
}

static float chunk_sum(size_t n, const float *x)
{
    V sum[PARTS] = {{0}};
    float rest[LANES];
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t p = 0; p < PARTS; p++) sum[p] += load(x + i + p * W);
    if (i < n) filled(rest, n - i, x + i, 0);
    for (size_t p = 0; i < n && p < PARTS; p++) sum[p] += load(rest + p * W);
    return fold(sum);
}

static float sum_row(size_t n, const float *x)
{
    double total = 0;
    for (size_t i = 0; i < n; i += CHUNK) total += (double)chunk_sum(size_min(CHUNK, n - i), x + i);
    return (float)total;
}

/* Ignores NaN. */
static float max_row(size_t n, const float *x)
{
    V max = all(-INFINITY);
    size_t i = 0;
    for (; i + W <= n; i += W) {
        V v = load(x + i);
        max = max_v(v, max);
    }
    if (i < n) {
        V v = load_part(n - i, x + i, -INFINITY);
        max = max_v(v, max);
    }
    float lane[W], best = -INFINITY;
    store(lane, max);
    for (i = 0; i < W; i++) best = lane[i] > best ? lane[i] : best;
    return best;
}

static void axpy(size_t n, float *y, float a, const float *x)
{
    size_t i = 0;
    for (; i + W <= n; i += W) store(y + i, fma_v(all(a), load(x + i), load(y + i)));
    if (i < n) store_part(n - i, y + i, fma_v(all(a), load_part(n - i, x + i, 0), load_part(n - i, y + i, 0)));
}

static void scale(size_t n, float *y, float a, const float *x)
{
    for (size_t i = 0; i < n; i++) y[i] = a * x[i];
}

static float chunk_exp(size_t n, float *y, const float *x, float shift)
{
    V sum[PARTS] = {{0}};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t p = 0; p < PARTS; p++) {
            V e = exp_v(load(x + i + p * W) - all(shift));
            if (y) store(y + i + p * W, e);
            sum[p] += e;
        }
    if (i == n) return fold(sum);
    float rest[LANES], result[LANES];
    filled(rest, n - i, x + i, 0);
    for (size_t p = 0; p < PARTS; p++) store(result + p * W, exp_v(load(rest + p * W) - all(shift)));
    for (size_t k = n - i; k < LANES; k++) result[k] = 0;
    for (size_t p = 0; p < PARTS; p++) sum[p] += load(result + p * W);
    if (y) memcpy(y + i, result, (n - i) * sizeof *y);
    return fold(sum);
}

static float exp_row(size_t n, float *y, const float *x, float shift)
{
    double total = 0;
    for (size_t i = 0; i < n; i += CHUNK)
        total += (double)chunk_exp(size_min(CHUNK, n - i), y ? y + i : NULL, x + i, shift);
    return (float)total;
}

INLINE V sigmoid_v(V x) { return all(1) / (all(1) + exp_v(-x)); }

static void sigmoid(size_t n, float *y, const float *x)
{
    size_t i = 0;
    for (; i + W <= n; i += W) store(y + i, sigmoid_v(load(x + i)));
    if (i < n) store_part(n - i, y + i, sigmoid_v(load_part(n - i, x + i, 0)));
}

static void swiglu(size_t n, float *a, const float *g, const float *u)
{
    size_t i = 0;
    for (; i + W <= n; i += W) {
        V gate = load(g + i);
        store(a + i, gate * sigmoid_v(gate) * load(u + i));
    }
    if (i < n) {
        V gate = load_part(n - i, g + i, 0);
        store_part(n - i, a + i, gate * sigmoid_v(gate) * load_part(n - i, u + i, 0));
    }
}

INLINE void swiglu_backward_v(V *dg, V *du, V g, V u, V da)
{
    V sig = sigmoid_v(g);
    *dg = da * u * sig * fma_v(g, all(1) - sig, all(1));
    *du = da * (g * sig);
}

static void swiglu_backward(size_t n, float *dg, float *du, const float *g, const float *u, const float *da)
{
    size_t i = 0;
    V dgate, dup;
    for (; i + W <= n; i += W) {
        swiglu_backward_v(&dgate, &dup, load(g + i), load(u + i), load(da + i));
        store(dg + i, dgate);
        store(du + i, dup);
    }
    if (i == n) return;
    swiglu_backward_v(&dgate, &dup, load_part(n - i, g + i, 0), load_part(n - i, u + i, 0),
                      load_part(n - i, da + i, 0));
    store_part(n - i, dg + i, dgate);
    store_part(n - i, du + i, dup);
}

const Kernels PASTE(kernels_, KERNEL) = {
    TEXT(KERNEL),
    &PASTE(gemm_kernels_, KERNEL),
    &PASTE(block_kernels_, KERNEL),
    &PASTE(index_kernels_, KERNEL),
    &PASTE(latent_kernels_, KERNEL),
    dot,
    sum_row,
    max_row,
    axpy,
    scale,
    exp_row,
    sigmoid,
    PASTE(gemm_narrow_, KERNEL),
    PASTE(gemm_tn_, KERNEL),
    swiglu,
    swiglu_backward,
};
