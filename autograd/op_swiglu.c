/* SwiGLU:  a = silu(g) u,   [g | u] = x,   silu(g) = g sigmoid(g)
 *     dg = da u sigmoid(g) (1 + g (1 - sigmoid(g))),   du = da silu(g)
 * x [T][2 F], a [T][F].   Source: docs/glm5.md, section 7; Shazeer 2020, section 2 (arXiv:2002.05202). */
#include "autograd/op.h"
#include "tensor/rows.h"

static void swiglu_backward(Node *node)
{
    Tensor *x = node->in[0], *a = node->out;
    size_t T = x->shape[0], F = a->shape[1];
    bool first = tape_first_write(x);
    float *both = first ? x->grad : tape_scratch(node->tape, T * 2 * F);
    if (!tape_computes(node->tape)) return;
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < T; t++) {
        const float *g = x->data + t * 2 * F;
        float *d = both + t * 2 * F;
        row_swiglu_backward(F, d, d + F, g, g + F, a->grad + t * F);
        if (!first) row_add(2 * F, x->grad + t * 2 * F, d);
    }
}

static const Op swiglu = {.name = "swiglu", .backward = swiglu_backward, .overwrites_grad = 1};

Tensor *op_swiglu(Tape *tape, Tensor *x)
{
    size_t T = x->shape[0], F = x->shape[1] / 2;
    Tensor *a = tape_tensor(tape, T, F);
    if (!tape_expect(tape, x->shape[1] % 2 == 0, "swiglu: x is %zu wide", x->shape[1])) return &tape->dummy;
    T = tape_rows(tape, T);
#pragma omp parallel for schedule(static) if (T * F >= MIN_ELEMENTS_FOR_THREADS)
    for (size_t t = 0; t < T; t++) row_swiglu(F, a->data + t * F, x->data + t * 2 * F, x->data + t * 2 * F + F);
    return tape_record(tape, &swiglu, a, NULL, false, 1, (Tensor *[]){x});
}
