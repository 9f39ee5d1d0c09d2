/* Routed experts:   y[t] = sum_k w[t,k] f_e(x[t]),   e = ids[t,k],   f_e(x) = (silu(x Wg') (x Wu')) Wd'
 * x, y [T][D], w [T][K], Wg, Wu [F][D], Wd [D][F]. The routing weight is applied before Wd:
 *     g = x Wg',  u = x Wu',  a_ = silu(g) u,  a = w a_,  y[t] += a Wd'
 * and backward, with G the gradient of y:
 *     da_ = G Wd,  dw = a_ . da_,  da = w da_,  dg and du by SwiGLU,  dx[t] += dg Wg + du Wu
 * LoRA is added to each product as in op_linear; gate and up share one A.
 *
 * Both directions have two steps:
 *   1. threads take experts: the products up to a (forward), or to dg and du and LoRA's gradients (backward); the
 *   results
 *      are packed as factors of the second step
 *   2. threads own columns of y or dx: each thread adds all experts to its columns, in id order forward, in falling
 *   order
 *      backward
 * So the order of every sum is fixed, whatever the number of threads, and the outputs of single experts are not stored.
 * Chunks, batches, turns and pieces (expert_schedule.h) divide the work. Sums over rows of an expert continue from
 * piece to piece. Chunks are acquired in falling order backward, so the last one of the forward pass is the first one
 * needed. Source: docs/glm5.md, section 7; transformers 5.23.0, GlmMoeDsaExperts. */
#include "autograd/expert_lora.h"
#include "autograd/expert_schedule.h"
#include "autograd/lora.h"
#include "tensor/rows.h"

#include <omp.h>
#include <string.h>

/* Rows of an expert before SwiGLU. */
typedef struct {
    float *gate_up; /* [n][2F] = [g | u] */
    float *lora_u;  /* [n][r] = x A' of the LoRA on [gate | up] */
} GateUp;

typedef struct {
    ExpertSchedule schedule;
    GateUp saved; /* of all assignments, lora_u with max_r floats a row; NULL: backward recomputes them */
} ExpertsState;

/* What the threads of a forward or backward pass share. */
typedef struct {
    const ExpertSchedule *schedule;
    GateUp saved;
    const Group *group;
    const Tensor *x, *w, *y;
    float **packed; /* [E] the packed rows of each expert of the batch; NULL: there are none */
    float *workspaces;
    size_t workspace_floats; /* of one thread */
} ExpertsPass;

/* Scratch for packing a piece's rows for any product. */
static size_t pack_floats(const ExpertSchedule *s)
{
    return gemm_scratch(s->max_piece_rows, size_max(s->D, s->F), s->max_r);
}

static float *my_workspace(const ExpertsPass *pass)
{
    return pass->workspaces + (size_t)omp_get_thread_num() * pass->workspace_floats;
}

/* The rows of x, y or their gradients that belong to a piece's tokens. */
static Rows rows_of_piece(const ExpertSchedule *s, const float *of_tokens, ExpertPiece p)
{
    return rows_pick(of_tokens, s->D, s->token + p.begin);
}

/* The piece's part of what is saved for backward, or else the workspace. */
static GateUp gate_up_of_piece(const ExpertsPass *pass, ExpertPiece p, GateUp workspace)
{
    if (!pass->saved.gate_up) return workspace;
    return (GateUp){pass->saved.gate_up + p.begin * 2 * pass->schedule->F,
                    pass->saved.lora_u + p.begin * pass->schedule->max_r};
}

/* The columns [begin, end) of thread i of n: whole units. */
static void columns_of_thread(size_t width, size_t i, size_t n, size_t *begin, size_t *end)
{
    size_t units = (width + GEMM_UNIT - 1) / GEMM_UNIT;
    *begin = size_min(units * i / n * GEMM_UNIT, width);
    *end = size_min(units * (i + 1) / n * GEMM_UNIT, width);
}

/* Where the packed rows of each expert of a batch begin in the block. */
static void place_packed(const ExpertSchedule *s, size_t factors, size_t begin, size_t end, float *at, float **packed)
{
    for (size_t e = begin; e < end; at += expert_packed_size(s, factors, e++)) packed[e] = at;
}

