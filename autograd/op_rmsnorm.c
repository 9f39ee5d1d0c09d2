/* RMSNorm over n columns of x, and the LayerNorm of the indexer's keys (forward only):
 *     y = w x r,   r = 1 / sqrt(mean(x^2) + eps)
 *     dx += r g - x r^3 (sum_j g_j x_j) / n,   g = dy w
 * x [T][D], w [n], r [T], y [T][n]. Means are sums over fixed lanes (row_dot), so a row's bits depend on the row alone.
 * Source: docs/glm5.md, section 3; Zhang and Sennrich 2019, section 3 (arXiv:1910.07467); Ba et al. 2016
 * (arXiv:1607.06450). */
#include "autograd/op.h"
#include "tensor/rows.h"

#include <math.h>
#include <string.h>

typedef struct {
    size_t col;
    const float *weight;
    float *r; /* [T] */
} RmsnormState;

static void rmsnorm_backward(Node *node)
{
    Tensor *x = node->in[0], *y = node->out;
    const RmsnormState *state = node->state;
    size_t T = x->shape[0], D = x->shape[1], n = y->shape[1];
    float *g = tape_scratch(node->tape, T * n);
    if (!tape_computes(node->tape) || !x->requires_grad) return;
    bool first = tape_first_write(x);
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < T; t++) {
        const float *xt = x->data + t * D + state->col, *dy = y->grad + t * n;
        float *dx = x->grad + t * D + state->col, *gt = g + t * n, r = state->r[t];
        for (size_t i = 0; i < n; i++) gt[i] = dy[i] * state->weight[i];
        float along_x = r * r * r * row_dot(n, gt, xt) / (float)n;
        if (first) memset(x->grad + t * D, 0, D * sizeof *dx); /* also the columns outside the norm */
        for (size_t i = 0; i < n; i++) dx[i] += r * gt[i] - along_x * xt[i];
    }
}

static const Op rmsnorm = {.name = "rmsnorm", .backward = rmsnorm_backward, .overwrites_grad = 1};

Tensor *op_rmsnorm(Tape *tape, Tensor *x, size_t col, size_t n, const float *weight, double eps)
{
    size_t T = x->shape[0], D = x->shape[1];
    Tensor *y = tape_tensor(tape, T, n);
    RmsnormState *state = tape_alloc(tape, sizeof *state);
    float *rs = tape_floats(tape, T);
    if (!tape_expect(tape, col + n <= D, "rmsnorm: columns %zu to %zu of %zu", col, col + n, D)) return &tape->dummy;
    *state = (RmsnormState){col, weight, rs};
    T = tape_rows(tape, T);
#pragma omp parallel for schedule(static) if (T * n >= MIN_ELEMENTS_FOR_THREADS)
    for (size_t t = 0; t < T; t++) {
        const float *xt = x->data + t * D + col;
        float *yt = y->data + t * n, r = (float)(1 / sqrt((double)row_dot(n, xt, xt) / (double)n + eps));
        rs[t] = r;
        for (size_t i = 0; i < n; i++) yt[i] = weight[i] * (xt[i] * r);
    }
    return tape_record(tape, &rmsnorm, y, state, false, 1, (Tensor *[]){x});
}

static const Op layernorm = {.name = "layernorm"};

Tensor *op_layernorm(Tape *tape, Tensor *x, const float *weight, const float *bias, double eps)
{
    size_t T = x->shape[0], D = x->shape[1];
    Tensor *y = tape_tensor(tape, T, D);
    if (tape->err) return &tape->dummy;
    T = tape_rows(tape, T);
#pragma omp parallel for schedule(static) if (T * D >= MIN_ELEMENTS_FOR_THREADS)
    for (size_t t = 0; t < T; t++) {
        const float *xt = x->data + t * D;
        float *yt = y->data + t * D, mean = row_sum(D, xt) / (float)D;
        for (size_t i = 0; i < D; i++) yt[i] = xt[i] - mean;
        float r = (float)(1 / sqrt((double)row_dot(D, yt, yt) / (double)D + eps));
        for (size_t i = 0; i < D; i++) yt[i] = yt[i] * r * weight[i] + bias[i];
    }
    return tape_record(tape, &layernorm, y, NULL, false, 0, NULL);
}
