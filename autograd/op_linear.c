/* Frozen projections:   y = x W'   on the way up,   dx += dy W   on the way back.
 * A trained one (the router) has also   dW_m = dy' x   for every micro-batch m. */
#include "autograd/op.h"
#include "tensor/matmul.h"

enum { MOST = 4 };

typedef struct {
    size_t n;
    const Weight *source[MOST]; /* the records, not the bytes: those may move between passes */
    const Param *param;
} Kept;

static void linear_backward(Node *node)
{
    Tensor *x = node->in[0], *y = node->out;
    Kept *kept = node->kept;
    size_t T = x->shape[0], D = x->shape[1], O = y->shape[1], col = 0;
    if (param_trains(kept->param))
        for (size_t m = 0; m < node->tape->group->n_micro; m++) {
            Span span = group_span(node->tape->group, m);
            float *dW = param_leaf(kept->param, span.number);
            sum_tn(span.n, O, D, dW, 1, y->grad + span.begin * O, O, x->data + span.begin * D, D);
            param_merge(kept->param, span.number);
        }
    if (!x->wants) return;
    size_t widest = 0;
    for (size_t i = 0; i < kept->n; i++)
        if (kept->source[i]->rows > widest) widest = kept->source[i]->rows;
    float *scratch = tape_scratch(node->tape, rows_scratch(T, widest));
    if (!scratch) return;
    for (size_t i = 0; i < kept->n; col += kept->source[i++]->rows)
        rows_nn(T, rows_of(x->grad, D), true, 1, rows_of(y->grad + col, O), kept->source[i], scratch);
}

static const Op linear = {.name = "linear", .backward = linear_backward};

static Tensor *project(Tape *tape, Tensor *x, size_t n, const Weight *const W[], const Param *param)
{
    size_t T = x->shape[0], D = x->shape[1], O = 0;
    for (size_t i = 0; i < n; i++) {
        O += W[i]->rows;
        if (!tape_expect(tape, W[i]->cols == D, "linear: x is %zu wide, %s is [%zu][%zu]", D, W[i]->name, W[i]->rows, W[i]->cols))
            return &tape->dummy;
    }
    Tensor *y = tape_tensor(tape, T, O);
    Kept *kept = tape_alloc(tape, sizeof *kept);
    float *scratch = tape_scratch(tape, rows_scratch(T, D));
    if (!tape_expect(tape, n >= 1 && n <= MOST, "linear: %zu weights", n)) return &tape->dummy;
    *kept = (Kept){.n = n, .param = param};
    size_t col = 0;
    for (size_t i = 0; i < n; col += W[i++]->rows) {
        kept->source[i] = W[i];
        rows_nt(T, rows_of(y->data + col, O), false, 1, rows_of(x->data, D), W[i], scratch);
    }
    return tape_record(tape, &linear, y, kept, param_trains(param), 1, (Tensor *[]){x});
}

Tensor *op_linear(Tape *tape, Tensor *x, size_t n, const Weight *const W[]) { return project(tape, x, n, W, NULL); }

Tensor *op_linear_trained(Tape *tape, Tensor *x, const Weight *W, const Param *param)
{
    if (!param) return project(tape, x, 1, &W, NULL);
    Weight *values = tape_alloc(tape, sizeof *values);
    if (!tape_expect(tape, param->rows == W->rows && param->cols == W->cols, "linear: %s is [%zu][%zu], %s [%zu][%zu]", W->name,
                     W->rows, W->cols, param->name, param->rows, param->cols))
        return &tape->dummy;
    if (!tape_expect(tape, x->shape[0] == tape->group->T, "linear: %s: %zu rows, %zu tokens", param->name, x->shape[0], tape->group->T))
        return &tape->dummy;
    *values = weight_of(param->name, param->rows, param->cols, param->data);
    return project(tape, x, 1, (const Weight *[]){values}, param);
}
