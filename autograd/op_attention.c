/* Causal attention of latent attention's expanded heads, a tile of QUERIES x KEYS at a time:
 *     S = scale (qn kn' + qr kr'),  P = softmax(S) over the chosen keys,  o = P v
 *     dP = do v',  dS = P (dP - rowsum(do o)),  dq = scale dS k,  dk = scale dS' q,  dv = P' do
 * kr is shared by all heads: its gradient is added over heads in their order.
 *
 * Keys go outermost: those of a tile are packed once and meet all queries behind them, while softmax keeps a running
 * maximum of each row. Tiles lie at multiples of QUERIES and KEYS and every sum goes over them in order, so a row's bits
 * depend on its document alone, however documents are cut into pieces for threads. A piece is some queries and keys of a
 * document, of one head: on the way up all keys; on the way down all of both, unless one document would keep threads
 * waiting: then dk and dv by keys, dq by queries, which computes S and dP twice.
 * On the bf16 path dq, dk and dv are products of factors rounded to bf16; all else is fp32 (docs/design.md, section 3).
 * Source: docs/glm5.md; Dao et al. 2022 (arXiv:2205.14135). */
#include "autograd/op.h"
#include "tensor/block.h"
#include "tensor/rows.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { QUERIES = 96, KEYS = 192, LINES = QUERIES + BLOCK_BAND, MOST_QUERIES = 8 * QUERIES };

typedef struct {
    AttentionShape shape;
    size_t kr_col;
    Keys keys;  /* of NULL: every key is seen; the caller's */
    float *lse; /* [H][T] */
} AttentionState;

/* One head of one document: its rows, and those of what is computed. */
typedef struct {
    const AttentionShape *shape;
    const BlockKernels *exact, *sums; /* for o, S and dP; for dq, dk and dv */
    size_t n, words;
    Rows q, kn, kr, v, o;
    Rows d_o, dq, dkn, dkr, dv;
    bool first_q, first_kv; /* dq; dkn and dv: written, not added to */
    const uint64_t *chosen;
    float *lse;
    const float *delta;
} Head;

/* ---- a thread's room ------------------------------------------------------------------------------------------- */

/* Columns of a key's parts and of a value, in whole groups. */
typedef struct {
    size_t nope, key, v;
} Columns;

static Columns columns_of(const AttentionShape *s)
{
    size_t nope = round_up(s->nope, LANES);
    return (Columns){nope, nope + round_up(s->rope, LANES), round_up(s->v, LANES)};
}

/* Groups of columns, and rows of results, so many floats apart: never a power of two. */
enum { QUERY_STEP = QUERIES * LANES + LANES, KEY_STEP = KEYS * LANES + LANES };
static size_t lane_step(size_t n) { return n * LANES + LANES; }
static size_t row_step(size_t columns) { return columns + LANES; }
static size_t blocks_of(size_t n) { return (n + BLOCK_WORDS - 1) / BLOCK_WORDS; }

typedef struct {
    Columns columns;
    float *k_lanes, *v_lanes, *k_columns, *v_columns;       /* of KEYS keys */
    float *q_lines, *do_lines, *q_columns, *do_columns;     /* of QUERIES queries */
    float *s, *ds, *p_transposed, *ds_rows, *ds_transposed; /* a tile of scores: block.h */
    float *out, *dk, *dv;                                   /* products, before they are added to what they belong to */
    float *max, *sums, *factor;                             /* of softmax, MOST_QUERIES rows */
} Room;

typedef enum { UP, DOWN } Way;

