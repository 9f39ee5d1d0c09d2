/* Functions along one row. Sums run over 16 fixed lanes whatever the CPU, so a row has the same bits on every path
 * that fuses multiply and add alike. No row is ever empty. */
#ifndef GRAFT_TENSOR_ROWS_H
#define GRAFT_TENSOR_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

float row_dot(size_t n, const float *a, const float *b);
float row_sum(size_t n, const float *x);
float row_max(size_t n, const float *x);
void row_add(size_t n, float *y, const float *x);            /* y += x     */
void row_axpy(size_t n, float *y, float a, const float *x);  /* y += a x   */
void row_scale(size_t n, float *y, float a, const float *x); /* y  = a x   */

/* x = softmax(x) in place; returns log(sum(exp(x))) of the old x. -INFINITY entries become exact zeros; at least one
 * entry must be finite. Error of exp: below 2 ulp. */
float row_softmax(size_t n, float *x);

/* log(sum(exp(x))), x unchanged. */
float row_logsumexp(size_t n, const float *x);

/* x[i] = exp(x[i] - shift). */
void row_exp(size_t n, float *x, float shift);

/* y = 1 / (1 + exp(-x)). */
void row_sigmoid(size_t n, float *y, const float *x);

/* a = silu(g) u,  silu(g) = g sigmoid(g). */
void row_swiglu(size_t n, float *a, const float *g, const float *u);

/* da given: dg = da u sig(g) (1 + g (1 - sig(g))),  du = da silu(g). dg and du are overwritten and may alias g, u. */
void row_swiglu_backward(size_t n, float *dg, float *du, const float *g, const float *u, const float *da);

/* The id of the largest of x[n], of equals the lowest. */
int32_t row_largest(size_t n, const float *x);

/* ids of the k largest of x[n], best first, equal ones by lower id. k <= n. Entries of -INFINITY come last. */
void row_top_k(size_t n, size_t k, int32_t *ids, const float *x);

/* The same choice as a set: bit i of bits[(n + 63) / 64] is set when i is among the k largest (ties to the lower id).
 * scratch: n uint32_t, rounded up to 16. */
void row_top_k_set(size_t n, size_t k, uint64_t *bits, const float *x, uint32_t *scratch);

#endif
