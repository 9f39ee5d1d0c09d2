/* Routed experts:   y[t] = sum_k w[t,k] f_e(x[t]),  e = ids[t,k],  f_e(x) = (silu(x Wg') (x Wu')) Wd'.
 *
 * A pair is a token and one of its experts; pairs lie expert after expert, tokens ascending in each. Two passes:
 *   1. experts on threads, largest first: from x to a = w silu(g) u, packed for the second product;
 *   2. columns of y on threads: every thread adds all experts, in id order, into its own columns.
 * So a token's sum has one order, whoever computes it, and y is written without a buffer of all pairs' outputs.
 * What lies between them is packed in a block of bounded size: a lap of experts at a time goes through both passes. A thread works
 * on a piece of an expert's rows at a time; sums over rows go on from piece to piece. So no token's choice asks for more memory.
 * The way back has the same two passes, with G the gradient of y and a_ the hidden row before weighting:
 *   1. gate and up, kept or computed again;  da_ = G Wd,  dw = a_ . da_,  da = w da_,  dg and du by SwiGLU; the pairs' LoRA sums
 *   2. dx[t] += dg Wg + du Wu, experts in falling order: a run of them that was borrowed last on the way up is asked for first.
 * Experts that are not all in memory are borrowed a run at a time (ExpertChunks), each run through both passes; the orders of sums
 * above know nothing of runs. A replayed tape wants nothing of y, so that all of the way up is left to the way back.
 * LoRA rides along with each product as in op_linear: gate|up share one A.   Source: docs/glm5.md; transformers 5.23.0,
 * GlmMoeDsaExperts. */
#include "autograd/expert_schedule.h"
#include "autograd/lora.h"
#include "tensor/rows.h"

#include <omp.h>
#include <string.h>

/* Scratch for packing a piece's rows of any product. */
static size_t pack_floats(const ExpertSchedule *plan)
{
    return gemm_scratch(plan->most, size_max(plan->D, plan->F), plan->rank_most);
}

/* A piece of an expert: the pairs [at, at + n). Its packed rows lie behind those of the piece before. */
typedef struct {
    size_t at, n;
} Piece;

static Piece piece_of(const ExpertSchedule *plan, size_t e, size_t i)
{
    size_t n = assignments_of(plan, e), begin = piece_begin(plan, n, i);
    return (Piece){plan->begin[e] + begin, piece_begin(plan, n, i + 1) - begin};
}

/* Rows of their tokens. */
static Rows rows_of_pairs(const ExpertSchedule *plan, const float *of_tokens, Piece p)
{
    return rows_pick(of_tokens, plan->D, plan->token + p.at);
}

/* The columns [begin, end) that thread i of n owns: whole units. */
static void columns_of(size_t width, size_t i, size_t n, size_t *begin, size_t *end)
{
    size_t units = (width + GEMM_UNIT - 1) / GEMM_UNIT;
    *begin = units * i / n * GEMM_UNIT;
    *end = units * (i + 1) / n * GEMM_UNIT;
    if (*begin > width) *begin = width;
    if (*end > width) *end = width;
}

/* gu [n][2F] = [x Wg' | x Wu'] + LoRA; u [n][R] is what B has seen. One packing of x serves both when they multiply alike.
 * next: the gate that the thread turns to then, or NULL. */
static void gate_and_up(const ExpertSchedule *plan, const Expert *expert, size_t n, Rows x, float *gu, float *u,
                        float *pack, const Weight *next)
{
    size_t F = plan->F, R = rank_of(expert->lora_gate_up);
    GemmLora of_gate = lora_term_B(expert->lora_gate_up, 0, F, u), of_up = lora_term_B(expert->lora_gate_up, F, F, u);
    if (expert->lora_gate_up) gemm_narrow_nt(n, rows_of(u, R), 1, x, R, plan->D, expert->lora_gate_up->A->data);
    gemm_pack_nt(n, 1, x, expert->gate, &of_gate, pack);
    gemm_nt_slice(n, rows_of(gu, 2 * F), false, pack, expert->gate, &of_gate, 0, F, (GemmNext){expert->up, 0});
    if (!gemm_pack_serves(expert->gate, expert->up)) gemm_pack_nt(n, 1, x, expert->up, &of_up, pack);
    gemm_nt_slice(n, rows_of(gu + F, 2 * F), false, pack, expert->up, &of_up, 0, F, (GemmNext){next, 0});
}