/* [g | u] = [x Wg' | x Wu'] + LoRA of n rows. One packing of x serves both products if the formats of gate and up
 * agree. next: the gate that this thread multiplies with next, or NULL. */
static void gate_up_forward(const ExpertSchedule *s, const Expert *expert, size_t n, Rows x, GateUp out, float *packing,
                            const Weight *next)
{
    size_t F = s->F, r = lora_r(expert->lora_gate_up);
    GemmLora of_gate = lora_term_B(expert->lora_gate_up, 0, F, out.lora_u),
             of_up = lora_term_B(expert->lora_gate_up, F, F, out.lora_u);
    if (expert->lora_gate_up) gemm_narrow_nt(n, rows_of(out.lora_u, r), 1, x, r, s->D, expert->lora_gate_up->A->data);
    gemm_pack_nt(n, 1, x, expert->gate, &of_gate, packing);
    gemm_nt_slice(n, rows_of(out.gate_up, 2 * F), false, packing, expert->gate, &of_gate, 0, F,
                  (GemmNext){expert->up, 0});
    if (!gemm_pack_serves(expert->gate, expert->up)) gemm_pack_nt(n, 1, x, expert->up, &of_up, packing);
    gemm_nt_slice(n, rows_of(out.gate_up + F, 2 * F), false, packing, expert->up, &of_up, 0, F, (GemmNext){next, 0});
}

/* ---- forward --------------------------------------------------------------------------------------------------- */

/* A thread's workspace; each block has max_piece_rows rows. */
typedef struct {
    float *packing, *a, *lora_u, *gate_up;
} ForwardWorkspace;

static size_t forward_workspace_floats(const ExpertSchedule *s)
{
    return round_up(pack_floats(s) + s->max_piece_rows * (3 * s->F + s->max_r), 16);
}

static ForwardWorkspace forward_workspace(const ExpertSchedule *s, float *base)
{
    ForwardWorkspace ws = {.packing = base}; /* packing needs its alignment */
    ws.a = ws.packing + pack_floats(s);
    ws.lora_u = ws.a + s->max_piece_rows * s->F;
    ws.gate_up = ws.lora_u + s->max_piece_rows * s->max_r;
    return ws;
}

/* Step 1 for a piece: a = w silu(g) u, packed for the product with Wd. */
static void piece_forward(const ExpertsPass *pass, const Expert *expert, ExpertPiece p, const ForwardWorkspace *ws,
                          float *packed, const Expert *next)
{
    const ExpertSchedule *s = pass->schedule;
    const Lora *lora = expert->lora_down;
    size_t F = s->F, r = lora_r(lora);
    GateUp rows = gate_up_of_piece(pass, p, (GateUp){ws->gate_up, ws->lora_u});
    gate_up_forward(s, expert, p.n, rows_of_piece(s, pass->x->data, p), rows, ws->packing, next ? next->gate : NULL);
    for (size_t i = 0; i < p.n; i++) {
        float *a = ws->a + i * F, *gate = rows.gate_up + i * 2 * F;
        row_swiglu(F, a, gate, gate + F);
        row_scale(F, a, weight_of_assignment(s, pass->w->data, p.begin + i), a);
    }
    GemmLora term = lora_term_B(lora, 0, s->D, ws->lora_u);
    if (lora) gemm_narrow_nt(p.n, rows_of(ws->lora_u, r), 1, rows_of(ws->a, F), r, F, lora->A->data);
    gemm_pack_nt(p.n, 1, rows_of(ws->a, F), expert->down, &term, packed);
}

static void expert_forward(const ExpertsPass *pass, size_t e, const ForwardWorkspace *ws, const Expert *next)
{
    const ExpertSchedule *s = pass->schedule;
    const Expert *expert = &s->experts[e];
    float *packed = pass->packed[e];
    for (size_t i = 0, n = pieces_of(s, assignments_of(s, e)); i < n; i++) {
        ExpertPiece p = expert_piece(s, e, i);
        piece_forward(pass, expert, p, ws, packed, i + 1 < n ? expert : next);
        packed += expert_packed_piece(s, FORWARD_FACTORS, p.n);
    }
}

