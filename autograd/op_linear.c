/* Frozen projections and their LoRA modules:
 *     y = x W' + s u B',   u = drop(x) A'
 *     dx += dy W + drop'(du A),   du = s dy B,   dB_m = s dy' u,   dA_m = du' drop(x)   for every micro-batch m
 * x [T][D], W [O][D], A [r][D], B [O][r], y [T][O].   Source: docs/glm5.md, section 12; Hu et al. 2021, section 4.1
 * (arXiv:2106.09685). A trained weight (the router) also has   dW_m = dy' x.
 *
 * The terms s u B' and du A are computed within the frozen products (GemmLora), so that y and dx are written once. With
 * dropout the mask acts between du A and dx, so du A is a product of its own.
 * Rows keep the same bits in any group (gemm_nt, gemm_nn); sums over rows are taken for each micro-batch (gemm_tn). */
#include "autograd/lora.h"

enum { MAX_WEIGHTS = 4 };

typedef struct {
    size_t n, n_loras;
    const Weight *W[MAX_WEIGHTS]; /* the records, not the bytes: these may move between forward and backward */
    const Lora *loras[MAX_WEIGHTS];
    const float *u[MAX_WEIGHTS];
    const Param *param;
} LinearState;

static bool overlaps(const Lora *lora, size_t col, size_t width)
{
    return lora->col < col + width && col < lora->col + lora->B->rows;
}

/* Index of the LoRA that adds to columns [col, + width), or n_loras. */
static size_t lora_at(const LinearState *state, size_t col, size_t width)
{
    size_t i = 0;
    while (i < state->n_loras && !overlaps(state->loras[i], col, width)) i++;
    return i;
}

static size_t max_r(const LinearState *state)
{
    size_t max = 0;
    for (size_t i = 0; i < state->n_loras; i++) max = size_max(max, state->loras[i]->A->rows);
    return max;
}

/* ---- backward -------------------------------------------------------------------------------------------------- */

static void trained_weight_backward(const Tape *tape, const Param *param, const Tensor *x, const Tensor *y)
{
    size_t D = x->shape[1], O = y->shape[1];
    for (size_t m = 0; m < tape->group->n_micro_batches; m++) {
        Span span = group_span(tape->group, m);
        gemm_tn(span.n, O, D, param_leaf(param, span.number), false, 1, rows_of(y->grad + span.begin * O, O),
                rows_of(x->data + span.begin * D, D));
        param_merge(param, span.number);
    }
}

/* du of the LoRA modules, dA_m and dB_m. */
static void loras_backward(Tape *tape, const LinearState *state, const Tensor *x, const Tensor *y,
                           const float *du[MAX_WEIGHTS])
{
    for (size_t i = 0; i < state->n_loras && !tape->err; i++) {
        du[i] = lora_B_backward(tape, state->loras[i], y->grad + state->loras[i]->col, y->shape[1], state->u[i]);
        if (du[i]) lora_A_backward(tape, state->loras[i], x, du[i]);
    }
}

/* dx of the frozen weights, with the terms du A of LoRA modules without dropout. A module that adds to several weights
 * is added with the first of them: its du becomes NULL. */
static void weights_backward(const Tape *tape, const LinearState *state, Tensor *x, const Tensor *y,
                             const float *du[MAX_WEIGHTS], float *scratch)
{
    size_t T = x->shape[0], D = x->shape[1], O = y->shape[1], col = 0;
    bool first = tape_first_write(x);
    for (size_t i = 0, width; i < state->n; i++, col += width) {
        width = state->W[i]->rows;
        size_t p = lora_at(state, col, width);
        GemmLora term = p < state->n_loras && du[p] && !lora_has_dropout(tape, state->loras[p])
                            ? lora_term_A(state->loras[p], du[p])
                            : (GemmLora){0};
        if (term.r) du[p] = NULL;
        if (tape_computes(tape))
            gemm_nn(T, rows_of(x->grad, D), !first || i, 1, rows_of(y->grad + col, O), state->W[i], &term, scratch);
    }
}

static void linear_backward(Node *node)
{
    Tape *tape = node->tape;
    Tensor *x = node->in[0], *y = node->out;
    const LinearState *state = node->state;
    size_t widest = 0;
    const float *du[MAX_WEIGHTS] = {NULL};
    if (param_trains(state->param) && tape_computes(tape)) trained_weight_backward(tape, state->param, x, y);
    loras_backward(tape, state, x, y, du);
    if (!x->requires_grad || tape->err) return;
    for (size_t i = 0; i < state->n; i++) widest = size_max(widest, state->W[i]->rows);
    float *scratch = tape_scratch(tape, gemm_scratch(x->shape[0], widest, max_r(state)));
    if (!scratch) return;
    weights_backward(tape, state, x, y, du, scratch);
    for (size_t i = 0; i < state->n_loras && !tape->err; i++)
        if (du[i]) lora_A_backward_input(tape, state->loras[i], x, du[i]);
}

