/* Routed experts:   y[t] = sum_k w[t,k] f_e(x[t]),  e = ids[t,k],  f_e(x) = (silu(x Wg') (x Wu')) Wd'.
 *
 * A pair is a token and one of its experts; pairs lie expert after expert, tokens ascending in each. Two passes:
 *   1. experts on threads, largest first: from x to a = w silu(g) u, packed for the second product;
 *   2. columns of y on threads: every thread adds all experts, in id order, into its own columns.
 * So a token's sum has one order, whoever computes it, and y is written without a buffer of all pairs' outputs.
 * The way back has the same two passes, with G the gradient of y and a_ the hidden row before weighting:
 *   1. gate and up, kept or computed again;  da_ = G Wd,  dw = a_ . da_,  da = w da_,  dg and du by SwiGLU; the pairs' LoRA sums
 *   2. dx[t] += dg Wg + du Wu, experts in falling order: a run of them that was borrowed last on the way up is asked for first.
 * Experts that are not all in memory are borrowed a run at a time (ExpertRuns), each run through both passes; the orders of sums
 * above know nothing of runs. A replayed tape wants nothing of y, so that all of the way up is left to the way back.
 * LoRA rides along with each product as in op_linear: gate|up share one A.   Source: docs/glm5.md; transformers 5.23.0,
 * GlmMoeDsaExperts. */
#include "autograd/experts_plan.h"
#include "autograd/lora.h"
#include "tensor/rows.h"

#include <omp.h>
#include <string.h>

/* Scratch for packing rows of any product. */
static size_t pack_floats(const ExpertsPlan *plan) { return rows_scratch(plan->most, larger(plan->D, plan->F), plan->rank_most); }

/* The columns [begin, end) that thread i of n owns: whole units. */
static void columns_of(size_t width, size_t i, size_t n, size_t *begin, size_t *end)
{
    size_t units = (width + ROWS_UNIT - 1) / ROWS_UNIT;
    *begin = units * i / n * ROWS_UNIT;
    *end = units * (i + 1) / n * ROWS_UNIT;
    if (*begin > width) *begin = width;
    if (*end > width) *end = width;
}

/* gu [n][2F] = [x Wg' | x Wu'] + LoRA; u [n][R] is what B has seen. One packing of x serves both when they multiply alike.
 * next: the gate that the thread turns to then, or NULL. */
static void gate_and_up(const ExpertsPlan *plan, const Expert *expert, size_t n, Rows x, float *gu, float *u, float *pack, const Weight *next)
{
    size_t F = plan->F, R = rank_of(expert->in);
    RowsPair of_gate = lora_outer(expert->in, 0, F, u), of_up = lora_outer(expert->in, F, F, u);
    if (expert->in) rows_narrow_in(n, rows_of(u, R), 1, x, R, plan->D, expert->in->A->data);
    rows_pack_nt(n, 1, x, expert->gate, &of_gate, pack);
    rows_nt_slice(n, rows_of(gu, 2 * F), false, pack, expert->gate, &of_gate, 0, F, (RowsNext){expert->up, 0});
    if (!rows_pack_serves(expert->gate, expert->up)) rows_pack_nt(n, 1, x, expert->up, &of_up, pack);
    rows_nt_slice(n, rows_of(gu + F, 2 * F), false, pack, expert->up, &of_up, 0, F, (RowsNext){next, 0});
}

/* ---- the way up ----------------------------------------------------------------------------------------------- */

/* Where the packed a of run i lie in a block, each with its a A' of LoRA on down; returns the floats. hidden [E] is set where
 * there is a block. */
static size_t place_packed(const ExpertsPlan *plan, size_t i, float **hidden, float *block)
{
    size_t at = 0;
    for (size_t e = plan->runs->begin[i]; e < plan->runs->begin[i + 1]; e++) {
        size_t n = pairs_of(plan, e);
        if (block) hidden[e] = block + at;
        if (n) at += rows_scratch(n, plan->F, rank_of(plan->experts[e].out));
    }
    return at;
}