/* Step 2: columns [begin, end) of y += a Wd' of one expert. next: the down that comes next, or NULL. */
static void add_expert(const ExpertsPass *pass, size_t e, size_t begin, size_t end, const Weight *next)
{
    const ExpertSchedule *s = pass->schedule;
    const Expert *expert = &s->experts[e];
    const float *packed = pass->packed[e];
    GemmLora term = lora_term_B(expert->lora_down, 0, s->D, NULL);
    for (size_t i = 0, n = pieces_of(s, assignments_of(s, e)); i < n; i++) {
        ExpertPiece p = expert_piece(s, e, i);
        gemm_nt_slice(p.n, rows_of_piece(s, pass->y->data, p), true, packed, expert->down, &term, begin, end,
                      (GemmNext){i + 1 < n ? expert->down : next, begin});
        packed += expert_packed_piece(s, FORWARD_FACTORS, p.n);
    }
}

static void add_batch(const ExpertsPass *pass, size_t first, size_t end, size_t col_begin, size_t col_end)
{
    const ExpertSchedule *s = pass->schedule;
    for (size_t e = expert_next_with_tokens(s, first, end), next; e < end; e = next) {
        next = expert_next_with_tokens(s, e + 1, end);
        add_expert(pass, e, col_begin, col_end, next < end ? s->experts[next].down : NULL);
    }
}

static void batch_forward(const ExpertsPass *pass, size_t first, size_t end)
{
    const ExpertSchedule *s = pass->schedule;
    size_t next_turn = first;
    expert_batch_order(s, first, end);
#pragma omp parallel
    {
        ForwardWorkspace ws = forward_workspace(s, my_workspace(pass));
        for (size_t turn = expert_turn_take(&next_turn), next; turn < end; turn = next) {
            next = expert_turn_take(&next_turn);
            expert_forward(pass, s->order[turn].expert, &ws, expert_of_turn(s, end, next));
        }
#pragma omp barrier
        size_t col_begin, col_end;
        columns_of_thread(s->D, (size_t)omp_get_thread_num(), (size_t)omp_get_num_threads(), &col_begin, &col_end);
        if (col_begin < col_end) add_batch(pass, first, end, col_begin, col_end);
    }
}

static void experts_forward(Tape *tape, const ExpertsState *state, const Tensor *x, const Tensor *w, const Tensor *y)
{
    const ExpertSchedule *s = &state->schedule;
    const ExpertChunks *chunks = s->chunks;
    size_t workspace_floats = forward_workspace_floats(s), capacity = expert_block_capacity(tape, s, FORWARD_FACTORS);
    float *workspaces = tape_scratch(tape, tape_threads(tape) * workspace_floats),
          *block = tape_scratch(tape, capacity);
    float **packed = (float **)(void *)tape_scratch(tape, s->E * 2); /* pointers of two floats' size */
    ExpertsPass pass = {s, state->saved, tape->group, x, w, y, packed, workspaces, workspace_floats};
    for (size_t i = 0; tape_computes(tape) && i < chunks->n && expert_chunk_acquire(tape, chunks, i); i++) {
        for (size_t e = chunks->begin[i], end; e < chunks->begin[i + 1]; e = end) {
            end = expert_batch_end(s, FORWARD_FACTORS, capacity, e, chunks->begin[i + 1]);
            place_packed(s, FORWARD_FACTORS, e, end, block, packed);
            batch_forward(&pass, e, end);
        }
        expert_chunk_release(chunks, i);
    }
}

/* ---- backward -------------------------------------------------------------------------------------------------- */

/* A thread's workspace; each block has max_piece_rows rows. */
typedef struct {
    float *gate_up, *dgate_up, *a, *da, *lora_u, *lora_du, *packing;
} BackwardWorkspace;

/* Floats of a row of gate_up, which later holds u of the LoRA on down. */
static size_t gate_up_width(const ExpertSchedule *s) { return size_max(2 * s->F, s->max_r); }

static size_t backward_workspace_floats(const ExpertSchedule *s)
{
    return round_up(s->max_piece_rows * (4 * s->F + gate_up_width(s) + 2 * s->max_r) + pack_floats(s), 16);
}

