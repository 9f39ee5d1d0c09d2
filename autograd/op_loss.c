/* Cross-entropy over the vocabulary, for a few rows of logits at a time:
 *     z = x W',   nll = logsumexp(z) - z[target],   dz = softmax(z) - onehot(target),   dx = dnll dz W
 * x [n][D], W [V][D], z [n][V], nll [n][1]. W is frozen.
 * z and dz exist for a few rows only, so the forward pass computes dx for dnll = 1, and backward scales it.
 * Source: docs/glm5.md, section 9. */
#include "autograd/op.h"
#include "base/minmax.h"
#include "tensor/gemm.h"
#include "tensor/rows.h"

#include <math.h>

enum { MAX_LOGITS = 1 << 22, MIN_LOGITS_ROWS = 128 }; /* fewer rows would read the head's weights too often */

typedef struct {
    float *dx; /* [rows][D] for dnll = 1 */
} LossState;

static void loss_backward(Node *node)
{
    Tensor *x = node->in[0], *nll = node->out;
    const LossState *state = node->state;
    size_t n = x->shape[0], D = x->shape[1];
    bool first = tape_first_write(x);
    if (!tape_computes(node->tape)) return;
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < n; t++) {
        if (first)
            row_scale(D, x->grad + t * D, nll->grad[t], state->dx + t * D);
        else
            row_axpy(D, x->grad + t * D, nll->grad[t], state->dx + t * D);
    }
}

static const Op loss = {.name = "loss", .backward = loss_backward, .overwrites_grad = 1};

size_t op_loss_rows(size_t vocabulary) { return size_max(MAX_LOGITS / vocabulary, MIN_LOGITS_ROWS); }

Tensor *op_loss(Tape *tape, Tensor *x, const Weight *W, const int32_t *targets)
{
    size_t n = x->shape[0], D = x->shape[1], V = W->rows, step = size_min(op_loss_rows(V), n);
    bool requires_grad = tape_requires_grad(tape, false, 1, &x);
    Tensor *nll = tape_tensor(tape, n, 1);
    LossState *state = tape_alloc(tape, sizeof *state);
    float *dx = requires_grad ? tape_floats(tape, n * D) : NULL;
    float *z = tape_scratch(tape, step * V), *scratch = tape_scratch(tape, gemm_scratch(step, size_max(V, D), 0));
    for (size_t t = 0; t < n && tape_computes(tape); t++)
        tape_expect(tape, targets[t] >= 0 && (size_t)targets[t] < V, "loss: target %d is not in the vocabulary of %zu",
                    targets[t], V);
    if (!tape_expect(tape, W->cols == D, "loss: x is %zu wide, %s is [%zu][%zu]", D, W->name, W->rows, W->cols))
        return &tape->dummy;
    *state = (LossState){dx};
    for (size_t at = 0; at < n && tape_computes(tape); at += step) {
        size_t m = size_min(n - at, step);
        gemm_nt(m, rows_of(z, V), false, 1, rows_of(x->data + at * D, D), W, NULL, scratch);
#pragma omp parallel for schedule(static)
        for (size_t i = 0; i < m; i++) {
            float *row = z + i * V, target = row[targets[at + i]];
            nll->data[at + i] = (requires_grad ? row_softmax(V, row) : row_logsumexp(V, row)) - target;
            row[targets[at + i]] -= 1;
        }
        if (requires_grad) gemm_nn(m, rows_of(dx + at * D, D), false, 1, rows_of(z, V), W, NULL, scratch);
    }
    return tape_record(tape, &loss, nll, state, false, 1, (Tensor *[]){x});
}