/* Lay out a room from `base` on, NULL to know its size only; returns how many floats it takes. */
static size_t room_lay(Room *room, const AttentionShape *shape, Way way, float *base)
{
    Columns c = columns_of(shape);
    size_t key = shape->nope + shape->rope, v = shape->v, tile = LINES * BLOCK_STRIDE, used = 0;
    bool loras = block_kernels(true) != block_kernels(false);
    const struct {
        float **at;
        size_t up, down;
    } parts[] = {
        {&room->q_lines, blocks_of(key) * tile, blocks_of(key) * tile},
        {&room->k_lanes, KEYS / LANES * lane_step(key), KEYS / LANES * lane_step(key)},
        {&room->s, tile, tile},
        {&room->out, LINES * row_step(c.v), LINES * row_step(c.key)},
        {&room->v_columns, c.v / LANES * KEY_STEP, 0},
        {&room->max, MOST_QUERIES, 0},
        {&room->sums, MOST_QUERIES * LANES, 0},
        {&room->factor, QUERIES, 0},
        {&room->v_lanes, 0, KEYS / LANES * lane_step(v)},
        {&room->do_lines, 0, blocks_of(v) * tile},
        {&room->k_columns, 0, c.key / LANES * KEY_STEP},
        {&room->q_columns, 0, c.key / LANES * QUERY_STEP},
        {&room->do_columns, 0, c.v / LANES * QUERY_STEP},
        {&room->ds, 0, tile},
        {&room->p_transposed, 0, loras ? tile : 0},
        {&room->ds_rows, 0, loras ? tile : 0},
        {&room->ds_transposed, 0, loras ? tile : 0},
        {&room->dk, 0, (KEYS + BLOCK_BAND) * row_step(c.key)},
        {&room->dv, 0, (KEYS + BLOCK_BAND) * row_step(c.v)},
    };
    room->columns = c;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].at = base ? base + used : NULL;
        used += round_up(way == UP ? parts[i].up : parts[i].down, LANES);
    }
    if (!loras) room->p_transposed = room->s, room->ds_rows = room->ds_transposed = room->ds;
    return used;
}

/* ---- packing --------------------------------------------------------------------------------------------------- */

/* n columns of m queries to lines; every BLOCK_WORDS columns begin anew, LINES rows further. */
static void pack_lines(const Head *head, size_t m, size_t n, float s, Rows x, float *out)
{
    for (size_t j = 0; j < n; j += BLOCK_WORDS, out += LINES * BLOCK_STRIDE)
        head->exact->gemm->pack_rows(m, size_min(BLOCK_WORDS, n - j), BLOCK_STRIDE, s, rows_right(x, j), out);
}

/* n columns of so many keys to lanes. */
static void pack_lanes(const Head *head, size_t keys, size_t n, Rows x, float *out, size_t step)
{
    for (size_t j = 0; j < n; j += BLOCK_WORDS)
        head->exact->gemm->pack_lanes(keys, size_min(BLOCK_WORDS, n - j), 1, rows_right(x, j), out + j * LANES, step);
}

static void pack_keys(const Head *head, size_t at, size_t n, const Room *room)
{
    const AttentionShape *s = head->shape;
    size_t step = lane_step(s->nope + s->rope);
    pack_lanes(head, n, s->nope, rows_from(head->kn, at), room->k_lanes, step);
    pack_lanes(head, n, s->rope, rows_from(head->kr, at), room->k_lanes + s->nope * LANES, step);
}

static void pack_queries(const Head *head, size_t at, size_t m, const Room *room)
{
    const AttentionShape *s = head->shape;
    pack_lines(head, m, s->nope + s->rope, s->scale, rows_from(head->q, at), room->q_lines);
}

/* ---- tiles ----------------------------------------------------------------------------------------------------- */

static ScoreTile tile_of(const Head *head, size_t key, size_t at, const Room *room)
{
    size_t m = size_min(QUERIES, head->n - at);
    return (ScoreTile){.m = m,
                       .n = size_min(KEYS, at + m - key),
                       .diagonal = at - key,
                       .words = head->words,
                       .chosen = head->chosen ? head->chosen + at * head->words + key / 64 : NULL,
                       .s = room->s,
                       .ds = room->ds,
                       .p_transposed = room->p_transposed,
                       .ds_rows = room->ds_rows,
                       .ds_transposed = room->ds_transposed};
}