static BackwardWorkspace backward_workspace(const ExpertSchedule *s, float *base)
{
    size_t n = s->max_piece_rows;
    BackwardWorkspace ws = {.packing = base}; /* packing needs its alignment */
    ws.gate_up = ws.packing + pack_floats(s);
    ws.dgate_up = ws.gate_up + n * gate_up_width(s);
    ws.a = ws.dgate_up + n * 2 * s->F;
    ws.da = ws.a + n * s->F;
    ws.lora_u = ws.da + n * s->F;
    ws.lora_du = ws.lora_u + n * s->max_r;
    return ws;
}

/* da_ = G Wd + s (G B) A; ws->lora_du = s G B. */
static void down_backward(const ExpertSchedule *s, const Expert *expert, size_t n, Rows G, const BackwardWorkspace *ws,
                          const Expert *next)
{
    const Lora *lora = expert->lora_down;
    size_t F = s->F, r = lora_r(lora);
    GemmLora term = lora_term_A(lora, ws->lora_du);
    if (lora) gemm_narrow_nn(n, rows_of(ws->lora_du, r), lora->scale, G, r, s->D, lora->B->data);
    gemm_pack_nn(n, 1, G, expert->down, &term, ws->packing);
    gemm_nn_slice(n, rows_of(ws->da, F), false, ws->packing, expert->down, &term, 0, F,
                  (GemmNext){next ? next->down : NULL, 0});
}

/* ws->dgate_up = [dg | du] from ws->da = da_; adds dw, and leaves a_ in ws->a. */
static void swiglu_backward(const ExpertsPass *pass, ExpertPiece p, const float *gate_up, const BackwardWorkspace *ws)
{
    const ExpertSchedule *s = pass->schedule;
    const Tensor *w = pass->w;
    size_t F = s->F, K = s->K;
    for (size_t i = 0; i < p.n; i++) {
        size_t assignment = p.begin + i;
        const float *gate = gate_up + i * 2 * F, *up = gate + F;
        float *da = ws->da + i * F, *dgate = ws->dgate_up + i * 2 * F;
        row_swiglu(F, ws->a + i * F, gate, up);
        if (w->grad) w->grad[s->token[assignment] * K + s->choice[assignment]] += row_dot(F, ws->a + i * F, da);
        row_scale(F, da, weight_of_assignment(s, w->data, assignment), da);
        row_swiglu_backward(F, dgate, dgate + F, gate, up, da);
    }
}

/* The backward pass of one expert: what its pieces share. */
typedef struct {
    const ExpertsPass *pass;
    const Expert *expert;
    size_t e;
    ExpertLoraSum gate_up, down;
} ExpertBackward;

/* The gradient of the LoRA on down, whose input is a: u = a A'. The routing weight is applied to u and du, not to a. */
static void lora_down_backward(ExpertBackward *bwd, ExpertPiece p, const BackwardWorkspace *ws)
{
    const ExpertSchedule *s = bwd->pass->schedule;
    const Lora *lora = bwd->down.lora;
    if (!lora_trains(lora)) return;
    size_t r = lora_r(lora);
    float *u = ws->gate_up; /* if g and u were recomputed here, they are no longer needed */
    gemm_narrow_nt(p.n, rows_of(u, r), 1, rows_of(ws->a, s->F), r, s->F, lora->A->data);
    for (size_t i = 0; i < p.n; i++) {
        float weight = weight_of_assignment(s, bwd->pass->w->data, p.begin + i);
        row_scale(r, u + i * r, weight, u + i * r);
        row_scale(r, ws->lora_du + i * r, weight, ws->lora_du + i * r);
    }
    ExpertLoraFactors f = {rows_of_piece(s, bwd->pass->y->grad, p), rows_of(ws->a, s->F), u, ws->lora_du};
    expert_lora_add(&bwd->down, s, bwd->pass->group, p, &f);
}

/* The gradient of the LoRA on [gate | up], and its du. */
static void lora_gate_up_backward(ExpertBackward *bwd, ExpertPiece p, Rows x, const float *u,
                                  const BackwardWorkspace *ws)
{
    const Lora *lora = bwd->gate_up.lora;
    if (!lora) return;
    Rows dy = rows_of(ws->dgate_up + lora->col, 2 * bwd->pass->schedule->F);
    size_t r = lora_r(lora);
    gemm_narrow_nn(p.n, rows_of(ws->lora_du, r), lora->scale, dy, r, lora->B->rows, lora->B->data);
    expert_lora_add(&bwd->gate_up, bwd->pass->schedule, bwd->pass->group, p,
                    &(ExpertLoraFactors){.dy = dy, .x = x, .u = u, .du = ws->lora_du});
}

