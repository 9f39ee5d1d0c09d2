/* Causal attention over expanded heads, a tile of TILE_QUERIES x TILE_KEYS scores at a time. For each head:
 *     S = scale (qn kn' + qr kr'),   P = softmax(S) over the chosen keys,   o = P v
 *     dP = do v',   dS = P (dP - rowsum(do o)),   dq = scale dS k,   dk = scale dS' q,   dv = P' do
 * q [T][nope + rope] = [qn | qr], k [T][nope + rope] = [kn | kr], v, o [T][v]. kr is shared by all heads: its gradient
 * is the sum over heads, in their order. P is recomputed backward from S and the saved logsumexp of each row.
 *
 * Keys are the outer loop: those of a tile are packed once and used by all queries behind them, while softmax keeps a
 * running maximum of each row. Tiles begin at multiples of TILE_QUERIES and TILE_KEYS, and every sum goes over them in
 * order, so the bits of a row depend on its document alone, however documents are cut into pieces for threads
 * (attention_pieces.h).
 * On the bf16 path dq, dk and dv are products of factors rounded to bf16; all else is fp32 (docs/design.md, section 3).
 * Source: docs/glm5.md, section 5; Dao et al. 2022, section 3 (arXiv:2205.14135). */
#include "autograd/attention_pieces.h"
#include "autograd/attention_workspace.h"
#include "base/minmax.h"
#include "tensor/rows.h"

#include <math.h>
#include <omp.h>
#include <string.h>

typedef struct {
    AttentionShape shape;
    size_t kr_col;
    Keys keys;  /* the caller's; of NULL: every key is seen */
    float *lse; /* [H][T] logsumexp of each row of S */
} AttentionState;

/* What the threads of a forward or backward pass share. */
typedef struct {
    const Group *group;
    const AttentionState *state;
    const Tensor *q, *kv, *kr, *o;
    bool first_q, first_kv; /* backward: the first write to the gradients of q and of kv */
    float *dkr;             /* backward: [H][T][rope], each head's part of the gradient of kr */
    float *delta;           /* backward: [H][T] rowsum(do o) */
} AttentionPass;

/* One head of one document: rows of its inputs, results and gradients. */
typedef struct {
    const AttentionShape *shape;
    const BlockKernels *exact, *sums; /* kernels for o, S and dP; for dq, dk and dv */
    size_t n, words;
    Rows q, kn, kr, v, o;
    Rows d_o, dq, dkn, dkr, dv;
    bool first_q, first_kv; /* dq; dkn and dv: stored instead of added */
    const uint64_t *chosen;
    float *lse;
    const float *delta;
} AttentionHead;

/* ---- packing --------------------------------------------------------------------------------------------------- */

/* Pack n columns of m queries, times s, in rows: a block of TILE_ROWS rows for every BLOCK_WORDS columns. */
static void pack_rows(const AttentionHead *head, size_t m, size_t n, float s, Rows x, float *out)
{
    for (size_t j = 0; j < n; j += BLOCK_WORDS, out += TILE_ROWS * BLOCK_STRIDE)
        head->exact->gemm->pack_rows(m, size_min(BLOCK_WORDS, n - j), BLOCK_STRIDE, s, rows_right(x, j), out);
}

/* Pack n columns of keys in lanes. */
static void pack_lanes(const AttentionHead *head, size_t keys, size_t n, Rows x, float *out, size_t step)
{
    for (size_t j = 0; j < n; j += BLOCK_WORDS)
        head->exact->gemm->pack_lanes(keys, size_min(BLOCK_WORDS, n - j), 1, rows_right(x, j), out + j * LANES, step);
}

static void pack_keys(const AttentionHead *head, size_t at, size_t n, const AttentionWorkspace *ws)
{
    const AttentionShape *s = head->shape;
    size_t step = lane_step(s->nope + s->rope);
    pack_lanes(head, n, s->nope, rows_from(head->kn, at), ws->k_lanes, step);
    pack_lanes(head, n, s->rope, rows_from(head->kr, at), ws->k_lanes + s->nope * LANES, step);
}