/* False when no query of the tile chose a key of it. */
static bool has_keys(const ScoreTile *t)
{
    uint64_t any = !t->chosen;
    for (size_t i = 0; i < t->m && !any; i++)
        for (size_t w = 0; w < (t->n + 63) / 64; w++) any |= t->chosen[i * t->words + w];
    return any;
}

/* c [queries][keys] = lines lanes', of inner length n. */
static void times_lanes(const Head *head, const ScoreTile *t, size_t n, const float *lines, const float *lanes,
                        float *c)
{
    for (size_t j = 0; j < n; j += BLOCK_WORDS, lines += LINES * BLOCK_STRIDE)
        head->exact->product(&(BlockProduct){.M = t->m,
                                             .N = t->n,
                                             .K = size_min(BLOCK_WORDS, n - j),
                                             .a = lines,
                                             .b = lanes + j * LANES,
                                             .step = lane_step(n),
                                             .c = c,
                                             .ldc = BLOCK_STRIDE,
                                             .add = j > 0,
                                             .trim = TRIM_SCORES,
                                             .diagonal = t->diagonal});
}

/* out [queries][columns] = words of a tile times columns of its keys. */
static void times_keys(const BlockKernels *blocks, const ScoreTile *t, size_t columns, const float *lines,
                       const float *b, float *out)
{
    blocks->product(&(BlockProduct){.M = t->m,
                                    .N = columns,
                                    .K = t->n,
                                    .a = lines,
                                    .b = b,
                                    .step = KEY_STEP,
                                    .c = out,
                                    .ldc = row_step(columns),
                                    .trim = TRIM_QUERIES,
                                    .diagonal = t->diagonal});
}

/* sums [keys][columns] (+)= words of a tile, turned, times columns of its queries. */
static void times_queries(const Head *head, const ScoreTile *t, size_t keys, size_t columns, const float *turned,
                          const float *b, float *sums, bool add)
{
    head->sums->product(&(BlockProduct){.M = keys,
                                        .N = columns,
                                        .K = t->m,
                                        .transposed = true,
                                        .a = turned,
                                        .b = b,
                                        .step = QUERY_STEP,
                                        .c = sums,
                                        .ldc = row_step(columns),
                                        .add = add,
                                        .trim = TRIM_KEYS,
                                        .diagonal = t->diagonal});
}

/* ---- up -------------------------------------------------------------------------------------------------------- */

static void tile_forward(const Head *head, const ScoreTile *t, size_t at, float *max, float *sums, const Room *room)
{
    size_t v = head->shape->v, step = row_step(room->columns.v);
    pack_queries(head, at, t->m, room);
    times_lanes(head, t, head->shape->nope + head->shape->rope, room->q_lines, room->k_lanes, t->s);
    head->exact->softmax(t, max, sums, room->factor);
    times_keys(head->exact, t, room->columns.v, t->s, room->v_columns, room->out);
    for (size_t i = 0; i < t->m; i++) {
        float *o = row_of(head->o, at + i);
        if (room->factor[i] != 1) row_scale(v, o, room->factor[i], o);
        row_add(v, o, room->out + i * step);
    }
}

/* Queries [begin, end), at most MOST_QUERIES; begin is a multiple of QUERIES. */
static void piece_forward(const Head *head, size_t begin, size_t end, const Room *room)
{
    size_t v = head->shape->v;
    for (size_t i = begin; i < end; i++) memset(row_of(head->o, i), 0, v * sizeof(float));
    for (size_t i = 0; i < end - begin; i++) room->max[i] = -INFINITY;
    memset(room->sums, 0, (end - begin) * LANES * sizeof(float));
    for (size_t key = 0; key < end; key += KEYS) {
        size_t n = size_min(KEYS, end - key);
        pack_keys(head, key, n, room);
        head->exact->pack_columns(n, v, 1, rows_from(head->v, key), room->v_columns, KEY_STEP);
        for (size_t at = begin > key ? begin : key; at < end; at += QUERIES) {
            ScoreTile t = tile_of(head, key, at, room);
            if (has_keys(&t))
                tile_forward(head, &t, at, room->max + at - begin, room->sums + (at - begin) * LANES, room);
        }
    }
    for (size_t i = begin; i < end; i++) {
        float *o = row_of(head->o, i), sum = row_sum(LANES, room->sums + (i - begin) * LANES);
        row_scale(v, o, 1 / sum, o);
        head->lse[i] = (float)((double)room->max[i - begin] + log((double)sum));
    }
}