static const Op linear = {.name = "linear", .backward = linear_backward, .overwrites_grad = 1};

/* ---- forward --------------------------------------------------------------------------------------------------- */

static bool lora_fits(Tape *tape, const Lora *lora, size_t T, size_t D, size_t O)
{
    const Param *A = lora->A, *B = lora->B;
    return tape_expect(tape, A->cols == D && B->cols == A->rows && lora->col + B->rows <= O,
                       "%s: x is [%zu][%zu], y [%zu][%zu], A [%zu][%zu], B [%zu][%zu] at column %zu", A->name, T, D, T,
                       O, A->rows, A->cols, B->rows, B->cols, lora->col) &&
           tape_expect(tape, T == tape->group->T, "%s: %zu rows, %zu tokens", A->name, T, tape->group->T);
}

static bool fits(Tape *tape, const Tensor *x, size_t n, const Weight *const W[], size_t n_loras,
                 const Lora *const loras[])
{
    size_t T = x->shape[0], D = x->shape[1], O = 0;
    if (!tape_expect(tape, n >= 1 && n <= MAX_WEIGHTS && n_loras <= MAX_WEIGHTS,
                     "linear: %zu weights, %zu LoRA modules", n, n_loras))
        return false;
    for (size_t i = 0; i < n; i++) {
        O += W[i]->rows;
        if (!tape_expect(tape, W[i]->cols == D, "linear: x is %zu wide, %s is [%zu][%zu]", D, W[i]->name, W[i]->rows,
                         W[i]->cols))
            return false;
    }
    for (size_t i = 0; i < n_loras; i++)
        if (loras[i] && !lora_fits(tape, loras[i], T, D, O)) return false;
    return !tape->err;
}

static bool trains(const LinearState *state)
{
    bool some = param_trains(state->param);
    for (size_t i = 0; i < state->n_loras; i++) some = some || lora_trains(state->loras[i]);
    return some;
}

static Tensor *linear_forward(Tape *tape, Tensor *x, size_t n, const Weight *const W[], size_t n_loras,
                              const Lora *const loras[], const Param *param)
{
    size_t T = x->shape[0], D = x->shape[1], O = 0, col = 0;
    if (!fits(tape, x, n, W, n_loras, loras)) return &tape->dummy;
    for (size_t i = 0; i < n; i++) O += W[i]->rows;
    Tensor *y = tape_tensor(tape, T, O);
    LinearState *state = tape_alloc(tape, sizeof *state);
    if (tape->err) return &tape->dummy;
    *state = (LinearState){.n = n, .param = param};
    for (size_t i = 0; i < n_loras && !tape->err; i++) {
        if (!loras[i]) continue;
        state->loras[state->n_loras] = loras[i];
        state->u[state->n_loras++] = lora_A_forward(tape, loras[i], x);
    }
    float *scratch = tape_scratch(tape, gemm_scratch(T, D, max_r(state)));
    if (tape->err) return &tape->dummy;
    for (size_t i = 0; i < n; col += W[i++]->rows) {
        size_t p = lora_at(state, col, W[i]->rows);
        GemmLora term = p < state->n_loras ? lora_term_B(state->loras[p], col, W[i]->rows, state->u[p]) : (GemmLora){0};
        state->W[i] = W[i];
        if (tape_computes(tape))
            gemm_nt(T, rows_of(y->data + col, O), false, 1, rows_of(x->data, D), W[i], &term, scratch);
    }
    return tape_record(tape, &linear, y, state, trains(state), 1, (Tensor *[]){x});
}

Tensor *op_linear(Tape *tape, Tensor *x, size_t n, const Weight *const W[], size_t n_loras, const Lora *const loras[])
{
    return linear_forward(tape, x, n, W, n_loras, loras, NULL);
}

Tensor *op_linear_trained(Tape *tape, Tensor *x, const Weight *W, const Param *param)
{
    if (!param) return linear_forward(tape, x, 1, &W, 0, NULL, NULL);
    Weight *values = tape_alloc(tape, sizeof *values);
    if (!tape_expect(tape, param->rows == W->rows && param->cols == W->cols, "linear: %s is [%zu][%zu], %s [%zu][%zu]",
                     W->name, W->rows, W->cols, param->name, param->rows, param->cols))
        return &tape->dummy;
    if (!tape_expect(tape, x->shape[0] == tape->group->T, "linear: %s: %zu rows, %zu tokens", param->name, x->shape[0],
                     tape->group->T))
        return &tape->dummy;
    *values = weight_of(param->name, param->rows, param->cols, param->data);
    return linear_forward(tape, x, 1, (const Weight *[]){values}, 0, NULL, param);
}