static void pack_queries(const AttentionHead *head, size_t at, size_t m, const AttentionWorkspace *ws)
{
    const AttentionShape *s = head->shape;
    pack_rows(head, m, s->nope + s->rope, s->scale, rows_from(head->q, at), ws->q_rows);
}

/* ---- tiles ----------------------------------------------------------------------------------------------------- */

static ScoreTile tile_of(const AttentionHead *head, size_t key, size_t at, const AttentionWorkspace *ws)
{
    size_t m = size_min(TILE_QUERIES, head->n - at);
    return (ScoreTile){.m = m,
                       .n = size_min(TILE_KEYS, at + m - key),
                       .diagonal = at - key,
                       .words = head->words,
                       .chosen = head->chosen ? head->chosen + at * head->words + key / 64 : NULL,
                       .s = ws->s,
                       .ds = ws->ds,
                       .p_transposed = ws->p_transposed,
                       .ds_rows = ws->ds_rows,
                       .ds_transposed = ws->ds_transposed};
}

/* False if no query of the tile chose any of its keys. */
static bool has_keys(const ScoreTile *t)
{
    uint64_t any = !t->chosen;
    for (size_t i = 0; i < t->m && !any; i++)
        for (size_t w = 0; w < (t->n + 63) / 64; w++) any |= t->chosen[i * t->words + w];
    return any;
}

/* c [queries][keys] = rows lanes', of inner length n. */
static void times_lanes(const AttentionHead *head, const ScoreTile *t, size_t n, const float *rows, const float *lanes,
                        float *c)
{
    for (size_t j = 0; j < n; j += BLOCK_WORDS, rows += TILE_ROWS * BLOCK_STRIDE)
        head->exact->product(&(BlockProduct){.M = t->m,
                                             .N = t->n,
                                             .K = size_min(BLOCK_WORDS, n - j),
                                             .a = rows,
                                             .b = lanes + j * LANES,
                                             .step = lane_step(n),
                                             .c = c,
                                             .ldc = BLOCK_STRIDE,
                                             .add = j > 0,
                                             .trim = TRIM_SCORES,
                                             .diagonal = t->diagonal});
}

/* out [queries][columns] = the words of a tile times columns of its keys. */
static void times_keys(const BlockKernels *blocks, const ScoreTile *t, size_t columns, const float *rows,
                       const float *b, float *out)
{
    blocks->product(&(BlockProduct){.M = t->m,
                                    .N = columns,
                                    .K = t->n,
                                    .a = rows,
                                    .b = b,
                                    .step = KEY_STEP,
                                    .c = out,
                                    .ldc = row_step(columns),
                                    .trim = TRIM_QUERIES,
                                    .diagonal = t->diagonal});
}

/* sums [keys][columns] (+)= the transposed words of a tile times columns of its queries. */
static void times_queries(const AttentionHead *head, const ScoreTile *t, size_t keys, size_t columns,
                          const float *transposed, const float *b, float *sums, bool add)
{
    head->sums->product(&(BlockProduct){.M = keys,
                                        .N = columns,
                                        .K = t->m,
                                        .transposed = true,
                                        .a = transposed,
                                        .b = b,
                                        .step = QUERY_STEP,
                                        .c = sums,
                                        .ldc = row_step(columns),
                                        .add = add,
                                        .trim = TRIM_KEYS,
                                        .diagonal = t->diagonal});
}

/* ---- forward --------------------------------------------------------------------------------------------------- */