/* ---- down ------------------------------------------------------------------------------------------------------ */

/* A piece of the way down: its keys, its queries, and which gradients it computes. */
typedef struct {
    size_t d, key, key_end, query, query_end;
    bool dq, dkv;
    double cost;
} Piece;

static void pack_keys_backward(const Head *head, size_t at, size_t n, bool dq, const Room *room)
{
    const AttentionShape *s = head->shape;
    pack_keys(head, at, n, room);
    pack_lanes(head, n, s->v, rows_from(head->v, at), room->v_lanes, lane_step(s->v));
    if (!dq) return;
    head->sums->pack_columns(n, s->nope, 1, rows_from(head->kn, at), room->k_columns, KEY_STEP);
    head->sums->pack_columns(n, s->rope, 1, rows_from(head->kr, at),
                             room->k_columns + room->columns.nope / LANES * KEY_STEP, KEY_STEP);
}

static void pack_queries_backward(const Head *head, size_t at, size_t m, bool dkv, const Room *room)
{
    const AttentionShape *s = head->shape;
    Rows q = rows_from(head->q, at), d_o = rows_from(head->d_o, at);
    pack_queries(head, at, m, room);
    pack_lines(head, m, s->v, 1, d_o, room->do_lines);
    if (!dkv) return;
    head->sums->pack_columns(m, s->v, 1, d_o, room->do_columns, QUERY_STEP);
    head->sums->pack_columns(m, s->nope, s->scale, q, room->q_columns, QUERY_STEP);
    head->sums->pack_columns(m, s->rope, s->scale, rows_right(q, s->nope),
                             room->q_columns + room->columns.nope / LANES * QUERY_STEP, QUERY_STEP);
}

/* dq of a tile's queries. */
static void add_dq(const Head *head, const ScoreTile *t, size_t at, const Room *room)
{
    const AttentionShape *s = head->shape;
    size_t step = row_step(room->columns.key);
    times_keys(head->sums, t, room->columns.key, t->ds_rows, room->k_columns, room->out);
    for (size_t i = 0; i < t->m; i++) {
        float *dq = row_of(head->dq, at + i), *from = room->out + i * step;
        row_axpy(s->nope, dq, s->scale, from);
        row_axpy(s->rope, dq + s->nope, s->scale, from + room->columns.nope);
    }
}

/* One tile: dS; dq is added, dk and dv of n keys go to the room, to what is there when `add`. */
static void tile_backward(const Head *head, const Piece *piece, const ScoreTile *t, size_t at, size_t n, bool add,
                          const Room *room)
{
    const AttentionShape *s = head->shape;
    pack_queries_backward(head, at, t->m, piece->dkv, room);
    times_lanes(head, t, s->nope + s->rope, room->q_lines, room->k_lanes, t->s);
    times_lanes(head, t, s->v, room->do_lines, room->v_lanes, t->ds);
    head->sums->softmax_backward(t, head->lse + at, head->delta + at);
    if (piece->dq) add_dq(head, t, at, room);
    if (!piece->dkv) return;
    times_queries(head, t, n, room->columns.key, t->ds_transposed, room->q_columns, room->dk, add);
    times_queries(head, t, n, room->columns.v, t->p_transposed, room->do_columns, room->dv, add);
}

