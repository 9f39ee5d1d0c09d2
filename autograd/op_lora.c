/* LoRA's two products, for op_linear and for operations that use them separately:
 *     u = drop(x) A',   y += s u B',   s = alpha / r   (' transposes)
 *     du = s dy B,   dx += drop'(du A),   dB_m = s dy' u,   dA_m = du' drop(x)   for every micro-batch m
 * x [T][D], A [r][D], B [O][r], u [T][r], y [T][O].   Source: Hu et al. 2021, section 4.1 (arXiv:2106.09685).
 *
 * Dropout: element (t, d) is kept if its random number is at least p, and is then divided by 1 - p. The number is a
 * function of (seed, step, module, document, position, column), so the mask is not stored but recomputed, and it does
 * not depend on ranks, groups or threads. */
#include "autograd/lora.h"
#include "base/rng.h"
#include "tensor/rows.h"

/* y = drop(x); y may be x. */
static void drop_rows(const Tape *tape, const Lora *lora, size_t D, float *y, const float *x)
{
    const Group *group = tape->group;
    uint64_t key = rng_key(tape->dropout_key, lora->key);
    uint32_t threshold = (uint32_t)(tape->dropout * 0x1p32f);
    float scale = 1 / (1 - tape->dropout);
    for (size_t d = 0; d < group->n_docs; d++) {
        uint64_t document = rng_key(key, group->first_doc + d);
        size_t begin = group->doc_start[d], end = group->doc_start[d + 1];
#pragma omp parallel for schedule(static)
        for (size_t t = begin; t < end; t++) {
            uint64_t row = rng_key(document, t - begin);
            for (size_t c = 0; c < D; c += 2) { /* one draw serves two columns */
                uint64_t bits = rng_bits(row, c);
                y[t * D + c] = (uint32_t)bits >= threshold ? x[t * D + c] * scale : 0;
                if (c + 1 < D) y[t * D + c + 1] = (uint32_t)(bits >> 32) >= threshold ? x[t * D + c + 1] * scale : 0;
            }
        }
    }
}

bool lora_has_dropout(const Tape *tape, const Lora *lora) { return lora->dropout && tape->dropout > 0; }

float *lora_dropout(Tape *tape, const Lora *lora, const Tensor *x)
{
    if (!lora_has_dropout(tape, lora)) return x->data;
    size_t T = x->shape[0], D = x->shape[1];
    float *copy = tape_scratch(tape, T * D);
    if (tape_computes(tape)) drop_rows(tape, lora, D, copy, x->data);
    return copy;
}

float *lora_A_forward(Tape *tape, const Lora *lora, const Tensor *x)
{
    size_t T = x->shape[0], D = x->shape[1], R = lora->A->rows;
    float *u = tape_floats(tape, T * R), *xd = lora_dropout(tape, lora, x);
    if (tape->err) return NULL;
    if (tape_computes(tape)) gemm_narrow_nt(T, rows_of(u, R), 1, rows_of(xd, D), R, D, lora->A->data);
    return u;
}

float *lora_B_backward(Tape *tape, const Lora *lora, const float *dy, size_t O, const float *u)
{
    const Param *B = lora->B;
    size_t T = tape->group->T, N = B->rows, R = B->cols;
    float *du = tape_scratch(tape, T * R);
    if (!tape_computes(tape)) return du;
    gemm_narrow_nn(T, rows_of(du, R), lora->scale, rows_of(dy, O), R, N, B->data);
    for (size_t m = 0; m < tape->group->n_micro_batches && param_trains(B); m++) {
        Span span = group_span(tape->group, m);
        gemm_tn(span.n, N, R, param_leaf(B, span.number), false, lora->scale, rows_of(dy + span.begin * O, O),
                rows_of(u + span.begin * R, R));
        param_merge(B, span.number);
    }
    return du;
}

void lora_A_backward(Tape *tape, const Lora *lora, const Tensor *x, const float *du)
{
    const Param *A = lora->A;
    size_t D = x->shape[1], R = A->rows;
    if (!param_trains(A)) return;
    const float *xd = lora_dropout(tape, lora, x);
    if (!tape_computes(tape)) return;
    for (size_t m = 0; m < tape->group->n_micro_batches; m++) {
        Span span = group_span(tape->group, m);
        gemm_tn(span.n, R, D, param_leaf(A, span.number), false, 1, rows_of(du + span.begin * R, R),
                rows_of(xd + span.begin * D, D));
        param_merge(A, span.number);
    }
}