static void tile_forward(const AttentionHead *head, const ScoreTile *t, size_t at, float *max, float *sums,
                         const AttentionWorkspace *ws)
{
    size_t v = head->shape->v, step = row_step(ws->columns.v);
    pack_queries(head, at, t->m, ws);
    times_lanes(head, t, head->shape->nope + head->shape->rope, ws->q_rows, ws->k_lanes, t->s);
    head->exact->softmax(t, max, sums, ws->factor);
    times_keys(head->exact, t, ws->columns.v, t->s, ws->v_columns, ws->out);
    for (size_t i = 0; i < t->m; i++) {
        float *o = row_of(head->o, at + i);
        if (ws->factor[i] != 1) row_scale(v, o, ws->factor[i], o);
        row_add(v, o, ws->out + i * step);
    }
}

/* Queries [begin, end), at most MAX_PIECE_QUERIES; begin is a multiple of TILE_QUERIES. */
static void piece_forward(const AttentionHead *head, size_t begin, size_t end, const AttentionWorkspace *ws)
{
    size_t v = head->shape->v;
    for (size_t i = begin; i < end; i++) memset(row_of(head->o, i), 0, v * sizeof(float));
    for (size_t i = 0; i < end - begin; i++) ws->max[i] = -INFINITY;
    memset(ws->sums, 0, (end - begin) * LANES * sizeof(float));
    for (size_t key = 0; key < end; key += TILE_KEYS) {
        size_t n = size_min(TILE_KEYS, end - key);
        pack_keys(head, key, n, ws);
        head->exact->pack_columns(n, v, 1, rows_from(head->v, key), ws->v_columns, KEY_STEP);
        for (size_t at = begin > key ? begin : key; at < end; at += TILE_QUERIES) {
            ScoreTile t = tile_of(head, key, at, ws);
            if (has_keys(&t)) tile_forward(head, &t, at, ws->max + at - begin, ws->sums + (at - begin) * LANES, ws);
        }
    }
    for (size_t i = begin; i < end; i++) {
        float *o = row_of(head->o, i), sum = row_sum(LANES, ws->sums + (i - begin) * LANES);
        row_scale(v, o, 1 / sum, o);
        head->lse[i] = (float)((double)ws->max[i - begin] + log((double)sum));
    }
}

/* ---- backward -------------------------------------------------------------------------------------------------- */

static void pack_keys_backward(const AttentionHead *head, size_t at, size_t n, bool dq, const AttentionWorkspace *ws)
{
    const AttentionShape *s = head->shape;
    pack_keys(head, at, n, ws);
    pack_lanes(head, n, s->v, rows_from(head->v, at), ws->v_lanes, lane_step(s->v));
    if (!dq) return;
    head->sums->pack_columns(n, s->nope, 1, rows_from(head->kn, at), ws->k_columns, KEY_STEP);
    head->sums->pack_columns(n, s->rope, 1, rows_from(head->kr, at),
                             ws->k_columns + ws->columns.nope / LANES * KEY_STEP, KEY_STEP);
}

static void pack_queries_backward(const AttentionHead *head, size_t at, size_t m, bool dkv,
                                  const AttentionWorkspace *ws)
{
    const AttentionShape *s = head->shape;
    Rows q = rows_from(head->q, at), d_o = rows_from(head->d_o, at);
    pack_queries(head, at, m, ws);
    pack_rows(head, m, s->v, 1, d_o, ws->do_rows);
    if (!dkv) return;
    head->sums->pack_columns(m, s->v, 1, d_o, ws->do_columns, QUERY_STEP);
    head->sums->pack_columns(m, s->nope, s->scale, q, ws->q_columns, QUERY_STEP);
    head->sums->pack_columns(m, s->rope, s->scale, rows_right(q, s->nope),
                             ws->q_columns + ws->columns.nope / LANES * QUERY_STEP, QUERY_STEP);
}

/* dq of a tile's queries. */
static void add_dq(const AttentionHead *head, const ScoreTile *t, size_t at, const AttentionWorkspace *ws)
{
    const AttentionShape *s = head->shape;
    size_t step = row_step(ws->columns.key);
    times_keys(head->sums, t, ws->columns.key, t->ds_rows, ws->k_columns, ws->out);
    for (size_t i = 0; i < t->m; i++) {
        float *dq = row_of(head->dq, at + i), *from = ws->out + i * step;
        row_axpy(s->nope, dq, s->scale, from);
        row_axpy(s->rope, dq + s->nope, s->scale, from + ws->columns.nope);
    }
}

