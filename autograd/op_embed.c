/* Rows of the embedding table:  y[t] = E[ids[t]], frozen, without backward; and the addition of the residual stream:
 *     y += x;   dx += dy, and dy is also the gradient of the old y, because y is added to in place.
 * x, y [T][D].   Source: docs/glm5.md, section 2. */
#include "autograd/op.h"
#include "tensor/rows.h"

#include <string.h>

static const Op embed = {.name = "embed"};

Tensor *op_embed(Tape *tape, const Weight *table, const int32_t *ids)
{
    size_t T = tape->group->T, D = table->cols;
    Tensor *y = tape_tensor(tape, T, D);
    for (size_t t = 0; t < T && !tape->err; t++) {
        if (!tape_expect(tape, ids[t] >= 0 && (size_t)ids[t] < table->rows,
                         "token id %d is not in the vocabulary of %zu", ids[t], table->rows))
            break;
        weight_read(table, (size_t)ids[t], 0, D, y->data + t * D);
    }
    return tape_record(tape, &embed, y, NULL, false, 0, NULL);
}

static void add_backward(Node *node)
{
    Tensor *y = node->out, *x = node->in[1];
    if (!x->requires_grad) return;
    size_t T = tape_rows(node->tape, y->shape[0]), D = y->shape[1];
    bool first = tape_first_write(x);
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < T; t++) {
        if (first)
            memcpy(x->grad + t * D, y->grad + t * D, D * sizeof(float));
        else
            row_add(D, x->grad + t * D, y->grad + t * D);
    }
}

static const Op add = {.name = "add", .backward = add_backward, .overwrites_grad = 2};

Tensor *op_add(Tape *tape, Tensor *y, Tensor *x)
{
    size_t T = y->shape[0], D = y->shape[1];
    if (!tape_expect(tape, x->shape[0] == T && x->shape[1] == D, "add: y is [%zu][%zu], x is [%zu][%zu]", T, D,
                     x->shape[0], x->shape[1]))
        return &tape->dummy;
    T = tape_rows(tape, T);
#pragma omp parallel for schedule(static) if (T * D >= MIN_ELEMENTS_FOR_THREADS)
    for (size_t t = 0; t < T; t++) row_add(D, y->data + t * D, x->data + t * D);
    return tape_record(tape, &add, y, NULL, false, 2, (Tensor *[]){y, x});
}