static void hidden_rows(const ExpertsPlan *plan, size_t e, const Tensor *x, const Tensor *w, float *packed, float *scratch, const Expert *next)
{
    const Expert *expert = &plan->experts[e];
    size_t at = plan->begin[e], n = pairs_of(plan, e), F = plan->F, R = rank_of(expert->out);
    float *pack = scratch, *a = pack + pack_floats(plan), *low = a + plan->most * F, *gu = low + plan->most * plan->rank_most;
    if (plan->gate_up) gu = plan->gate_up + at * 2 * F;
    gate_and_up(plan, expert, n, rows_pick(x->data, plan->D, plan->token + at), gu, plan->gate_up ? plan->low + at * plan->rank_most : low, pack, next ? next->gate : NULL);
    for (size_t i = 0; i < n; i++) {
        row_swiglu(F, a + i * F, gu + i * 2 * F, gu + i * 2 * F + F);
        row_scale(F, a + i * F, weight_of_pair(plan, w->data, at + i), a + i * F);
    }
    RowsPair pair = lora_outer(expert->out, 0, plan->D, low);
    if (expert->out) rows_narrow_in(n, rows_of(low, R), 1, rows_of(a, F), R, F, expert->out->A->data);
    rows_pack_nt(n, 1, rows_of(a, F), expert->down, &pair, packed);
}

static void add_down(const ExpertsPlan *plan, size_t run, float *const *hidden, float *y, size_t begin, size_t end)
{
    size_t stop = plan->runs->begin[run + 1];
    for (size_t e = busy_from(plan, plan->runs->begin[run], stop), next; e < stop; e = next) {
        next = busy_from(plan, e + 1, stop);
        size_t n = pairs_of(plan, e);
        Rows to = rows_pick(y, plan->D, plan->token + plan->begin[e]);
        RowsPair pair = lora_outer(plan->experts[e].out, 0, plan->D, NULL);
        rows_nt_slice(n, to, true, hidden[e], plan->experts[e].down, &pair, begin, end, (RowsNext){next < stop ? plan->experts[next].down : NULL, begin});
    }
}

static void run_up(const ExpertsPlan *plan, size_t run, const Tensor *x, const Tensor *w, float *const *hidden, float *scratch, size_t each, float *y)
{
    size_t turn = plan->runs->begin[run];
#pragma omp parallel
    {
        float *mine = scratch + (size_t)omp_get_thread_num() * each;
        for (size_t i = take_turn(&turn), next; i < plan->runs->begin[run + 1]; i = next) {
            next = take_turn(&turn);
            if (expert_at(plan, run, i)) hidden_rows(plan, plan->order[i], x, w, hidden[plan->order[i]], mine, expert_at(plan, run, next));
        }
#pragma omp barrier
        size_t begin, end;
        columns_of(plan->D, (size_t)omp_get_thread_num(), (size_t)omp_get_num_threads(), &begin, &end);
        if (begin < end) add_down(plan, run, hidden, y, begin, end);
    }
}

static void experts_up(Tape *tape, const ExpertsPlan *plan, const Tensor *x, const Tensor *w, float *y)
{
    size_t n_threads = (size_t)omp_get_max_threads(), most = 0;
    size_t each = (pack_floats(plan) + plan->most * (3 * plan->F + plan->rank_most) + 15) / 16 * 16;
    float **hidden = (float **)(void *)tape_scratch(tape, plan->E * 2);
    for (size_t i = 0; i < plan->runs->n; i++) most = larger(most, place_packed(plan, i, hidden, NULL));
    float *scratch = tape_scratch(tape, n_threads * each), *block = tape_scratch(tape, most);
    for (size_t i = 0; i < plan->runs->n && experts_borrow(tape, plan->runs, i); i++) {
        place_packed(plan, i, hidden, block);
        run_up(plan, i, x, w, hidden, scratch, each, y);
        experts_give_back(plan->runs, i);
    }
}

/* ---- the way back --------------------------------------------------------------------------------------------- */

typedef struct {
    float **gate, **up; /* [E] packed dg, and du with the gradient of LoRA's u on gate|up */
} PackedBack;

/* What a thread works with; each block holds `most` rows. */
typedef struct {
    float *x, *G, *gu, *dgu, *a, *da, *low, *dlow, *pack;
} Bench;

/* A row of gate and up; it serves LoRA on down as a row of r, too. */
static size_t gate_up_width(const ExpertsPlan *plan) { return larger(2 * plan->F, plan->rank_most); }

static size_t bench_floats(const ExpertsPlan *plan)
{
    return plan->most * (2 * plan->D + 4 * plan->F + gate_up_width(plan) + 2 * plan->rank_most) + pack_floats(plan);
}

static Bench bench_at(const ExpertsPlan *plan, float *at)
{
    size_t n = plan->most, D = plan->D, F = plan->F, R = plan->rank_most;
    Bench b = {.pack = at}; /* packing wants its alignment */
    b.x = b.pack + pack_floats(plan);
    b.G = b.x + n * D;
    b.gu = b.G + n * D;
    b.dgu = b.gu + n * gate_up_width(plan);
    b.a = b.dgu + n * 2 * F;
    b.da = b.a + n * F;
    b.low = b.da + n * F;
    b.dlow = b.low + n * R;
    return b;
}

