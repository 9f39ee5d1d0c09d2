/* The forward passes of the operations, slow and obvious: plain loops in double, straight from the equations of
 * autograd/op.h. Only the structs that describe an operation are shared with the code under test. Choices (ids, keys,
 * masks) are inputs and constants, as they are for gradients; reference_choose and reference_index compute them. */
#ifndef GRAFT_TESTS_SUPPORT_REFERENCE_H
#define GRAFT_TESTS_SUPPORT_REFERENCE_H

#include "autograd/op.h"

/* One element of a weight, as double. */
double reference_at(const Weight *W, size_t row, size_t col);

/* y = x W', with W as it is stored, or as doubles. */
void reference_project(size_t T, size_t D, size_t O, double y[T][O], const double x[T][D], const Weight *W);
void reference_linear(size_t T, size_t D, size_t O, double y[T][O], const double x[T][D], const double W[O][D]);

/* y[:, col : col + N] += s (x keep) A' B'. keep [T][D]: what dropout multiplies with; NULL: ones. */
void reference_lora(size_t T, size_t D, size_t O, size_t N, size_t R, double y[T][O], size_t col, double s,
                    const double x[T][D], const double *keep, const double A[R][D], const double B[N][R]);

void reference_rmsnorm(size_t T, size_t D, size_t n, double y[T][n], const double x[T][D], size_t col,
                       const float *weight, double eps);
void reference_layernorm(size_t T, size_t D, double y[T][D], const double x[T][D], const float *weight,
                         const float *bias, double eps);

/* In place, like the operation. */
void reference_rope(const Group *group, size_t D, double x[group->T][D], const RopeTable *table, size_t col,
                    size_t heads, size_t stride, bool interleaved);

/* The indexer's score of one key for one query: q [n_heads][dim], k [dim], w [n_heads]. */
double reference_index(const IndexShape *shape, const float *q, const float *k, const float *w);

bool reference_sees(const Keys *keys, const Group *group, size_t d, size_t row, size_t key);

void reference_attention(const Group *group, const AttentionShape *s, size_t krw, double o[group->T][s->n_heads * s->v],
                         const double q[group->T][s->n_heads * (s->nope + s->rope)],
                         const double kv[group->T][s->n_heads * (s->nope + s->v)], const double kr[group->T][krw],
                         size_t kr_col, const Keys *keys);

double reference_sigmoid(double x);
void reference_swiglu(size_t T, size_t F, double a[T][F], const double x[T][2 * F]);

/* The K experts of one token, ascending: best groups first, then best experts in them; ties to the lower id. */
void reference_choose(const RouterShape *shape, const double *logits, const float *bias, int32_t *ids);
void reference_route(size_t T, const RouterShape *shape, double w[T][shape->K], const double z[T][shape->E],
                     const int32_t *ids);

/* One expert and its LoRA in double: `in` on gate and up, `out` on down; r 0: none. in_rows: rows of in_B. */
typedef struct {
    const Weight *gate, *up, *down;
    size_t in_r, in_rows, in_col, out_r;
    double in_scale, out_scale;
    const double *in_A, *in_B, *out_A, *out_B;
} ReferenceExpert;

void reference_experts(size_t T, size_t D, size_t K, double y[T][D], const double x[T][D], const double w[T][K],
                       const int32_t *ids, const ReferenceExpert *experts);

/* The values of the balance losses of L layers' logits over one step. */
BalanceValues reference_balance(const Group *step, size_t L, const RouterShape *shape, const double *const *logits);

void reference_loss(size_t T, size_t D, double nll[T], const double x[T][D], const Weight *W, const int32_t *targets);

#endif