/* One tile: dS; adds dq; dk and dv of n keys go to the workspace, or, if `add`, are added to it. */
static void tile_backward(const AttentionHead *head, const AttentionPiece *piece, const ScoreTile *t, size_t at,
                          size_t n, bool add, const AttentionWorkspace *ws)
{
    const AttentionShape *s = head->shape;
    pack_queries_backward(head, at, t->m, piece->dkv, ws);
    times_lanes(head, t, s->nope + s->rope, ws->q_rows, ws->k_lanes, t->s);
    times_lanes(head, t, s->v, ws->do_rows, ws->v_lanes, t->ds);
    head->sums->softmax_backward(t, head->lse + at, head->delta + at);
    if (piece->dq) add_dq(head, t, at, ws);
    if (!piece->dkv) return;
    times_queries(head, t, n, ws->columns.key, t->ds_transposed, ws->q_columns, ws->dk, add);
    times_queries(head, t, n, ws->columns.v, t->p_transposed, ws->do_columns, ws->dv, add);
}

/* Add dk and dv of n keys to the gradients; dkr belongs to this head alone, so it is stored. any: a tile had keys. */
static void write_keys(const AttentionHead *head, size_t key, size_t n, bool any, const AttentionWorkspace *ws)
{
    const AttentionShape *s = head->shape;
    const AttentionColumns *c = &ws->columns;
    for (size_t t = 0; t < n; t++) {
        const float *dk = ws->dk + t * row_step(c->key);
        float *dkr = row_of(head->dkr, key + t);
        if (any)
            memcpy(dkr, dk + c->nope, s->rope * sizeof *dkr);
        else
            memset(dkr, 0, s->rope * sizeof *dkr);
        if (head->first_kv) memset(row_of(head->dkn, key + t), 0, (s->nope + s->v) * sizeof *dkr);
        if (!any) continue;
        row_add(s->nope, row_of(head->dkn, key + t), dk);
        row_add(s->v, row_of(head->dv, key + t), ws->dv + t * row_step(c->v));
    }
}

static void piece_backward(const AttentionHead *head, const AttentionPiece *piece, const AttentionWorkspace *ws)
{
    const AttentionShape *s = head->shape;
    for (size_t i = piece->query; i < piece->query_end && piece->dq && head->first_q; i++)
        memset(row_of(head->dq, i), 0, (s->nope + s->rope) * sizeof(float));
    for (size_t key = piece->key; key < piece->key_end; key += TILE_KEYS) {
        size_t n = size_min(TILE_KEYS, head->n - key);
        bool any = false;
        pack_keys_backward(head, key, n, piece->dq, ws);
        for (size_t at = piece->query > key ? piece->query : key; at < piece->query_end; at += TILE_QUERIES) {
            ScoreTile t = tile_of(head, key, at, ws);
            if (!has_keys(&t)) continue;
            tile_backward(head, piece, &t, at, n, any, ws);
            any = true;
        }
        if (piece->dkv) write_keys(head, key, n, any, ws);
    }
}

/* ---- the operation --------------------------------------------------------------------------------------------- */

/* The rows of document d, from column `col` on, of a tensor's values or gradients. */
static Rows document_rows(const AttentionPass *pass, const Tensor *x, const float *values, size_t d, size_t col)
{
    return rows_right(rows_from(rows_of(values, x->shape[1]), pass->group->doc_start[d]), col);
}