/* dB_m = s dy' u and dA_m = du' x for every micro-batch, this expert's rows of it. */
static void sum_pair(const Group *group, const Lora *lora, size_t n, const uint32_t *token, const float *dy, size_t ldy,
                     const float *u, const float *du, const float *x, size_t ldx)
{
    if (!lora || !param_trains(lora->A)) return;
    size_t R = lora->A->rows, at = 0;
    for (size_t m = 0; m < group->n_micro; m++) {
        Span span = group_span(group, m);
        size_t end = at;
        while (end < n && token[end] < span.begin + span.n) end++;
        sum_tn(end - at, lora->B->rows, R, param_leaf(lora->B, span.number), lora->scale, dy + at * ldy, ldy, u + at * R, R);
        sum_tn(end - at, R, lora->A->cols, param_leaf(lora->A, span.number), 1, du + at * R, R, x + at * ldx, ldx);
        param_merge(lora->B, span.number);
        param_merge(lora->A, span.number);
        at = end;
    }
}

/* da_ = G Wd + s (G B) A, and the sums of LoRA on down; b->dlow = s G B. */
static void back_through_down(const ExpertsPlan *plan, const Expert *expert, size_t n, Rows G, const Bench *b, const Expert *next)
{
    size_t F = plan->F, R = rank_of(expert->out);
    RowsPair pair = lora_inner(expert->out, b->dlow);
    if (expert->out) rows_narrow_back(n, rows_of(b->dlow, R), expert->out->scale, G, R, plan->D, expert->out->B->data);
    rows_pack_nn(n, 1, G, expert->down, &pair, b->pack);
    rows_nn_slice(n, rows_of(b->da, F), false, b->pack, expert->down, &pair, 0, F, (RowsNext){next ? next->down : NULL, 0});
}

/* Rows of an expert's pairs from those of their tokens, times their weights where there are some. */
static void gather(const ExpertsPlan *plan, size_t at, size_t n, size_t width, float *rows, const float *of_tokens, const float *w)
{
    for (size_t i = 0; i < n; i++) {
        const float *row = of_tokens + plan->token[at + i] * width;
        if (w) row_scale(width, rows + i * width, weight_of_pair(plan, w, at + i), row);
        else memcpy(rows + i * width, row, width * sizeof *rows);
    }
}

/* The sums of LoRA on down: u = a A', and the gradients of y and of u with the routing weight in. */
static void sum_down(const ExpertsPlan *plan, size_t e, const Group *group, const float *w, const float *dy, const Bench *b)
{
    const Expert *expert = &plan->experts[e];
    size_t at = plan->begin[e], n = pairs_of(plan, e), R = rank_of(expert->out);
    float *u = b->gu; /* gate and up computed here have served */
    rows_narrow_in(n, rows_of(u, R), 1, rows_of(b->a, plan->F), R, plan->F, expert->out->A->data);
    gather(plan, at, n, plan->D, b->G, dy, w);
    for (size_t i = 0; i < n; i++) row_scale(R, b->dlow + i * R, weight_of_pair(plan, w, at + i), b->dlow + i * R);
    sum_pair(group, expert->out, n, plan->token + at, b->G, plan->D, u, b->dlow, b->a, plan->F);
}

/* b->dgu from the gradient of y; b->a is the hidden row before weighting. gu is kept, or computed again here. */
static void back_to_gate_and_up(const ExpertsPlan *plan, size_t e, const Tensor *w, const float *gu, const Bench *b)
{
    size_t at = plan->begin[e], n = pairs_of(plan, e), F = plan->F, K = plan->K;
    for (size_t i = 0; i < n; i++) {
        const float *gate = gu + i * 2 * F, *up = gate + F;
        float *da = b->da + i * F, *dgu = b->dgu + i * 2 * F;
        row_swiglu(F, b->a + i * F, gate, up);
        if (w->grad) w->grad[plan->token[at + i] * K + plan->slot[at + i]] += row_dot(F, b->a + i * F, da);
        row_scale(F, da, weight_of_pair(plan, w->data, at + i), da);
        row_swiglu_backward(F, dgu, dgu + F, gate, up, da);
    }
}

/* No token came: the gradients are zeros, and are said so. */
static void sum_nothing(const Group *group, const ExpertsPlan *plan, const Expert *expert)
{
    sum_pair(group, expert->out, 0, plan->token, NULL, plan->D, NULL, NULL, NULL, plan->F);
    sum_pair(group, expert->in, 0, plan->token, NULL, 2 * plan->F, NULL, NULL, NULL, plan->D);
}