/* ---- the way up ----------------------------------------------------------------------------------------------- */

static ExpertPacking packing_up(const ExpertSchedule *plan) { return (ExpertPacking){1, plan->rank_most}; }
static ExpertPacking packing_back(const ExpertSchedule *plan) { return (ExpertPacking){2, plan->rank_most}; }

/* Where the packed rows of each expert of a lap begin: places [E]. */
static void place(const ExpertSchedule *plan, ExpertPacking packing, size_t begin, size_t end, float *block,
                  float **places)
{
    for (size_t e = begin; e < end; block += expert_packing_expert(plan, packing, e++)) places[e] = block;
}

static void hidden_rows(const ExpertSchedule *plan, const Expert *expert, Piece p, const Tensor *x, const Tensor *w,
                        float *packed, float *scratch, const Expert *next)
{
    size_t F = plan->F, R = rank_of(expert->lora_down);
    float *pack = scratch, *a = pack + pack_floats(plan), *low = a + plan->most * F,
          *gu = low + plan->most * plan->rank_most;
    if (plan->gate_up) gu = plan->gate_up + p.at * 2 * F;
    gate_and_up(plan, expert, p.n, rows_of_pairs(plan, x->data, p), gu,
                plan->gate_up ? plan->low + p.at * plan->rank_most : low, pack, next ? next->gate : NULL);
    for (size_t i = 0; i < p.n; i++) {
        row_swiglu(F, a + i * F, gu + i * 2 * F, gu + i * 2 * F + F);
        row_scale(F, a + i * F, weight_of_assignment(plan, w->data, p.at + i), a + i * F);
    }
    GemmLora pair = lora_term_B(expert->lora_down, 0, plan->D, low);
    if (expert->lora_down) gemm_narrow_nt(p.n, rows_of(low, R), 1, rows_of(a, F), R, F, expert->lora_down->A->data);
    gemm_pack_nt(p.n, 1, rows_of(a, F), expert->down, &pair, packed);
}

static void expert_up(const ExpertSchedule *plan, size_t e, const Tensor *x, const Tensor *w, float *packed,
                      float *scratch, const Expert *next)
{
    const Expert *expert = &plan->experts[e];
    for (size_t i = 0, n = pieces_of(plan, assignments_of(plan, e)); i < n; i++) {
        Piece p = piece_of(plan, e, i);
        hidden_rows(plan, expert, p, x, w, packed, scratch, i + 1 < n ? expert : next);
        packed += expert_packing_piece(plan, packing_up(plan), p.n);
    }
}

/* Columns [begin, end) of y: what an expert adds to them. */
static void add_expert(const ExpertSchedule *plan, size_t e, const float *packed, float *y, size_t begin, size_t end,
                       const Weight *next)
{
    const Expert *expert = &plan->experts[e];
    GemmLora pair = lora_term_B(expert->lora_down, 0, plan->D, NULL);
    for (size_t i = 0, n = pieces_of(plan, assignments_of(plan, e)); i < n; i++) {
        Piece p = piece_of(plan, e, i);
        gemm_nt_slice(p.n, rows_of_pairs(plan, y, p), true, packed, expert->down, &pair, begin, end,
                      (GemmNext){i + 1 < n ? expert->down : next, begin});
        packed += expert_packing_piece(plan, packing_up(plan), p.n);
    }
}

static void add_down(const ExpertSchedule *plan, size_t first, size_t stop, float *const *hidden, float *y,
                     size_t begin, size_t end)
{
    for (size_t e = expert_next_with_tokens(plan, first, stop), next; e < stop; e = next) {
        next = expert_next_with_tokens(plan, e + 1, stop);
        add_expert(plan, e, hidden[e], y, begin, end, next < stop ? plan->experts[next].down : NULL);
    }
}

static void lap_up(const ExpertSchedule *plan, size_t first, size_t stop, const Tensor *x, const Tensor *w,
                   float *const *hidden, float *scratch, size_t each, float *y)
{
    size_t turn = first;
    expert_batch_order(plan, first, stop);
#pragma omp parallel
    {
        float *mine = scratch + (size_t)omp_get_thread_num() * each;
        for (size_t i = take_turn(&turn), next; i < stop; i = next) {
            next = take_turn(&turn);
            size_t e = plan->order[i].expert;
            if (expert_at(plan, stop, i)) expert_up(plan, e, x, w, hidden[e], mine, expert_at(plan, stop, next));
        }
#pragma omp barrier
        size_t begin, end;
        columns_of(plan->D, (size_t)omp_get_thread_num(), (size_t)omp_get_num_threads(), &begin, &end);
        if (begin < end) add_down(plan, first, stop, hidden, y, begin, end);
    }
}