/* Step 1 for a piece. packed: where dg, du and LoRA's du are packed; NULL: x requires no gradient. */
static void piece_backward(ExpertBackward *bwd, ExpertPiece p, float *packed, const BackwardWorkspace *ws,
                           const Expert *next)
{
    const ExpertsPass *pass = bwd->pass;
    const ExpertSchedule *s = pass->schedule;
    const Expert *expert = bwd->expert;
    size_t F = s->F;
    GateUp rows = gate_up_of_piece(pass, p, (GateUp){ws->gate_up, ws->lora_u});
    Rows x = rows_of_piece(s, pass->x->data, p);
    down_backward(s, expert, p.n, rows_of_piece(s, pass->y->grad, p), ws, next);
    if (!pass->saved.gate_up) gate_up_forward(s, expert, p.n, x, rows, ws->packing, NULL);
    swiglu_backward(pass, p, rows.gate_up, ws);
    lora_down_backward(bwd, p, ws);
    lora_gate_up_backward(bwd, p, x, rows.lora_u, ws);
    if (!packed) return;
    GemmLora term = lora_term_A(expert->lora_gate_up, ws->lora_du);
    gemm_pack_nn(p.n, 1, rows_of(ws->dgate_up, 2 * F), expert->gate, NULL, packed);
    gemm_pack_nn(p.n, 1, rows_of(ws->dgate_up + F, 2 * F), expert->up, &term, packed + gemm_scratch(p.n, F, 0));
}

static void expert_backward(ExpertBackward *bwd, const BackwardWorkspace *ws, const Expert *next)
{
    const ExpertSchedule *s = bwd->pass->schedule;
    float *packed = bwd->pass->packed ? bwd->pass->packed[bwd->e] : NULL;
    size_t n = pieces_of(s, assignments_of(s, bwd->e));
    for (size_t i = 0; i < n; i++) {
        ExpertPiece p = expert_piece(s, bwd->e, i);
        piece_backward(bwd, p, packed, ws, i + 1 < n ? bwd->expert : next);
        if (packed) packed += expert_packed_piece(s, BACKWARD_FACTORS, p.n);
    }
    if (n) return;
    ExpertPiece none = {s->begin[bwd->e], 0}; /* no tokens: the gradients are zeros, and are written */
    expert_lora_add(&bwd->down, s, bwd->pass->group, none, &(ExpertLoraFactors){0});
    expert_lora_add(&bwd->gate_up, s, bwd->pass->group, none, &(ExpertLoraFactors){0});
}

/* Step 2: columns [begin, end) of dx += dg Wg + du Wu of one expert. next: the gate that comes next, or NULL. */
static void add_expert_backward(const ExpertsPass *pass, size_t e, size_t begin, size_t end, const Weight *next)
{
    const ExpertSchedule *s = pass->schedule;
    const Expert *expert = &s->experts[e];
    const float *packed = pass->packed[e];
    GemmLora term = lora_term_A(expert->lora_gate_up, NULL);
    for (size_t i = 0, n = pieces_of(s, assignments_of(s, e)); i < n; i++) {
        ExpertPiece p = expert_piece(s, e, i);
        Rows dx = rows_of_piece(s, pass->x->grad, p);
        gemm_nn_slice(p.n, dx, true, packed, expert->gate, NULL, begin, end, (GemmNext){expert->up, begin});
        gemm_nn_slice(p.n, dx, true, packed + gemm_scratch(p.n, s->F, 0), expert->up, &term, begin, end,
                      (GemmNext){i + 1 < n ? expert->gate : next, begin});
        packed += expert_packed_piece(s, BACKWARD_FACTORS, p.n);
    }
}

static void add_batch_backward(const ExpertsPass *pass, size_t first, size_t end, size_t col_begin, size_t col_end)
{
    const ExpertSchedule *s = pass->schedule;
    for (size_t e = expert_end_with_tokens(s, end, first), next; e > first; e = next) {
        next = expert_end_with_tokens(s, e - 1, first);
        add_expert_backward(pass, e - 1, col_begin, col_end, next > first ? s->experts[next - 1].gate : NULL);
    }
}