static void expert_backward(const ExpertsPlan *plan, size_t e, const Group *group, const Tensor *x, const Tensor *w, const float *dy,
                            const PackedBack *packed, const Bench *b, const Expert *next)
{
    const Expert *expert = &plan->experts[e];
    size_t at = plan->begin[e], n = pairs_of(plan, e), D = plan->D, F = plan->F, R = rank_of(expert->in);
    const uint32_t *token = plan->token + at;
    float *gu = plan->gate_up ? plan->gate_up + at * 2 * F : b->gu, *low = plan->gate_up ? plan->low + at * plan->rank_most : b->low;
    if (n == 0) {
        sum_nothing(group, plan, expert);
        return;
    }
    back_through_down(plan, expert, n, rows_pick(dy, D, token), b, next);
    if (!plan->gate_up) gate_and_up(plan, expert, n, rows_pick(x->data, D, token), gu, low, b->pack, NULL);
    back_to_gate_and_up(plan, e, w, gu, b);
    if (expert->out && param_trains(expert->out->A)) sum_down(plan, e, group, w->data, dy, b);
    if (expert->in) {
        const Lora *in = expert->in;
        rows_narrow_back(n, rows_of(b->dlow, R), in->scale, rows_of(b->dgu + in->col, 2 * F), R, in->B->rows, in->B->data);
        if (param_trains(in->A)) gather(plan, at, n, D, b->x, x->data, NULL);
        sum_pair(group, in, n, token, b->dgu + in->col, 2 * F, low, b->dlow, b->x, D);
    }
    if (!packed->gate) return;
    RowsPair pair = lora_inner(expert->in, b->dlow);
    rows_pack_nn(n, 1, rows_of(b->dgu, 2 * F), expert->gate, NULL, packed->gate[e]);
    rows_pack_nn(n, 1, rows_of(b->dgu + F, 2 * F), expert->up, &pair, packed->up[e]);
}

static void add_back(const ExpertsPlan *plan, size_t run, const PackedBack *packed, float *dx, size_t begin, size_t end)
{
    size_t first = plan->runs->begin[run];
    for (size_t e = busy_below(plan, plan->runs->begin[run + 1], first), next; e > first; e = next) {
        next = busy_below(plan, e - 1, first);
        const Expert *expert = &plan->experts[e - 1];
        size_t n = pairs_of(plan, e - 1);
        Rows to = rows_pick(dx, plan->D, plan->token + plan->begin[e - 1]);
        RowsPair pair = lora_inner(expert->in, NULL);
        rows_nn_slice(n, to, true, packed->gate[e - 1], expert->gate, NULL, begin, end, (RowsNext){expert->up, begin});
        rows_nn_slice(n, to, true, packed->up[e - 1], expert->up, &pair, begin, end, (RowsNext){next > first ? plan->experts[next - 1].gate : NULL, begin});
    }
}

static bool make_packed_back(Tape *tape, const ExpertsPlan *plan, PackedBack *packed)
{
    packed->gate = (float **)(void *)tape_scratch(tape, plan->E * 2);
    packed->up = (float **)(void *)tape_scratch(tape, plan->E * 2);
    return !tape->err;
}

/* As place_packed. */
static size_t place_packed_back(const ExpertsPlan *plan, size_t i, const PackedBack *packed, float *block)
{
    size_t at = 0;
    for (size_t e = plan->runs->begin[i]; e < plan->runs->begin[i + 1]; e++) {
        size_t n = pairs_of(plan, e), gate = n ? rows_scratch(n, plan->F, 0) : 0;
        if (block) {
            packed->gate[e] = block + at;
            packed->up[e] = block + at + gate;
        }
        if (n) at += gate + rows_scratch(n, plan->F, rank_of(plan->experts[e].in));
    }
    return at;
}

static void run_back(const ExpertsPlan *plan, size_t run, const Group *group, const Tensor *x, const Tensor *w, const float *dy, const PackedBack *packed,
                     float *scratch, size_t each)
{
    size_t turn = plan->runs->begin[run];
#pragma omp parallel
    {
        Bench bench = bench_at(plan, scratch + (size_t)omp_get_thread_num() * each);
        for (size_t i = take_turn(&turn), next; i < plan->runs->begin[run + 1]; i = next) {
            next = take_turn(&turn);
            expert_backward(plan, plan->order[i], group, x, w, dy, packed, &bench, expert_at(plan, run, next));
        }
#pragma omp barrier
        size_t begin, end;
        columns_of(plan->D, (size_t)omp_get_thread_num(), (size_t)omp_get_num_threads(), &begin, &end);
        if (x->wants && begin < end) add_back(plan, run, packed, x->grad, begin, end);
    }
}