static AttentionHead head_of(const AttentionPass *pass, size_t d, size_t h)
{
    const AttentionState *state = pass->state;
    const AttentionShape *s = &state->shape;
    size_t begin = pass->group->doc_start[d], T = pass->group->T, kv_col = h * (s->nope + s->v);
    return (AttentionHead){.shape = s,
                           .exact = block_kernels(false),
                           .sums = block_kernels(true),
                           .n = rows_of_document(pass->group, d),
                           .words = keys_words(pass->group, d),
                           .q = document_rows(pass, pass->q, pass->q->data, d, h * (s->nope + s->rope)),
                           .kn = document_rows(pass, pass->kv, pass->kv->data, d, kv_col),
                           .v = document_rows(pass, pass->kv, pass->kv->data, d, kv_col + s->nope),
                           .kr = document_rows(pass, pass->kr, pass->kr->data, d, state->kr_col),
                           .o = document_rows(pass, pass->o, pass->o->data, d, h * s->v),
                           .chosen = state->keys.of ? state->keys.of[d] : NULL,
                           .lse = state->lse + h * T + begin};
}

static AttentionHead head_of_backward(const AttentionPass *pass, size_t d, size_t h)
{
    const AttentionShape *s = &pass->state->shape;
    size_t begin = pass->group->doc_start[d], T = pass->group->T, kv_col = h * (s->nope + s->v);
    AttentionHead head = head_of(pass, d, h);
    head.d_o = document_rows(pass, pass->o, pass->o->grad, d, h * s->v);
    head.dq = document_rows(pass, pass->q, pass->q->grad, d, h * (s->nope + s->rope));
    head.dkn = document_rows(pass, pass->kv, pass->kv->grad, d, kv_col);
    head.dv = document_rows(pass, pass->kv, pass->kv->grad, d, kv_col + s->nope);
    head.dkr = rows_of(pass->dkr + (h * T + begin) * s->rope, s->rope);
    head.delta = pass->delta + h * T + begin;
    head.first_q = pass->first_q;
    head.first_kv = pass->first_kv;
    return head;
}

/* op_attention adds nothing to the gradients of documents that attend over latents: store zeros. */
static void zero_latent_documents(const AttentionPass *pass, const Tensor *x)
{
    const Group *group = pass->group;
    size_t width = x->shape[1];
    for (size_t d = 0; d < group->n_docs; d++)
        if (attends_latents(&pass->state->shape, group, &pass->state->keys, d))
            memset(x->grad + group->doc_start[d] * width, 0, rows_of_document(group, d) * width * sizeof *x->grad);
}

/* delta = rowsum(do o), for every row and head. Called by all threads. */
static void compute_delta(const AttentionPass *pass)
{
    size_t T = pass->group->T, H = pass->state->shape.n_heads, v = pass->state->shape.v;
#pragma omp for schedule(static)
    for (size_t t = 0; t < T; t++)
        for (size_t h = 0; h < H; h++)
            pass->delta[h * T + t] = row_dot(v, pass->o->grad + (t * H + h) * v, pass->o->data + (t * H + h) * v);
}

/* The gradient of kr: the sum over heads. Called by all threads. */
static void sum_dkr(const AttentionPass *pass)
{
    const AttentionState *state = pass->state;
    const Group *group = pass->group;
    size_t T = group->T, H = state->shape.n_heads, rope = state->shape.rope, width = pass->kr->shape[1];
    for (size_t d = 0; d < group->n_docs; d++) {
        if (attends_latents(&state->shape, group, &state->keys, d)) continue;
#pragma omp for schedule(static) nowait
        for (size_t t = group->doc_start[d]; t < group->doc_start[d + 1]; t++)
            for (size_t h = 0; h < H; h++)
                row_add(rope, pass->kr->grad + t * width + state->kr_col, pass->dkr + (h * T + t) * rope);
    }
}

static AttentionPiece *pieces_new(Tape *tape, size_t T)
{
    size_t n = attention_max_pieces(T, tape->group->n_docs);
    return (AttentionPiece *)(void *)tape_scratch(tape, n * sizeof(AttentionPiece) / sizeof(float));
}