/* dk and dv of n keys to where they belong; dkr is this head's own and has nothing in it yet. */
static void write_keys(const Head *head, size_t key, size_t n, bool any, const Room *room)
{
    const AttentionShape *s = head->shape;
    const Columns *c = &room->columns;
    for (size_t t = 0; t < n; t++) {
        const float *dk = room->dk + t * row_step(c->key);
        float *dkr = row_of(head->dkr, key + t);
        if (any)
            memcpy(dkr, dk + c->nope, s->rope * sizeof *dkr);
        else
            memset(dkr, 0, s->rope * sizeof *dkr);
        if (head->first_kv) memset(row_of(head->dkn, key + t), 0, (s->nope + s->v) * sizeof *dkr);
        if (!any) continue;
        row_add(s->nope, row_of(head->dkn, key + t), dk);
        row_add(s->v, row_of(head->dv, key + t), room->dv + t * row_step(c->v));
    }
}

static void piece_backward(const Head *head, const Piece *piece, const Room *room)
{
    const AttentionShape *s = head->shape;
    for (size_t i = piece->query; i < piece->query_end && piece->dq && head->first_q; i++)
        memset(row_of(head->dq, i), 0, (s->nope + s->rope) * sizeof(float));
    for (size_t key = piece->key; key < piece->key_end; key += KEYS) {
        size_t n = size_min(KEYS, head->n - key);
        bool any = false;
        pack_keys_backward(head, key, n, piece->dq, room);
        for (size_t at = piece->query > key ? piece->query : key; at < piece->query_end; at += QUERIES) {
            ScoreTile t = tile_of(head, key, at, room);
            if (!has_keys(&t)) continue;
            tile_backward(head, piece, &t, at, n, any, room);
            any = true;
        }
        if (piece->dkv) write_keys(head, key, n, any, room);
    }
}

/* ---- pieces ---------------------------------------------------------------------------------------------------- */

static int by_cost(const void *a, const void *b)
{
    const Piece *x = a, *y = b;
    return (x->cost < y->cost) - (x->cost > y->cost);
}

static size_t rows_of_document(const Group *group, size_t d) { return group->doc_start[d + 1] - group->doc_start[d]; }

/* Rows of a piece: so few that every thread gets several, whole tiles of keys. */
static size_t piece_rows(size_t T, size_t H)
{
    size_t rows = round_up(T * H / (4 * (size_t)omp_get_max_threads()) + 1, KEYS);
    return size_min(rows, MOST_QUERIES);
}

/* Room for every piece of cut_*. */
static size_t most_pieces(size_t T, size_t n_docs) { return 2 * (T / KEYS + n_docs); }

/* Queries of every document in pieces, all their keys. Documents that attend to latents have none. */
static size_t cut_queries(const Group *group, const AttentionState *state, size_t rows, Piece *pieces, size_t n,
                          bool dq)
{
    for (size_t d = 0; d < group->n_docs; d++)
        for (size_t at = attends_latents(&state->shape, group, &state->keys, d) ? SIZE_MAX : 0,
                    all = rows_of_document(group, d);
             at < all; at += rows) {
            size_t end = size_min(at + rows, all);
            pieces[n++] = (Piece){.d = d,
                                  .key_end = end,
                                  .query = at,
                                  .query_end = end,
                                  .dq = dq,
                                  .cost = (double)(end - at) * (double)(end + at)};
        }
    return n;
}

static size_t cut_keys(const Group *group, const AttentionState *state, size_t rows, Piece *pieces, size_t n)
{
    for (size_t d = 0; d < group->n_docs; d++)
        for (size_t at = attends_latents(&state->shape, group, &state->keys, d) ? SIZE_MAX : 0,
                    all = rows_of_document(group, d);
             at < all; at += rows) {
            size_t end = size_min(at + rows, all);
            pieces[n++] = (Piece){.d = d,
                                  .key = at,
                                  .key_end = end,
                                  .query_end = all,
                                  .dkv = true,
                                  .cost = (double)(end - at) * (double)(2 * all - end - at)};
        }
    return n;
}

