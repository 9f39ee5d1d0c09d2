/* The adapter's part of a projection:   u = drop(x) A',   y += s u B',   s = alpha / r   (' transposes).
 *     du = s dy B      dx += drop'(du A)      dB_m = s dy' u      dA_m = du' drop(x)
 * x [T][D], A [r][D], B [O][r], y [T][O].   Source: Hu et al. 2021, section 4.1 (arXiv:2106.09685).
 *
 * Dropout: element (t, d) is kept when its random number is at least p, and then divided by 1 - p. The number is a
 * function of (seed, step, module, document, position, column): the mask is computed again where it is needed. */
#include "autograd/op.h"
#include "base/rng.h"
#include "tensor/matmul.h"
#include "tensor/rows.h"

typedef struct {
    const Lora *lora;
    float *u; /* [T][r] */
} Kept;

/* y = x where kept, scaled; 0 elsewhere. y may be x. */
static void drop_rows(const Tape *tape, const Lora *lora, size_t D, float *y, const float *x)
{
    const Group *group = tape->group;
    uint64_t key = rng_key(tape->dropout_key, lora->key);
    uint32_t least = (uint32_t)(tape->dropout * 0x1p32f);
    float scale = 1 / (1 - tape->dropout);
    for (size_t d = 0; d < group->n_docs; d++) {
        uint64_t document = rng_key(key, group->first_doc + d);
        size_t begin = group->doc_start[d], end = group->doc_start[d + 1];
#pragma omp parallel for schedule(static)
        for (size_t t = begin; t < end; t++) {
            uint64_t row = rng_key(document, t - begin);
            for (size_t c = 0; c < D; c += 2) { /* one draw serves two columns */
                uint64_t bits = rng_bits(row, c);
                y[t * D + c] = (uint32_t)bits >= least ? x[t * D + c] * scale : 0;
                if (c + 1 < D) y[t * D + c + 1] = (uint32_t)(bits >> 32) >= least ? x[t * D + c + 1] * scale : 0;
            }
        }
    }
}

static bool drops(const Tape *tape, const Lora *lora) { return lora->dropout && tape->dropout > 0; }

/* x itself, or a dropped copy in scratch; NULL after an error. */
static float *dropped(Tape *tape, const Lora *lora, const Tensor *x)
{
    if (!drops(tape, lora)) return x->data;
    size_t T = x->shape[0], D = x->shape[1];
    float *copy = tape_scratch(tape, T * D);
    if (copy) drop_rows(tape, lora, D, copy, x->data);
    return copy;
}

/* dA_m = du' drop(x), dx += drop'(du A). */
static void down_backward(Tape *tape, const Lora *lora, Tensor *x, float *du)
{
    const Param *A = lora->A;
    size_t T = x->shape[0], D = x->shape[1], R = A->rows;
    Weight a = weight_of(A->name, R, D, A->data);
    float *xd = dropped(tape, lora, x), *scratch = tape_scratch(tape, rows_scratch(T, R));
    if (tape->err) return;
    for (size_t m = 0; m < tape->group->n_micro && param_trains(A); m++) {
        Span span = group_span(tape->group, m);
        sum_tn(span.n, R, D, param_leaf(A, span.number), 1, du + span.begin * R, R, xd + span.begin * D, D);
        param_merge(A, span.number);
    }
    if (!x->wants) return;
    if (!drops(tape, lora)) {
        rows_nn(T, rows_of(x->grad, D), true, 1, rows_of(du, R), &a, scratch); /* dx += du A */
        return;
    }
    rows_nn(T, rows_of(xd, D), false, 1, rows_of(du, R), &a, scratch);
    drop_rows(tape, lora, D, xd, xd);
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < T; t++) row_add(D, x->grad + t * D, xd + t * D);
}

static void lora_backward(Node *node)
{
    Tape *tape = node->tape;
    Tensor *x = node->in[1], *y = node->out;
    Kept *kept = node->kept;
    const Lora *lora = kept->lora;
    const Param *B = lora->B;
    size_t T = x->shape[0], O = y->shape[1], N = B->rows, R = B->cols;
    const float *dy = y->grad + lora->col;
    float *du = tape_scratch(tape, T * R);
    if (tape->err) return;
    rows_narrow_back(T, rows_of(du, R), lora->scale, rows_of(dy, O), R, N, B->data); /* du = s dy B */
    for (size_t m = 0; m < tape->group->n_micro && param_trains(B); m++) {
        Span span = group_span(tape->group, m);
        sum_tn(span.n, N, R, param_leaf(B, span.number), lora->scale, dy + span.begin * O, O, kept->u + span.begin * R, R);
        param_merge(B, span.number);
    }
    down_backward(tape, lora, x, du);
}

static const Op lora_op = {.name = "lora", .backward = lora_backward};