static void experts_up(Tape *tape, const ExpertSchedule *plan, const Tensor *x, const Tensor *w, float *y)
{
    const ExpertChunks *chunks = plan->chunks;
    size_t each = round_up(pack_floats(plan) + plan->most * (3 * plan->F + plan->rank_most), 16),
           room = expert_packing_block(tape, plan, packing_up(plan));
    float *scratch = tape_scratch(tape, tape_threads(tape) * each), *block = tape_scratch(tape, room);
    float **hidden = (float **)(void *)tape_scratch(tape, plan->E * 2);
    for (size_t i = 0; tape_computes(tape) && i < chunks->n && expert_chunk_acquire(tape, chunks, i); i++) {
        for (size_t e = chunks->begin[i], stop; e < chunks->begin[i + 1]; e = stop) {
            stop = expert_batch_end(plan, packing_up(plan), room, e, chunks->begin[i + 1]);
            place(plan, packing_up(plan), e, stop, block, hidden);
            lap_up(plan, e, stop, x, w, hidden, scratch, each, y);
        }
        expert_chunk_release(chunks, i);
    }
}

/* ---- the way back --------------------------------------------------------------------------------------------- */

/* What a thread works with; each block holds a piece's rows. */
typedef struct {
    float *gu, *dgu, *a, *da, *low, *dlow, *pack;
} Bench;

/* A row of gate and up; it serves LoRA on down as a row of r, too. */
static size_t gate_up_width(const ExpertSchedule *plan) { return size_max(2 * plan->F, plan->rank_most); }

static size_t bench_floats(const ExpertSchedule *plan)
{
    return plan->most * (4 * plan->F + gate_up_width(plan) + 2 * plan->rank_most) + pack_floats(plan);
}

static Bench bench_at(const ExpertSchedule *plan, float *at)
{
    size_t n = plan->most, F = plan->F, R = plan->rank_most;
    Bench b = {.pack = at}; /* packing wants its alignment */
    b.gu = b.pack + pack_floats(plan);
    b.dgu = b.gu + n * gate_up_width(plan);
    b.a = b.dgu + n * 2 * F;
    b.da = b.a + n * F;
    b.low = b.da + n * F;
    b.dlow = b.low + n * R;
    return b;
}

/* da_ = G Wd + s (G B) A, and the sums of LoRA on down; b->dlow = s G B. */
static void back_through_down(const ExpertSchedule *plan, const Expert *expert, size_t n, Rows G, const Bench *b,
                              const Expert *next)
{
    size_t F = plan->F, R = rank_of(expert->lora_down);
    GemmLora pair = lora_term_A(expert->lora_down, b->dlow);
    if (expert->lora_down)
        gemm_narrow_nn(n, rows_of(b->dlow, R), expert->lora_down->scale, G, R, plan->D, expert->lora_down->B->data);
    gemm_pack_nn(n, 1, G, expert->down, &pair, b->pack);
    gemm_nn_slice(n, rows_of(b->da, F), false, b->pack, expert->down, &pair, 0, F,
                  (GemmNext){next ? next->down : NULL, 0});
}

/* b->dgu from the gradient of y; b->a is the hidden row before weighting. gu is kept, or computed again here. */
static void back_to_gate_and_up(const ExpertSchedule *plan, Piece p, const Tensor *w, const float *gu, const Bench *b)
{
    size_t F = plan->F, K = plan->K;
    for (size_t i = 0; i < p.n; i++) {
        const float *gate = gu + i * 2 * F, *up = gate + F;
        float *da = b->da + i * F, *dgu = b->dgu + i * 2 * F;
        row_swiglu(F, b->a + i * F, gate, up);
        if (w->grad) w->grad[plan->token[p.at + i] * K + plan->choice[p.at + i]] += row_dot(F, b->a + i * F, da);
        row_scale(F, da, weight_of_assignment(plan, w->data, p.at + i), da);
        row_swiglu_backward(F, dgu, dgu + F, gate, up, da);
    }
}