/* Whole documents, unless the longest is more than a thread's share. */
static size_t cut_backward(const Group *group, const AttentionState *state, Piece *pieces)
{
    size_t n = cut_queries(group, state, group->T, pieces, 0, true), H = state->shape.n_heads;
    double sum = 0, most = 0;
    for (size_t i = 0; i < n; i++) {
        pieces[i].dkv = true;
        sum += pieces[i].cost * (double)H;
        if (pieces[i].cost > most) most = pieces[i].cost;
    }
    if (most * (double)omp_get_max_threads() <= sum) return n;
    size_t rows = piece_rows(group->T, H);
    return cut_keys(group, state, rows, pieces, cut_queries(group, state, rows, pieces, 0, true));
}

/* ---- the operation --------------------------------------------------------------------------------------------- */

static Head head_of(const Tape *tape, const AttentionState *state, Tensor *q, Tensor *kv, Tensor *kr, Tensor *o,
                    size_t d, size_t h)
{
    const AttentionShape *s = &state->shape;
    const Group *group = tape->group;
    size_t begin = group->doc_start[d], T = q->shape[0], q_col = h * (s->nope + s->rope), kv_col = h * (s->nope + s->v);
    Rows kvs = rows_right(rows_from(rows_of(kv->data, kv->shape[1]), begin), kv_col);
    return (Head){.shape = s,
                  .exact = block_kernels(false),
                  .sums = block_kernels(true),
                  .n = rows_of_document(group, d),
                  .words = keys_words(group, d),
                  .q = rows_right(rows_from(rows_of(q->data, q->shape[1]), begin), q_col),
                  .kn = kvs,
                  .v = rows_right(kvs, s->nope),
                  .kr = rows_right(rows_from(rows_of(kr->data, kr->shape[1]), begin), state->kr_col),
                  .o = rows_right(rows_from(rows_of(o->data, o->shape[1]), begin), h * s->v),
                  .chosen = state->keys.of ? state->keys.of[d] : NULL,
                  .lse = state->lse + h * T + begin};
}

/* The same rows of another array of that shape. */
static Rows like(Rows rows, const float *data, const float *other)
{
    return rows_of(other + (rows.data - data), rows.stride);
}

/* Rows of documents that attend to latents get nothing here. */
static void zero_others(const Group *group, const AttentionState *state, float *grad, size_t width)
{
    for (size_t d = 0; d < group->n_docs; d++)
        if (attends_latents(&state->shape, group, &state->keys, d))
            memset(grad + group->doc_start[d] * width, 0, rows_of_document(group, d) * width * sizeof *grad);
}