Tensor *op_lora(Tape *tape, Tensor *y, Tensor *x, const Lora *lora)
{
    if (!lora || tape->err) return y;
    const Param *A = lora->A, *B = lora->B;
    size_t T = x->shape[0], D = x->shape[1], O = y->shape[1], R = A->rows;
    if (!tape_expect(tape, A->cols == D && B->cols == R && y->shape[0] == T && lora->col + B->rows <= O,
                     "%s: x is [%zu][%zu], y [%zu][%zu], A [%zu][%zu], B [%zu][%zu] at column %zu", A->name, T, D, y->shape[0], O, R,
                     A->cols, B->rows, B->cols, lora->col) ||
        !tape_expect(tape, T == tape->group->T, "%s: %zu rows, %zu tokens", A->name, T, tape->group->T))
        return &tape->dummy;
    Weight b = weight_of(B->name, B->rows, R, B->data);
    Kept *kept = tape_alloc(tape, sizeof *kept);
    float *u = tape_floats(tape, T * R), *xd = dropped(tape, lora, x);
    float *scratch = tape_scratch(tape, rows_scratch(T, R));
    if (tape->err) return &tape->dummy;
    *kept = (Kept){lora, u};
    rows_narrow_in(T, rows_of(u, R), 1, rows_of(xd, D), R, D, A->data);                        /* u  = drop(x) A' */
    rows_nt(T, rows_of(y->data + lora->col, O), true, lora->scale, rows_of(u, R), &b, scratch); /* y += s u B'     */
    return tape_record(tape, &lora_op, y, kept, param_trains(A), 2, (Tensor *[]){y, x});
}

/* ---- in two halves ------------------------------------------------------------------------------------------- */

static void lora_down_backward(Node *node) { down_backward(node->tape, node->kept, node->in[0], node->out->grad); }

static const Op lora_down = {.name = "lora", .backward = lora_down_backward};

Tensor *op_lora_down(Tape *tape, Tensor *x, const Lora *lora)
{
    const Param *A = lora->A;
    size_t T = x->shape[0], D = x->shape[1], R = A->rows;
    if (!tape_expect(tape, A->cols == D && T == tape->group->T, "%s: x is [%zu][%zu], A [%zu][%zu], %zu tokens", A->name, T, D, R,
                     A->cols, tape->group->T))
        return &tape->dummy;
    Tensor *u = tape_tensor(tape, T, R);
    float *xd = dropped(tape, lora, x);
    if (tape->err) return &tape->dummy;
    rows_narrow_in(T, rows_of(u->data, R), 1, rows_of(xd, D), R, D, A->data);
    return tape_record(tape, &lora_down, u, (Lora *)(size_t)lora, param_trains(A), 1, (Tensor *[]){x});
}

static void lora_up_backward(Node *node)
{
    Tape *tape = node->tape;
    const Lora *lora = node->kept;
    Tensor *u = node->in[1], *y = node->out, **B = node->in + 2;
    size_t T = u->shape[0], R = u->shape[1], O = y->shape[1], N = lora->B->rows;
    const float *dy = y->grad + lora->col;
    float *dB = tape_scratch(tape, N * R), *du = tape_scratch(tape, T * R);
    if (tape->err) return;
    rows_narrow_back(T, rows_of(du, R), lora->scale, rows_of(dy, O), R, N, lora->B->data);
    if (u->wants) row_add(T * R, u->grad, du);
    for (size_t m = 0; m < tape->group->n_micro && B[m]->wants; m++) {
        Span span = group_span(tape->group, m);
        sum_tn(span.n, N, R, dB, lora->scale, dy + span.begin * O, O, u->data + span.begin * R, R);
        row_add(N * R, B[m]->grad, dB);
    }
}

static const Op lora_up = {.name = "lora", .backward = lora_up_backward};

Tensor *op_lora_up(Tape *tape, Tensor *y, Tensor *u, const Lora *lora, Tensor *const *B)
{
    size_t T = u->shape[0], R = u->shape[1], O = y->shape[1], N = lora->B->rows, n_micro = tape->group->n_micro;
    if (!tape_expect(tape, lora->B->cols == R && y->shape[0] == T && lora->col + N <= O, "%s: u is [%zu][%zu], y [%zu][%zu], B [%zu][%zu] at column %zu",
                     lora->B->name, T, R, y->shape[0], O, N, lora->B->cols, lora->col))
        return &tape->dummy;
    Weight b = weight_of(lora->B->name, N, R, lora->B->data);
    Tensor **in = tape_alloc(tape, (2 + n_micro) * sizeof *in);
    float *scratch = tape_scratch(tape, rows_scratch(T, R));
    if (tape->err) return &tape->dummy;
    in[0] = y;
    in[1] = u;
    for (size_t m = 0; m < n_micro; m++) in[2 + m] = B[m];
    rows_nt(T, rows_of(y->data + lora->col, O), true, lora->scale, rows_of(u->data, R), &b, scratch);
    return tape_record(tape, &lora_up, y, (Lora *)(size_t)lora, false, 2 + n_micro, in);
}
