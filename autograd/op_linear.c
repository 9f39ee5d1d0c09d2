/* Frozen projections and their pairs:
 *     y = x W' + s u B',  u = drop(x) A'      dx += dy W + drop'(du A),  du = s dy B,  dB_m = s dy' u,  dA_m = du' drop(x)
 * The outer sides ride along with the frozen products (GemmLora), so that y and dx are written once; where dropout acts, its
 * mask stands between du A and dx, which then is a product of its own.
 * A trained weight (the router) has also   dW_m = dy' x   for every micro-batch m. */
#include "autograd/lora.h"

enum { MOST = 4 };

typedef struct {
    size_t n, n_loras;
    const Weight *W[MOST]; /* the records, not the bytes: those may move between passes */
    const Lora *loras[MOST];
    const float *u[MOST];
    const Param *param;
} LinearState;

static bool meets(const Lora *lora, size_t col, size_t width)
{
    return lora->col < col + width && col < lora->col + lora->B->rows;
}

/* The pair that adds to columns [col, + width), or n_loras. */
static size_t lora_at(const LinearState *state, size_t col, size_t width)
{
    size_t i = 0;
    while (i < state->n_loras && !meets(state->loras[i], col, width)) i++;
    return i;
}

static size_t rank_most(const LinearState *state)
{
    size_t most = 0;
    for (size_t i = 0; i < state->n_loras; i++) most = size_max(most, state->loras[i]->A->rows);
    return most;
}

/* ---- the way back --------------------------------------------------------------------------------------------- */

static void sum_trained(const Tape *tape, const Param *param, const Tensor *x, const Tensor *y)
{
    size_t D = x->shape[1], O = y->shape[1];
    for (size_t m = 0; m < tape->group->n_micro_batches; m++) {
        Span span = group_span(tape->group, m);
        gemm_tn(span.n, O, D, param_leaf(param, span.number), false, 1, rows_of(y->grad + span.begin * O, O),
                rows_of(x->data + span.begin * D, D));
        param_merge(param, span.number);
    }
}

/* du of the pairs, and their sums. */
static void backward_loras(Tape *tape, const LinearState *state, const Tensor *x, const Tensor *y,
                           const float *du[MOST])
{
    for (size_t i = 0; i < state->n_loras && !tape->err; i++) {
        du[i] = lora_up_backward(tape, state->loras[i], y->grad + state->loras[i]->col, y->shape[1], state->u[i]);
        if (du[i]) lora_sum_A(tape, state->loras[i], x, du[i]);
    }
}

/* dx of frozen weights, and of the pairs that ride along for no mask stands between, each once for all weights that it adds to; their du is NULL then. */
static void back_through_weights(const Tape *tape, const LinearState *state, Tensor *x, const Tensor *y,
                                 const float *du[MOST], float *scratch)
{
    size_t T = x->shape[0], D = x->shape[1], O = y->shape[1], col = 0;
    bool first = tape_first(x);
    for (size_t i = 0, width; i < state->n; i++, col += width) {
        width = state->W[i]->rows;
        size_t p = lora_at(state, col, width);
        GemmLora term = p < state->n_loras && du[p] && !lora_drops(tape, state->loras[p])
                            ? lora_inner(state->loras[p], du[p])
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
    const float *du[MOST] = {NULL};
    if (param_trains(state->param) && tape_computes(tape)) sum_trained(tape, state->param, x, y);
    backward_loras(tape, state, x, y, du);
    if (!x->requires_grad || tape->err) return;
    for (size_t i = 0; i < state->n; i++) widest = size_max(widest, state->W[i]->rows);
    float *scratch = tape_scratch(tape, gemm_scratch(x->shape[0], widest, rank_most(state)));
    if (!scratch) return;
    back_through_weights(tape, state, x, y, du, scratch);
    for (size_t i = 0; i < state->n_loras && !tape->err; i++)
        if (du[i]) lora_down_backward(tape, state->loras[i], x, du[i]);
}

static const Op linear = {.name = "linear", .backward = linear_backward, .overwrites_grad = 1};

/* ---- the way up ----------------------------------------------------------------------------------------------- */

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
    if (!tape_expect(tape, n >= 1 && n <= MOST && n_loras <= MOST, "linear: %zu weights, %zu pairs", n, n_loras))
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
    for (size_t i = 0; i < state->n_loras; i++) some = some || param_trains(state->loras[i]->A);
    return some;
}

static Tensor *project(Tape *tape, Tensor *x, size_t n, const Weight *const W[], size_t n_loras,
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
        state->u[state->n_loras++] = lora_down(tape, loras[i], x);
    }
    float *scratch = tape_scratch(tape, gemm_scratch(T, D, rank_most(state)));
    if (tape->err) return &tape->dummy;
    for (size_t i = 0; i < n; col += W[i++]->rows) {
        size_t p = lora_at(state, col, W[i]->rows);
        GemmLora term = p < state->n_loras ? lora_outer(state->loras[p], col, W[i]->rows, state->u[p]) : (GemmLora){0};
        state->W[i] = W[i];
        if (tape_computes(tape))
            gemm_nt(T, rows_of(y->data + col, O), false, 1, rows_of(x->data, D), W[i], &term, scratch);
    }
    return tape_record(tape, &linear, y, state, trains(state), 1, (Tensor *[]){x});
}

Tensor *op_linear(Tape *tape, Tensor *x, size_t n, const Weight *const W[], size_t n_loras, const Lora *const loras[])
{
    return project(tape, x, n, W, n_loras, loras, NULL);
}

Tensor *op_linear_trained(Tape *tape, Tensor *x, const Weight *W, const Param *param)
{
    if (!param) return project(tape, x, 1, &W, 0, NULL, NULL);
    Weight *values = tape_alloc(tape, sizeof *values);
    if (!tape_expect(tape, param->rows == W->rows && param->cols == W->cols, "linear: %s is [%zu][%zu], %s [%zu][%zu]",
                     W->name, W->rows, W->cols, param->name, param->rows, param->cols))
        return &tape->dummy;
    if (!tape_expect(tape, x->shape[0] == tape->group->T, "linear: %s: %zu rows, %zu tokens", param->name, x->shape[0],
                     tape->group->T))
        return &tape->dummy;
    *values = weight_of(param->name, param->rows, param->cols, param->data);
    return project(tape, x, 1, (const Weight *[]){values}, 0, NULL, param);
}