static void batch_backward(const ExpertsPass *pass, size_t first, size_t end)
{
    const ExpertSchedule *s = pass->schedule;
    size_t next_turn = first;
    expert_batch_order(s, first, end);
#pragma omp parallel
    {
        BackwardWorkspace ws = backward_workspace(s, my_workspace(pass));
        for (size_t turn = expert_turn_take(&next_turn), next; turn < end; turn = next) {
            next = expert_turn_take(&next_turn);
            size_t e = s->order[turn].expert, begin = s->begin[e];
            const Expert *expert = &s->experts[e];
            ExpertBackward bwd = {
                pass, expert, e, {expert->lora_gate_up, e, 0, begin}, {expert->lora_down, e, 0, begin}};
            expert_backward(&bwd, &ws, expert_of_turn(s, end, next));
        }
#pragma omp barrier
        size_t col_begin, col_end;
        columns_of_thread(s->D, (size_t)omp_get_thread_num(), (size_t)omp_get_num_threads(), &col_begin, &col_end);
        if (pass->packed && col_begin < col_end) add_batch_backward(pass, first, end, col_begin, col_end);
    }
}

static void experts_backward(Node *node)
{
    Tape *tape = node->tape;
    const ExpertsState *state = node->state;
    const ExpertSchedule *s = &state->schedule;
    const ExpertChunks *chunks = s->chunks;
    Tensor *x = node->in[0], *w = node->in[1], *y = node->out;
    size_t workspace_floats = backward_workspace_floats(s), capacity = expert_block_capacity(tape, s, BACKWARD_FACTORS);
    float *workspaces = tape_scratch(tape, tape_threads(tape) * workspace_floats),
          *block = x->requires_grad ? tape_scratch(tape, capacity) : NULL;
    float **packed = (float **)(void *)tape_scratch(tape, s->E * 2);
    ExpertsPass pass = {s, state->saved, tape->group, x, w, y, block ? packed : NULL, workspaces, workspace_floats};
    for (size_t i = chunks->n; tape_computes(tape) && i-- > 0 && expert_chunk_acquire(tape, chunks, i);) {
        for (size_t end = chunks->begin[i + 1], first; end > chunks->begin[i]; end = first) {
            first = expert_batch_begin(s, BACKWARD_FACTORS, capacity, chunks->begin[i], end);
            if (block) place_packed(s, BACKWARD_FACTORS, first, end, block, packed);
            batch_backward(&pass, first, end);
        }
        expert_chunk_release(chunks, i);
    }
}

/* ---- the operation --------------------------------------------------------------------------------------------- */

static const Op experts_op = {.name = "experts", .backward = experts_backward};

static bool trains(size_t E, const Expert *experts)
{
    for (size_t e = 0; e < E; e++)
        if (lora_trains(experts[e].lora_gate_up) || lora_trains(experts[e].lora_down)) return true;
    return false;
}

Tensor *op_experts(Tape *tape, Tensor *x, Route route, size_t E, const Expert *experts, const ExpertChunks *chunks)
{
    Tensor *y = tape_tensor(tape, x->shape[0], x->shape[1]), *in[] = {x, route.weights};
    ExpertsState *state = tape_alloc(tape, sizeof *state);
    if (!state || !expert_schedule_init(tape, &state->schedule, x, route, E, experts, chunks)) return &tape->dummy;
    const ExpertSchedule *s = &state->schedule;
    state->saved = (GateUp){0};
    if (!tape->recompute_experts && !tape->recomputing && tape_requires_grad(tape, trains(E, experts), 2, in)) {
        state->saved.gate_up = tape_floats(tape, s->N * 2 * s->F);
        state->saved.lora_u = tape_floats(tape, s->N * s->max_r);
        if (tape->err) return &tape->dummy;
    }
    if (tape_computes(tape)) memset(y->data, 0, s->T * s->D * sizeof *y->data);
    if (!tape->recomputing) experts_forward(tape, state, x, route.weights, y);
    return tape_record(tape, &experts_op, y, state, trains(E, experts), 2, in);
}