static void attention_backward(Node *node)
{
    Tape *tape = node->tape;
    Tensor *q = node->in[0], *kv = node->in[1], *kr = node->in[2];
    const AttentionState *state = node->state;
    const AttentionShape *s = &state->shape;
    AttentionWorkspace layout;
    size_t T = q->shape[0], H = s->n_heads, ws_floats = attention_workspace_layout(&layout, s, true, NULL);
    AttentionPass pass = {.group = tape->group, .state = state, .q = q, .kv = kv, .kr = kr, .o = node->out};
    pass.dkr = tape_scratch(tape, H * T * s->rope);
    pass.delta = tape_scratch(tape, H * T);
    float *workspaces = tape_scratch(tape, tape_threads(tape) * ws_floats);
    AttentionPiece *pieces = pieces_new(tape, T);
    pass.first_q = tape_first_write(q);
    pass.first_kv = tape_first_write(kv);
    for (size_t i = 0; i < 3; i++) tape_seed(tape, node->in[i]); /* pieces write all three */
    if (!tape_computes(tape)) return;
    if (pass.first_q) zero_latent_documents(&pass, q);
    if (pass.first_kv) zero_latent_documents(&pass, kv);
    size_t n = attention_cut_backward(tape->group, s, &state->keys, pieces);
#pragma omp parallel
    {
        AttentionWorkspace ws;
        attention_workspace_layout(&ws, s, true, workspaces + (size_t)omp_get_thread_num() * ws_floats);
        compute_delta(&pass);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < n * H; i++) {
            AttentionHead head = head_of_backward(&pass, pieces[i / H].d, i % H);
            piece_backward(&head, &pieces[i / H], &ws);
        }
        sum_dkr(&pass);
    }
}

static const Op attention = {.name = "attention", .backward = attention_backward, .overwrites_grad = 3};

Tensor *op_attention(Tape *tape, const AttentionShape *shape, Tensor *q, Tensor *kv, Tensor *kr, size_t kr_col,
                     const Keys *keys)
{
    const Group *group = tape->group;
    AttentionWorkspace layout;
    size_t T = q->shape[0], H = shape->n_heads, ws_floats = attention_workspace_layout(&layout, shape, false, NULL);
    Tensor *o = tape_tensor(tape, T, H * shape->v);
    AttentionState *state = tape_alloc(tape, sizeof *state);
    float *lse = tape_floats(tape, H * T), *workspaces = tape_scratch(tape, tape_threads(tape) * ws_floats);
    AttentionPiece *pieces = pieces_new(tape, T);
    if (!tape_expect(tape,
                     q->shape[1] == H * (shape->nope + shape->rope) && kv->shape[1] == H * (shape->nope + shape->v) &&
                         kr_col + shape->rope <= kr->shape[1] && T == group->T && kv->shape[0] == T &&
                         kr->shape[0] == T,
                     "attention: q is [%zu][%zu], kv [%zu][%zu], kr [%zu][%zu], %zu tokens", T, q->shape[1],
                     kv->shape[0], kv->shape[1], kr->shape[0], kr->shape[1], group->T))
        return &tape->dummy;
    *state = (AttentionState){*shape, kr_col, keys ? *keys : (Keys){0}, lse};
    AttentionPass pass = {.group = group, .state = state, .q = q, .kv = kv, .kr = kr, .o = o};
    size_t n = tape_computes(tape) ? attention_cut_forward(group, shape, &state->keys, pieces) : 0;
#pragma omp parallel
    {
        AttentionWorkspace ws;
        attention_workspace_layout(&ws, shape, false, workspaces + (size_t)omp_get_thread_num() * ws_floats);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < n * H; i++) {
            AttentionHead head = head_of(&pass, pieces[i / H].d, i % H);
            piece_forward(&head, pieces[i / H].query, pieces[i / H].query_end, &ws);
        }
    }
    return tape_record(tape, &attention, o, state, false, 3, (Tensor *[]){q, kv, kr});
}