void lora_A_backward_input(Tape *tape, const Lora *lora, Tensor *x, const float *du)
{
    size_t T = x->shape[0], D = x->shape[1], R = lora->A->rows;
    bool dropout = lora_has_dropout(tape, lora);
    Weight A = weight_of(lora->A->name, R, D, lora->A->data);
    float *scratch = tape_scratch(tape, gemm_scratch(T, R, 0)), *dx = dropout ? tape_scratch(tape, T * D) : x->grad;
    if (!tape_computes(tape)) return;
    gemm_nn(T, rows_of(dx, D), !dropout, 1, rows_of(du, R), &A, NULL, scratch);
    if (!dropout) return;
    drop_rows(tape, lora, D, dx, dx);
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < T; t++) row_add(D, x->grad + t * D, dx + t * D);
}

/* ---- A and B as operations of their own ------------------------------------------------------------------------ */

static void lora_A_op_backward(Node *node)
{
    const Lora *lora = node->state;
    Tensor *x = node->in[0];
    lora_A_backward(node->tape, lora, x, node->out->grad);
    if (x->requires_grad && !node->tape->err) lora_A_backward_input(node->tape, lora, x, node->out->grad);
}

static const Op lora_A_op = {.name = "lora", .backward = lora_A_op_backward};

Tensor *op_lora_A(Tape *tape, Tensor *x, const Lora *lora)
{
    const Param *A = lora->A;
    size_t T = x->shape[0], D = x->shape[1], R = A->rows;
    if (!tape_expect(tape, A->cols == D && T == tape->group->T, "%s: x is [%zu][%zu], A [%zu][%zu], %zu tokens",
                     A->name, T, D, R, A->cols, tape->group->T))
        return &tape->dummy;
    float *values = lora_A_forward(tape, lora, x);
    if (!values) return &tape->dummy;
    Tensor *u = tape_leaf(tape, T, R, values, false);
    return tape_record(tape, &lora_A_op, u, lora, param_trains(A), 1, (Tensor *[]){x});
}

typedef struct {
    const Weight *W;
    const Lora *lora;
} LoraBState;

static void lora_B_op_backward(Node *node)
{
    Tape *tape = node->tape;
    const LoraBState *state = node->state;
    const Lora *lora = state->lora;
    Tensor *x = node->in[0], *u = node->in[1], *y = node->out, **B = node->in + 2;
    size_t T = u->shape[0], R = u->shape[1], O = y->shape[1], D = x->shape[1];
    float *dB = tape_scratch(tape, O * R), *du = tape_scratch(tape, T * R),
          *scratch = tape_scratch(tape, gemm_scratch(T, O, 0));
    if (!tape_computes(tape)) return;
    gemm_narrow_nn(T, rows_of(du, R), lora->scale, rows_of(y->grad, O), R, O, lora->B->data);
    if (u->requires_grad) row_add(T * R, u->grad, du);
    for (size_t m = 0; m < tape->group->n_micro_batches && B[m]->requires_grad; m++) {
        Span span = group_span(tape->group, m);
        gemm_tn(span.n, O, R, dB, false, lora->scale, rows_of(y->grad + span.begin * O, O),
                rows_of(u->data + span.begin * R, R));
        row_add(O * R, B[m]->grad, dB);
    }
    if (x->requires_grad)
        gemm_nn(T, rows_of(x->grad, D), !tape_first_write(x), 1, rows_of(y->grad, O), state->W, NULL, scratch);
}

static const Op lora_B_op = {.name = "linear", .backward = lora_B_op_backward, .overwrites_grad = 1};

Tensor *op_lora_B(Tape *tape, Tensor *x, const Weight *W, Tensor *u, const Lora *lora, Tensor *const *B)
{
    size_t T = u->shape[0], D = x->shape[1], R = u->shape[1], O = W->rows,
           n_micro_batches = tape->group->n_micro_batches;
    if (!tape_expect(tape,
                     W->cols == D && x->shape[0] == T && lora->B->cols == R && lora->B->rows == O && lora->col == 0,
                     "%s: x is [%zu][%zu], u [%zu][%zu], %s [%zu][%zu], B [%zu][%zu] at column %zu", lora->B->name,
                     x->shape[0], D, T, R, W->name, O, W->cols, lora->B->rows, lora->B->cols, lora->col))
        return &tape->dummy;
    Tensor *y = tape_tensor(tape, T, O), **in = tape_alloc(tape, (2 + n_micro_batches) * sizeof *in);
    LoraBState *state = tape_alloc(tape, sizeof *state);
    float *scratch = tape_scratch(tape, gemm_scratch(T, D, R));
    if (tape->err) return &tape->dummy;
    *state = (LoraBState){W, lora};
    in[0] = x;
    in[1] = u;
    for (size_t m = 0; m < n_micro_batches; m++) in[2 + m] = B[m];
    GemmLora term = lora_term_B(lora, 0, O, u->data);
    if (tape_computes(tape)) gemm_nt(T, rows_of(y->data, O), false, 1, rows_of(x->data, D), W, &term, scratch);
    return tape_record(tape, &lora_B_op, y, state, false, 2 + n_micro_batches, in);
}