static void attention_backward(Node *node)
{
    Tape *tape = node->tape;
    const Group *group = tape->group;
    Tensor *q = node->in[0], *kv = node->in[1], *kr = node->in[2], *o = node->out;
    const AttentionState *state = node->state;
    const AttentionShape *s = &state->shape;
    Room layout;
    size_t T = q->shape[0], H = s->n_heads, each = room_lay(&layout, s, DOWN, NULL);
    float *dkr = tape_scratch(tape, H * T * s->rope), *delta = tape_scratch(tape, H * T);
    float *scratch = tape_scratch(tape, tape_threads(tape) * each);
    Piece *pieces = (Piece *)(void *)tape_scratch(tape, most_pieces(T, group->n_docs) * sizeof *pieces / sizeof(float));
    bool first_q = tape_first_write(q), first_kv = tape_first_write(kv);
    float *dq = tape_seed(tape, q), *dkv = tape_seed(tape, kv), *dkr_sum = tape_seed(tape, kr);
    if (!tape_computes(tape)) return;
    if (first_q) zero_others(group, state, dq, q->shape[1]);
    if (first_kv) zero_others(group, state, dkv, kv->shape[1]);
    size_t n = cut_backward(group, state, pieces);
    qsort(pieces, n, sizeof *pieces, by_cost);
#pragma omp parallel
    {
        Room room;
        room_lay(&room, s, DOWN, scratch + (size_t)omp_get_thread_num() * each);
#pragma omp for schedule(static)
        for (size_t t = 0; t < T; t++)
            for (size_t h = 0; h < H; h++)
                delta[h * T + t] = row_dot(s->v, o->grad + (t * H + h) * s->v, o->data + (t * H + h) * s->v);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < n * H; i++) {
            const Piece *piece = &pieces[i / H];
            size_t h = i % H, begin = group->doc_start[piece->d];
            Head head = head_of(tape, state, q, kv, kr, o, piece->d, h);
            head.delta = delta + h * T + begin;
            head.d_o = like(head.o, o->data, o->grad);
            head.dq = like(head.q, q->data, dq);
            head.dkn = like(head.kn, kv->data, dkv);
            head.dv = like(head.v, kv->data, dkv);
            head.first_q = first_q;
            head.first_kv = first_kv;
            head.dkr = rows_of(dkr + (h * T + begin) * s->rope, s->rope);
            piece_backward(&head, piece, &room);
        }
        for (size_t d = 0; d < group->n_docs; d++) {
            if (attends_latents(s, group, &state->keys, d)) continue;
#pragma omp for schedule(static) nowait
            for (size_t t = group->doc_start[d]; t < group->doc_start[d + 1]; t++)
                for (size_t h = 0; h < H; h++)
                    row_add(s->rope, dkr_sum + t * kr->shape[1] + state->kr_col, dkr + (h * T + t) * s->rope);
        }
    }
}

static const Op attention = {.name = "attention", .backward = attention_backward, .overwrites_grad = 3};

Tensor *op_attention(Tape *tape, const AttentionShape *shape, Tensor *q, Tensor *kv, Tensor *kr, size_t kr_col,
                     const Keys *keys)
{
    const Group *group = tape->group;
    Room layout;
    size_t T = q->shape[0], H = shape->n_heads, each = room_lay(&layout, shape, UP, NULL);
    Tensor *o = tape_tensor(tape, T, H * shape->v);
    AttentionState *state = tape_alloc(tape, sizeof *state);
    float *lse = tape_floats(tape, H * T), *scratch = tape_scratch(tape, tape_threads(tape) * each);
    Piece *pieces = (Piece *)(void *)tape_scratch(tape, most_pieces(T, group->n_docs) * sizeof *pieces / sizeof(float));
    if (!tape_expect(tape,
                     q->shape[1] == H * (shape->nope + shape->rope) && kv->shape[1] == H * (shape->nope + shape->v) &&
                         kr_col + shape->rope <= kr->shape[1] && T == group->T && kv->shape[0] == T &&
                         kr->shape[0] == T,
                     "attention: q is [%zu][%zu], kv [%zu][%zu], kr [%zu][%zu], %zu tokens", T, q->shape[1],
                     kv->shape[0], kv->shape[1], kr->shape[0], kr->shape[1], group->T))
        return &tape->dummy;
    *state = (AttentionState){*shape, kr_col, keys ? *keys : (Keys){0}, lse};
    size_t n = tape_computes(tape) ? cut_queries(group, state, piece_rows(T, H), pieces, 0, false) : 0;
    qsort(pieces, n, sizeof *pieces, by_cost);
#pragma omp parallel
    {
        Room room;
        room_lay(&room, shape, UP, scratch + (size_t)omp_get_thread_num() * each);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < n * H; i++) {
            Head head = head_of(tape, state, q, kv, kr, o, pieces[i / H].d, i % H);
            piece_forward(&head, pieces[i / H].query, pieces[i / H].query_end, &room);
        }
    }
    return tape_record(tape, &attention, o, state, false, 3, (Tensor *[]){q, kv, kr});
}