/* Sums of a pair over an expert's rows, micro-batch after micro-batch, on their way from piece to piece. */
typedef struct {
    size_t m, at; /* micro-batch, and the first of its pairs */
} Sums;

/* The way back of one expert: what its pieces share. */
typedef struct {
    const ExpertSchedule *plan;
    const Expert *expert;
    const Group *group;
    const Tensor *x, *w;
    const float *dy;
    size_t e;
    Sums in, out;
} Back;

static Sums sums_of(const ExpertSchedule *plan, size_t e) { return (Sums){.at = plan->begin[e]}; }

/* dB_m = s dy' u and dA_m = du' x: what the rows of a piece add, dy, x, u and du theirs. */
static void sum_pair(const Back *back, const Lora *lora, Sums *sums, Piece p, Rows dy, const float *u, const float *du,
                     Rows x)
{
    if (!lora || !param_trains(lora->A)) return;
    const uint32_t *token = back->plan->token;
    size_t R = lora->A->rows, end = p.at + p.n, last = back->plan->begin[back->e + 1];
    for (; sums->m < back->group->n_micro_batches; sums->m++) {
        Span span = group_span(back->group, sums->m);
        size_t from = size_max(sums->at, p.at), past = from;
        while (past < last && token[past] < span.begin + span.n) past++;
        bool add = sums->at < p.at, whole = past <= end;
        size_t to = size_min(past, end), T = to - from, i = from - p.at;
        if (T == 0 && !whole) return;
        gemm_tn(T, lora->B->rows, R, param_leaf(lora->B, span.number), add, whole ? lora->scale : 1, rows_from(dy, i),
                rows_from(rows_of(u, R), i));
        gemm_tn(T, R, lora->A->cols, param_leaf(lora->A, span.number), add, 1, rows_from(rows_of(du, R), i),
                rows_from(x, i));
        if (!whole) return;
        param_merge(lora->B, span.number);
        param_merge(lora->A, span.number);
        sums->at = to;
    }
}

/* The sums of LoRA on down: u = a A', with the routing weight in u and du. */
static void sum_down(Back *back, Piece p, const Bench *b)
{
    const ExpertSchedule *plan = back->plan;
    const Lora *out = back->expert->lora_down;
    size_t R = rank_of(out);
    float *u = b->gu; /* gate and up computed here have served */
    gemm_narrow_nt(p.n, rows_of(u, R), 1, rows_of(b->a, plan->F), R, plan->F, out->A->data);
    for (size_t i = 0; i < p.n; i++) {
        float weight = weight_of_assignment(plan, back->w->data, p.at + i);
        row_scale(R, u + i * R, weight, u + i * R);
        row_scale(R, b->dlow + i * R, weight, b->dlow + i * R);
    }
    sum_pair(back, out, &back->out, p, rows_of_pairs(plan, back->dy, p), u, b->dlow, rows_of(b->a, plan->F));
}

/* packed: where dg goes, and behind it du with the gradient of LoRA's u on gate|up; NULL when nothing below wants them. */
static void piece_back(Back *back, Piece p, float *packed, const Bench *b, const Expert *next)
{
    const ExpertSchedule *plan = back->plan;
    const Expert *expert = back->expert;
    const Lora *in = expert->lora_gate_up;
    size_t F = plan->F, R = rank_of(in);
    float *gu = plan->gate_up ? plan->gate_up + p.at * 2 * F : b->gu,
          *low = plan->gate_up ? plan->low + p.at * plan->rank_most : b->low;
    Rows x = rows_of_pairs(plan, back->x->data, p);
    back_through_down(plan, expert, p.n, rows_of_pairs(plan, back->dy, p), b, next);
    if (!plan->gate_up) gate_and_up(plan, expert, p.n, x, gu, low, b->pack, NULL);
    back_to_gate_and_up(plan, p, back->w, gu, b);
    if (expert->lora_down && param_trains(expert->lora_down->A)) sum_down(back, p, b);
    if (in) {
        gemm_narrow_nn(p.n, rows_of(b->dlow, R), in->scale, rows_of(b->dgu + in->col, 2 * F), R, in->B->rows,
                       in->B->data);
        sum_pair(back, in, &back->in, p, rows_of(b->dgu + in->col, 2 * F), low, b->dlow, x);
    }
    if (!packed) return;
    GemmLora pair = lora_term_A(in, b->dlow);
    gemm_pack_nn(p.n, 1, rows_of(b->dgu, 2 * F), expert->gate, NULL, packed);
    gemm_pack_nn(p.n, 1, rows_of(b->dgu + F, 2 * F), expert->up, &pair, packed + gemm_scratch(p.n, F, 0));
}