static void experts_backward(Node *node)
{
    Tape *tape = node->tape;
    const ExpertsPlan *plan = node->kept;
    Tensor *x = node->in[0], *w = node->in[1], *y = node->out;
    size_t n_threads = (size_t)omp_get_max_threads(), each = (bench_floats(plan) + 15) / 16 * 16, most = 0;
    float *scratch = tape_scratch(tape, n_threads * each), *block = NULL;
    PackedBack packed = {0};
    if (x->wants && make_packed_back(tape, plan, &packed)) {
        for (size_t i = 0; i < plan->runs->n; i++) most = larger(most, place_packed_back(plan, i, &packed, NULL));
        block = tape_scratch(tape, most);
    }
    for (size_t i = plan->runs->n; i-- > 0 && experts_borrow(tape, plan->runs, i);) {
        if (block) place_packed_back(plan, i, &packed, block);
        run_back(plan, i, tape->group, x, w, y->grad, &packed, scratch, each);
        experts_give_back(plan->runs, i);
    }
}

static const Op experts_op = {.name = "experts", .backward = experts_backward};

static bool trains(size_t E, const Expert *experts)
{
    for (size_t e = 0; e < E; e++)
        if ((experts[e].in && param_trains(experts[e].in->A)) || (experts[e].out && param_trains(experts[e].out->A))) return true;
    return false;
}

static bool pair_fits(Tape *tape, const Lora *lora, size_t inner, size_t width)
{
    if (!lora) return true;
    const Param *A = lora->A, *B = lora->B;
    return tape_expect(tape, A->cols == inner && B->cols == A->rows && lora->col + B->rows <= width,
                       "%s: A [%zu][%zu], B [%zu][%zu] at column %zu; x is %zu wide, y %zu", A->name, A->rows, A->cols, B->rows,
                       B->cols, lora->col, inner, width);
}

static bool fits(Tape *tape, const Tensor *x, Route route, size_t E, const Expert *experts)
{
    size_t T = x->shape[0], D = x->shape[1], K = route.weights->shape[1];
    if (!tape_expect(tape, E > 0, "experts: there are none")) return false;
    if (!tape_expect(tape, T == tape->group->T && T == route.weights->shape[0], "experts: %zu rows, %zu tokens, %zu rows of weights",
                     T, tape->group->T, route.weights->shape[0]))
        return false;
    size_t F = experts[0].gate->rows;
    for (size_t e = 0; e < E; e++) {
        const Weight *gate = experts[e].gate, *up = experts[e].up, *down = experts[e].down;
        bool right = gate->rows == F && gate->cols == D && up->rows == F && up->cols == D && down->rows == D && down->cols == F;
        if (!tape_expect(tape, right, "experts: x is [%zu][%zu], gate [%zu][%zu], up [%zu][%zu], down [%zu][%zu]", T, D, gate->rows,
                         gate->cols, up->rows, up->cols, down->rows, down->cols) ||
            !pair_fits(tape, experts[e].in, D, 2 * F) || !pair_fits(tape, experts[e].out, F, D))
            return false;
    }
    for (size_t i = 0; i < T * K; i++)
        if (!tape_expect(tape, route.ids[i] >= 0 && (size_t)route.ids[i] < E, "experts: id %d of %zu", route.ids[i], E)) return false;
    return true;
}

Tensor *op_experts(Tape *tape, Tensor *x, Route route, size_t E, const Expert *experts, const ExpertRuns *runs)
{
    size_t T = x->shape[0], D = x->shape[1], K = route.weights->shape[1];
    Tensor *y = tape_tensor(tape, T, D);
    if (!fits(tape, x, route, E, experts)) return &tape->dummy;
    ExpertsPlan *plan = experts_plan(tape, route.ids, T, K, D, E, experts, runs);
    if (!plan) return &tape->dummy;
    Tensor *in[] = {x, route.weights};
    if (!tape->lean && !tape->replay && tape_wants(tape, trains(E, experts), 2, in)) {
        plan->gate_up = tape_floats(tape, plan->N * 2 * plan->F);
        plan->low = tape_floats(tape, plan->N * plan->rank_most);
        if (tape->err) return &tape->dummy;
    }
    memset(y->data, 0, T * D * sizeof *y->data);
    if (!tape->replay) experts_up(tape, plan, x, route.weights, y->data);
    return tape_record(tape, &experts_op, y, plan, trains(E, experts), 2, in);
}