static void expert_back(Back *back, float *packed, const Bench *b, const Expert *next)
{
    const ExpertSchedule *plan = back->plan;
    size_t n = pieces_of(plan, assignments_of(plan, back->e));
    for (size_t i = 0; i < n; i++) {
        Piece p = piece_of(plan, back->e, i);
        piece_back(back, p, packed, b, i + 1 < n ? back->expert : next);
        if (packed) packed += expert_packing_piece(plan, packing_back(plan), p.n);
    }
    if (n) return;
    Piece none = {plan->begin[back->e], 0}; /* no token came: the gradients are zeros, and are said so */
    sum_pair(back, back->expert->lora_down, &back->out, none, rows_of(NULL, 0), NULL, NULL, rows_of(NULL, 0));
    sum_pair(back, back->expert->lora_gate_up, &back->in, none, rows_of(NULL, 0), NULL, NULL, rows_of(NULL, 0));
}

/* Columns [begin, end) of dx: what an expert adds to them. */
static void add_expert_back(const ExpertSchedule *plan, size_t e, const float *packed, float *dx, size_t begin,
                            size_t end, const Weight *next)
{
    const Expert *expert = &plan->experts[e];
    GemmLora pair = lora_term_A(expert->lora_gate_up, NULL);
    for (size_t i = 0, n = pieces_of(plan, assignments_of(plan, e)); i < n; i++) {
        Piece p = piece_of(plan, e, i);
        Rows to = rows_of_pairs(plan, dx, p);
        gemm_nn_slice(p.n, to, true, packed, expert->gate, NULL, begin, end, (GemmNext){expert->up, begin});
        gemm_nn_slice(p.n, to, true, packed + gemm_scratch(p.n, plan->F, 0), expert->up, &pair, begin, end,
                      (GemmNext){i + 1 < n ? expert->gate : next, begin});
        packed += expert_packing_piece(plan, packing_back(plan), p.n);
    }
}

static void add_back(const ExpertSchedule *plan, size_t first, size_t stop, float *const *packed, float *dx,
                     size_t begin, size_t end)
{
    for (size_t e = expert_end_with_tokens(plan, stop, first), next; e > first; e = next) {
        next = expert_end_with_tokens(plan, e - 1, first);
        add_expert_back(plan, e - 1, packed[e - 1], dx, begin, end, next > first ? plan->experts[next - 1].gate : NULL);
    }
}

static void lap_back(const ExpertSchedule *plan, size_t first, size_t stop, const Group *group, const Tensor *x,
                     const Tensor *w, const float *dy, float *const *packed, float *scratch, size_t each)
{
    size_t turn = first;
    expert_batch_order(plan, first, stop);
#pragma omp parallel
    {
        Bench bench = bench_at(plan, scratch + (size_t)omp_get_thread_num() * each);
        for (size_t i = take_turn(&turn), next; i < stop; i = next) {
            next = take_turn(&turn);
            size_t e = plan->order[i].expert;
            Back back = {.plan = plan,
                         .expert = &plan->experts[e],
                         .group = group,
                         .x = x,
                         .w = w,
                         .dy = dy,
                         .e = e,
                         .in = sums_of(plan, e),
                         .out = sums_of(plan, e)};
            expert_back(&back, x->requires_grad ? packed[e] : NULL, &bench, expert_at(plan, stop, next));
        }
#pragma omp barrier
        size_t begin, end;
        columns_of(plan->D, (size_t)omp_get_thread_num(), (size_t)omp_get_num_threads(), &begin, &end);
        if (x->requires_grad && begin < end) add_back(plan, first, stop, packed, x->grad, begin, end);
    }
}

static void experts_backward(Node *node)
{
    Tape *tape = node->tape;
    const ExpertSchedule *plan = node->state;
    const ExpertChunks *chunks = plan->chunks;
    Tensor *x = node->in[0], *w = node->in[1], *y = node->out;
    size_t each = round_up(bench_floats(plan), 16), room = expert_packing_block(tape, plan, packing_back(plan));
    float *scratch = tape_scratch(tape, tape_threads(tape) * each),
          *block = x->requires_grad ? tape_scratch(tape, room) : NULL;
    float **packed = (float **)(void *)tape_scratch(tape, plan->E * 2);
    for (size_t i = chunks->n; tape_computes(tape) && i-- > 0 && expert_chunk_acquire(tape, chunks, i);) {
        for (size_t e = chunks->begin[i + 1], first; e > chunks->begin[i]; e = first) {
            first = expert_batch_begin(plan, packing_back(plan), room, chunks->begin[i], e);
            if (block) place(plan, packing_back(plan), first, e, block, packed);
            lap_back(plan, first, e, tape->group, x, w, y->grad, packed, scratch, each);
        }
        expert_chunk_release(chunks, i);
    }
}

static const Op experts_op = {.name = "experts", .backward = experts_backward};

static bool trains(size_t E, const Expert *experts)
{
    for (size_t e = 0; e < E; e++)
        if ((experts[e].lora_gate_up && param_trains(experts[e].lora_gate_up->A)) ||
            (experts[e].lora_down && param_trains(experts[e].lora_down->A)))
            return true;
    return false;
}

static bool lora_fits(Tape *tape, const Lora *lora, size_t inner, size_t width)
{
    if (!lora) return true;
    const Param *A = lora->A, *B = lora->B;
    return tape_expect(tape, A->cols == inner && B->cols == A->rows && lora->col + B->rows <= width,
                       "%s: A [%zu][%zu], B [%zu][%zu] at column %zu; x is %zu wide, y %zu", A->name, A->rows, A->cols,
                       B->rows, B->cols, lora->col, inner, width);
}

static bool fits(Tape *tape, const Tensor *x, Route route, size_t E, const Expert *experts)
{
    size_t T = x->shape[0], D = x->shape[1], K = route.weights->shape[1];
    if (!tape_expect(tape, E > 0, "experts: there are none")) return false;
    if (!tape_expect(tape, T == tape->group->T && T == route.weights->shape[0],
                     "experts: %zu rows, %zu tokens, %zu rows of weights", T, tape->group->T, route.weights->shape[0]))
        return false;
    size_t F = experts[0].gate->rows;
    for (size_t e = 0; e < E; e++) {
        const Weight *gate = experts[e].gate, *up = experts[e].up, *down = experts[e].down;
        bool right = gate->rows == F && gate->cols == D && up->rows == F && up->cols == D && down->rows == D &&
                     down->cols == F;
        if (!tape_expect(tape, right, "experts: x is [%zu][%zu], gate [%zu][%zu], up [%zu][%zu], down [%zu][%zu]", T, D,
                         gate->rows, gate->cols, up->rows, up->cols, down->rows, down->cols) ||
            !lora_fits(tape, experts[e].lora_gate_up, D, 2 * F) || !lora_fits(tape, experts[e].lora_down, F, D))
            return false;
    }
    for (size_t i = 0; i < T * K && tape_computes(tape); i++)
        if (!tape_expect(tape, route.ids[i] >= 0 && (size_t)route.ids[i] < E, "experts: id %d of %zu", route.ids[i], E))
            return false;
    return true;
}

Tensor *op_experts(Tape *tape, Tensor *x, Route route, size_t E, const Expert *experts, const ExpertChunks *chunks)
{
    size_t T = x->shape[0], D = x->shape[1], K = route.weights->shape[1];
    Tensor *y = tape_tensor(tape, T, D);
    if (!fits(tape, x, route, E, experts)) return &tape->dummy;
    ExpertSchedule *plan = expert_schedule_new(tape, route.ids, T, K, D, E, experts, chunks);
    if (!plan) return &tape->dummy;
    Tensor *in[] = {x, route.weights};
    if (!tape->recompute_experts && !tape->recomputing && tape_requires_grad(tape, trains(E, experts), 2, in)) {
        plan->gate_up = tape_floats(tape, plan->N * 2 * plan->F);
        plan->low = tape_floats(tape, plan->N * plan->rank_most);
        if (tape->err) return &tape->dummy;
    }
    if (tape_computes(tape)) memset(y->data, 0, T * D * sizeof *y->data);
    if (!tape->recomputing) experts_up(tape, plan, x, route.weights, y->data);
    return tape_record(tape, &experts_op, y, plan, trains(E, experts), 2, in);
}
