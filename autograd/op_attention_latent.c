/* Attention over chosen keys without expanding them: what all heads share, the latents, is a key (and a value) by itself
 * once Wk is moved to the query and Wv behind the sum. With u = drop(c) A' of the pair on kv_up:
 *
 *     key[t] = [c | u | kr],   value[t] = [c | u],   q_h = scale [qn Wk | s qn Bk | qr]
 *     P = softmax(q key'),   z = P value = [zc | zu],   o = zc Wv' + s zu Bv'
 *
 *     dz = [do Wv | s do Bv],   dP = dz value',   dS = P (dP - rowsum(do o)),   dq_h = scale dS key
 *     dqn = dq_c Wk' + s dq_u Bk',   dBk = s qn' dq_u,   dBv = s do' zu,   dkey = dS' q_h + P' dz over heads and queries
 *
 * A document goes in blocks of queries, each in passes on all threads: heads (products with Wk, Wv, B), queries (the sums
 * over their own keys), and on the way back runs of keys: each key adds what its queries send, in their order. So nothing
 * depends on the block or the threads.
 * Source: DeepSeek-V2 report, section 2.1.2 (arXiv:2405.04434); docs/glm5.md, section 5. */
#include "autograd/lora.h"
#include "tensor/latent.h"
#include "tensor/rows.h"

#include <omp.h>
#include <string.h>

enum { QUERIES = 256, BLOCK_BYTES = 32 << 20, RUNS_PER_THREAD = 2 };

typedef struct {
    AttentionShape shape;
    LatentInputs in;
    Keys keys;
    float *lse; /* [T][H] */
    float *zu;  /* [T][H][r]; NULL: no pair */
} LatentState;

/* One document, and where a block of its queries does its work. Columns of a key: c, u, kr, each part even. */
typedef struct {
    const AttentionShape *shape;
    const LatentInputs *in;
    size_t R, r, u_col, kr_col;
    LatentKeys exact, keys;       /* fp32, and of the path: sums on the way back only */
    size_t first, n, words, most; /* rows of the document; the most keys of a query */
    const uint64_t *chosen;
    size_t m;              /* queries in a block */
    size_t q_wide, z_wide; /* floats of a row of q_h and z: [query][head][..] */
    float *q, *z, *dq;     /* dz is z */
    float *dkey;           /* [n][q_wide] */
    uint32_t *ids;         /* [query][most] */
    size_t *n_ids;         /* [query] */
    float *state;          /* [query][kept_step] */
    size_t kept_step;
    float *scratch; /* [thread][scratch_step] */
    size_t scratch_step;
} Work;

static size_t even(size_t n) { return n + n % 2; }
static size_t whole_lanes(size_t n) { return (n + LANES - 1) / LANES * LANES; }

/* ---- keys ---------------------------------------------------------------------------------------------------- */

static void list_keys(Work *w, size_t at, size_t i)
{
    const uint64_t *bits = w->chosen + (at + i) * w->words;
    uint32_t *ids = w->ids + i * w->most;
    size_t n = 0, seen = at + i + 1;
    for (size_t word = 0; word * 64 < seen; word++)
        for (uint64_t left = bits[word]; left; left &= left - 1)
            ids[n++] = (uint32_t)(word * 64 + (size_t)__builtin_ctzll(left));
    w->n_ids[i] = n;
}

static size_t most_keys(const uint64_t *chosen, size_t n, size_t words)
{
    size_t most = 1;
    for (size_t i = 0; i < n; i++) {
        size_t count = 0;
        for (size_t word = 0; word < words; word++) count += (size_t)__builtin_popcountll(chosen[i * words + word]);
        if (count > most) most = count;
    }
    return most;
}

static void pack_keys(const Work *w, const LatentKeys *keys)
{
    const LatentInputs *in = w->in;
    size_t n_runs = (w->n + QUERIES - 1) / QUERIES, kr_wide = in->kr->shape[1];
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n_runs; i++) {
        size_t at = i * QUERIES, n = size_min(QUERIES, w->n - at), row = w->first + at;
        latent_pack(keys, at, n, 0, w->R, rows_of(in->latent->data + row * w->R, w->R));
        if (w->r) latent_pack(keys, at, n, w->u_col, w->r, rows_of(in->u->data + row * w->r, w->r));
        latent_pack(keys, at, n, w->kr_col, w->shape->rope,
                    rows_of(in->kr->data + row * kr_wide + in->kr_col, kr_wide));
    }
}

/* ---- a block's memory ------------------------------------------------------------------------------------------ */

/* Scratch of one document. The block is as large as BLOCK_BYTES allow; no bit depends on it. */
static bool work_open(Work *w, Tape *tape, const LatentState *state, size_t d, bool back)
{
    const LatentInputs *in = &state->in;
    const AttentionShape *s = &state->shape;
    const Group *group = tape->group;
    size_t R = in->kv_up->cols, r = in->lora ? in->lora->B->cols : 0, H = s->n_heads, n_threads = tape_threads(tape);
    *w = (Work){.shape = s,
                .in = in,
                .R = R,
                .r = r,
                .u_col = even(R),
                .kr_col = even(R) + even(r),
                .first = group->doc_start[d],
                .n = group->doc_start[d + 1] - group->doc_start[d],
                .words = keys_words(group, d),
                .chosen = state->keys.of[d]};
    w->exact = w->keys =
        (LatentKeys){.kernels = latent_kernels(false), .n_heads = H, .K = w->kr_col + even(s->rope), .C = w->kr_col};
    if (back) w->keys.kernels = latent_kernels(true);
    w->exact.stride = latent_stride(&w->exact);
    w->keys.stride = latent_stride(&w->keys);
    w->most = state->keys.max_keys ? size_min(w->n, state->keys.max_keys) : most_keys(w->chosen, w->n, w->words);
    w->q_wide = whole_lanes(w->keys.K);
    w->z_wide = whole_lanes(w->keys.C);
    w->kept_step = back ? latent_kept(&w->keys, w->most) : 0;
    size_t each = (H * (w->q_wide * (back ? 2 : 1) + w->z_wide) + w->kept_step + w->most) * sizeof(float);
    w->m = size_min(size_min(w->n, QUERIES), BLOCK_BYTES / each + 1);
    size_t widest = size_max(s->nope, s->v), copy = whole_lanes(widest * R);
    size_t product = copy + gemm_scratch(w->m, size_max(widest, w->q_wide), w->r),
           attend = size_max(latent_scratch(&w->exact, w->most), latent_scratch(&w->keys, w->most));
    w->scratch_step = whole_lanes(size_max(size_max(product, attend), widest * r));
    w->exact.keys = tape_scratch(tape, w->n * w->exact.stride + LANES);
    w->keys.keys = w->keys.kernels == w->exact.kernels ? w->exact.keys
                                                       : tape_scratch(tape, w->n * w->keys.stride + LANES);
    w->q = tape_scratch(tape, w->m * H * w->q_wide);
    w->z = tape_scratch(tape, w->m * H * w->z_wide);
    w->dq = tape_scratch(tape, back ? w->m * H * w->q_wide : 1);
    w->dkey = tape_scratch(tape, back ? w->n * w->q_wide : 1);
    w->ids = (uint32_t *)(void *)tape_scratch(tape, w->m * w->most);
    w->n_ids = (size_t *)(void *)tape_scratch(tape, w->m * sizeof(size_t) / sizeof(float));
    w->state = tape_scratch(tape, w->m * w->kept_step + 1);
    w->scratch = tape_scratch(tape, n_threads * w->scratch_step);
    if (!tape_computes(tape)) return false;
    memset(w->q, 0, w->m * H * w->q_wide * sizeof *w->q); /* columns between parts stay zero */
    memset(w->z, 0, w->m * H * w->z_wide * sizeof *w->z);
    pack_keys(w, &w->exact);
    if (w->keys.keys != w->exact.keys) pack_keys(w, &w->keys);
    return true;
}

static float *my_scratch(const Work *w) { return w->scratch + (size_t)omp_get_thread_num() * w->scratch_step; }

/* ---- products of one head --------------------------------------------------------------------------------------- */

/* Rows [first, first + n) of kv_up: in place, or widened into `copy` where blocks of factors would be cut. */
static Weight some_rows(const Weight *W, size_t first, size_t n, float *copy)
{
    Weight rows = *W;
    rows.rows = n;
    if (W->dtype != DTYPE_F8_E4M3) {
        rows.data = (const char *)W->data + first * W->cols * dtype_bytes(W->dtype);
        return rows;
    }
    for (size_t i = 0; i < n; i++) weight_read(W, first + i, 0, W->cols, copy + i * W->cols);
    return weight_of(W->name, n, W->cols, copy);
}

/* The rows of one head that belong to keys or to values. */
typedef struct {
    Weight W, B; /* [n][R], [n][r] */
    size_t n;
    float s;
    float *scratch;
} HeadRows;

static HeadRows head_rows(const Work *w, size_t h, bool values)
{
    const AttentionShape *s = w->shape;
    const LatentInputs *in = w->in;
    size_t first = h * (s->nope + s->v) + (values ? s->nope : 0), n = values ? s->v : s->nope;
    float *copy = my_scratch(w);
    HeadRows rows = {.n = n,
                     .W = some_rows(in->kv_up, first, n, copy),
                     .scratch = copy + whole_lanes(size_max(s->nope, s->v) * w->R)};
    if (!in->lora) return rows;
    rows.B = weight_of(in->lora->B->name, n, w->r, in->lora->B->data + first * w->r);
    rows.s = in->lora->scale;
    return rows;
}

/* y = s [x W | lora x B], rows of y at the columns of a key. */
static void project_in(const Work *w, size_t m, const HeadRows *rows, float s, Rows x, Rows y)
{
    gemm_nn(m, y, false, s, x, &rows->W, NULL, rows->scratch);
    if (w->r) gemm_narrow_nn(m, rows_right(y, w->u_col), s * rows->s, x, w->r, rows->n, rows->B.data);
}

/* y (+)= s (x_c W' + lora x_u B'). */
static void project_out(const Work *w, size_t m, const HeadRows *rows, bool add, float s, Rows x, Rows y)
{
    GemmLora term = {w->r, rows->B.data, 0, rows->n, rows_right(x, w->u_col), s * rows->s};
    gemm_nt(m, y, add, s, x, &rows->W, &term, rows->scratch);
}

/* Row i of head h in a block, in q, in o. */
static Rows block_rows(const Work *w, float *x, size_t wide, size_t h)
{
    return rows_of(x + h * wide, w->shape->n_heads * wide);
}

static Rows q_rows(const Work *w, const float *q, size_t at, size_t h)
{
    size_t per_head = w->shape->nope + w->shape->rope, wide = w->shape->n_heads * per_head;
    return rows_of(q + (w->first + at) * wide + h * per_head, wide);
}

static Rows o_rows(const Work *w, const float *o, size_t at, size_t h)
{
    size_t wide = w->shape->n_heads * w->shape->v;
    return rows_of(o + (w->first + at) * wide + h * w->shape->v, wide);
}

/* q_h of the queries [at, at + m). */
static void absorb(const Work *w, size_t at, size_t m, size_t h)
{
    const AttentionShape *s = w->shape;
    HeadRows rows = head_rows(w, h, false);
    Rows from = q_rows(w, w->in->q->data, at, h), to = block_rows(w, w->q, w->q_wide, h);
    project_in(w, m, &rows, s->scale, from, to);
    for (size_t i = 0; i < m; i++) row_scale(s->rope, row_of(to, i) + w->kr_col, s->scale, row_of(from, i) + s->nope);
}

/* Columns u of one head's rows into [query][H][r]. */
static void keep_u(const Work *w, size_t m, size_t h, Rows from, float *to)
{
    size_t H = w->shape->n_heads;
    for (size_t i = 0; i < m && w->r; i++)
        memcpy(to + (i * H + h) * w->r, row_of(from, i) + w->u_col, w->r * sizeof *to);
}

/* ---- the way up -------------------------------------------------------------------------------------------------- */

static void attend(Work *w, size_t at, size_t i, float *lse)
{
    size_t H = w->shape->n_heads;
    list_keys(w, at, i);
    latent_attend(&w->exact, w->n_ids[i], w->ids + i * w->most, w->q + i * H * w->q_wide, w->q_wide,
                  w->z + i * H * w->z_wide, w->z_wide, lse + (w->first + at + i) * H, my_scratch(w));
}

static void document_forward(Work *w, const LatentState *state, float *o)
{
    size_t H = w->shape->n_heads;
    for (size_t at = 0; at < w->n; at += w->m) {
        size_t m = size_min(w->m, w->n - at);
#pragma omp parallel
        {
#pragma omp for schedule(static)
            for (size_t h = 0; h < H; h++) absorb(w, at, m, h);
#pragma omp for schedule(dynamic, 4)
            for (size_t i = 0; i < m; i++) attend(w, at, i, state->lse);
#pragma omp for schedule(static)
            for (size_t h = 0; h < H; h++) {
                HeadRows rows = head_rows(w, h, true);
                Rows z = block_rows(w, w->z, w->z_wide, h);
                project_out(w, m, &rows, false, 1, z, o_rows(w, o, at, h));
                keep_u(w, m, h, z, state->zu + (w->first + at) * H * w->r);
            }
        }
    }
}

/* ---- the way back ------------------------------------------------------------------------------------------------ */

/* Gradients of inputs; NULL where none is wanted. dB: of the document's micro-batch. */
typedef struct {
    const float *o, *d_o;
    float *dq, *dlatent, *dlow, *dkr, *dB;
    float *dq_u; /* [rows of the document][H][r] */
} Gradients;

static void query_backward(Work *w, const LatentState *state, const Gradients *g, size_t at, size_t i)
{
    size_t H = w->shape->n_heads, v = w->shape->v, row = w->first + at + i;
    float *delta = w->dq + i * H * w->q_wide; /* read before dq is written */
    list_keys(w, at, i);
    for (size_t h = 0; h < H; h++) delta[h] = row_dot(v, g->d_o + row * H * v + h * v, g->o + row * H * v + h * v);
    latent_backward(&w->exact, &w->keys, w->n_ids[i], w->ids + i * w->most, w->q + i * H * w->q_wide, w->q_wide,
                    w->z + i * H * w->z_wide, w->z_wide, state->lse + row * H, delta, w->dq + i * H * w->q_wide,
                    w->state + i * w->kept_step, my_scratch(w));
}

static size_t first_from(size_t n, const uint32_t *ids, size_t key)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (ids[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Keys [begin, end) add what the block's queries send, query after query. */
static void keys_backward(const Work *w, size_t m, size_t begin, size_t end)
{
    for (size_t i = 0; i < m; i++) {
        const uint32_t *ids = w->ids + i * w->most;
        size_t n = w->n_ids[i], from = first_from(n, ids, begin), some = first_from(n, ids, end) - from;
        latent_scatter(&w->keys, n, ids, from, some, w->state + i * w->kept_step, w->dkey, w->q_wide);
    }
}

static void hand_over(const Work *w, const Gradients *g, size_t t)
{
    const float *dkey = w->dkey + t * w->q_wide;
    size_t row = w->first + t;
    if (g->dlatent) row_add(w->R, g->dlatent + row * w->R, dkey);
    if (g->dlow) row_add(w->r, g->dlow + row * w->r, dkey + w->u_col);
    if (g->dkr) row_add(w->shape->rope, g->dkr + row * w->in->kr->shape[1] + w->in->kr_col, dkey + w->kr_col);
}

static void head_backward(const Work *w, const Gradients *g, size_t at, size_t m, size_t h)
{
    const AttentionShape *s = w->shape;
    HeadRows rows = head_rows(w, h, false);
    Rows from = block_rows(w, w->dq, w->q_wide, h);
    keep_u(w, m, h, from, g->dq_u + at * s->n_heads * w->r);
    if (!g->dq) return;
    Rows to = q_rows(w, g->dq, at, h);
    project_out(w, m, &rows, true, s->scale, from, to);
    for (size_t i = 0; i < m; i++) row_axpy(s->rope, row_of(to, i) + s->nope, s->scale, row_of(from, i) + w->kr_col);
}

static void document_backward(Work *w, const LatentState *state, const Gradients *g)
{
    size_t H = w->shape->n_heads, n_runs = RUNS_PER_THREAD * (size_t)omp_get_max_threads();
    memset(w->dkey, 0, w->n * w->q_wide * sizeof *w->dkey);
    for (size_t at = 0; at < w->n; at += w->m) {
        size_t m = size_min(w->m, w->n - at), seen = at + m;
#pragma omp parallel
        {
#pragma omp for schedule(static) nowait
            for (size_t h = 0; h < H; h++) absorb(w, at, m, h);
#pragma omp for schedule(static)
            for (size_t h = 0; h < H; h++) { /* dz */
                HeadRows rows = head_rows(w, h, true);
                project_in(w, m, &rows, 1, o_rows(w, g->d_o, at, h), block_rows(w, w->z, w->z_wide, h));
            }
#pragma omp for schedule(dynamic, 4)
            for (size_t i = 0; i < m; i++) query_backward(w, state, g, at, i);
#pragma omp for schedule(dynamic) nowait
            for (size_t run = 0; run < n_runs; run++)
                keys_backward(w, m, seen * run / n_runs, seen * (run + 1) / n_runs);
#pragma omp for schedule(static)
            for (size_t h = 0; h < H; h++) head_backward(w, g, at, m, h);
        }
    }
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < w->n; t++) hand_over(w, g, t);
}

/* What the document adds to dB of its micro-batch: heads on threads. */
static void lora_backward(const Work *w, const LatentState *state, const Gradients *g)
{
    const AttentionShape *s = w->shape;
    size_t H = s->n_heads, r = w->r;
    float scale = w->in->lora->scale;
#pragma omp parallel for schedule(static)
    for (size_t h = 0; h < H; h++) {
        float *dB = g->dB + h * (s->nope + s->v) * r, *sum = my_scratch(w);
        Rows q = q_rows(w, w->in->q->data, 0, h), d_o = o_rows(w, g->d_o, 0, h);
        gemm_tn(w->n, s->nope, r, sum, false, s->scale * scale, q, rows_of(g->dq_u + h * r, H * r));
        row_add(s->nope * r, dB, sum);
        gemm_tn(w->n, s->v, r, sum, false, scale, d_o, rows_of(state->zu + (w->first * H + h) * r, H * r));
        row_add(s->v * r, dB + s->nope * r, sum);
    }
}

static float *wanted(const Tensor *x) { return x && x->requires_grad ? x->grad : NULL; }

static void attention_latent_backward(Node *node)
{
    Tape *tape = node->tape;
    const LatentState *state = node->state;
    const LatentInputs *in = &state->in;
    const Group *group = tape->group;
    Gradients g = {.o = node->out->data,
                   .d_o = node->out->grad,
                   .dq = wanted(in->q),
                   .dlatent = wanted(in->latent),
                   .dlow = wanted(in->u),
                   .dkr = wanted(in->kr)};
    for (size_t d = 0, m = 0; d < group->n_docs; d++) {
        while (in->lora && m + 1 < group->n_micro_batches && group->micro_batch_start[m + 1] <= group->doc_start[d])
            m++;
        if (!attends_latents(&state->shape, group, &state->keys, d)) continue;
        Work work;
        work_open(&work, tape, state, d, true);
        g.dq_u = tape_scratch(tape, work.n * state->shape.n_heads * work.r + 1);
        if (tape_computes(tape)) {
            document_backward(&work, state, &g);
            g.dB = in->lora && group->n_micro_batches ? wanted(in->B[m]) : NULL;
            if (g.dB) lora_backward(&work, state, &g);
        }
        tape_scratch_reset(tape);
    }
}

static const Op attention_latent = {.name = "attention_latent", .backward = attention_latent_backward};

static bool fits(Tape *tape, const AttentionShape *s, const LatentInputs *in, const Tensor *o)
{
    size_t H = s->n_heads, T = tape->group->T, R = in->kv_up->cols, O = in->kv_up->rows,
           r = in->lora ? in->lora->B->cols : 0;
    if (!tape_expect(
            tape,
            in->q->shape[1] == H * (s->nope + s->rope) && O == H * (s->nope + s->v) && in->latent->shape[1] == R &&
                in->kr_col + s->rope <= in->kr->shape[1] && in->q->shape[0] == T && in->latent->shape[0] == T &&
                in->kr->shape[0] == T,
            "attention over latents: q is [%zu][%zu], latent [%zu][%zu], kr [%zu][%zu], kv_up [%zu][%zu], %zu tokens",
            in->q->shape[0], in->q->shape[1], in->latent->shape[0], in->latent->shape[1], in->kr->shape[0],
            in->kr->shape[1], O, R, T))
        return false;
    if (o && !tape_expect(tape, o->shape[0] == T && o->shape[1] == H * s->v, "attention over latents: o is [%zu][%zu]",
                          o->shape[0], o->shape[1]))
        return false;
    return !in->lora ||
           tape_expect(tape,
                       in->lora->B->rows == O && in->lora->col == 0 && in->u->shape[0] == T && in->u->shape[1] == r,
                       "%s: kv_up is [%zu][%zu], B [%zu][%zu] at column %zu, u [%zu][%zu]", in->lora->B->name, O, R,
                       in->lora->B->rows, r, in->lora->col, in->u->shape[0], in->u->shape[1]);
}

Tensor *op_attention_latent(Tape *tape, const AttentionShape *shape, const LatentInputs *in, const Keys *keys,
                            Tensor *o)
{
    const Group *group = tape->group;
    if (!tape_expect(tape, true, " ") || !fits(tape, shape, in, o)) return &tape->dummy;
    size_t T = group->T, H = shape->n_heads, r = in->lora ? in->lora->B->cols : 0,
           n_in = 5 + (r ? group->n_micro_batches : 0);
    Tensor *others = o; /* NULL: this one makes it */
    if (!o) o = tape_tensor(tape, T, H * shape->v);
    LatentState *state = tape_alloc(tape, sizeof *state);
    Tensor **inputs = tape_alloc(tape, n_in * sizeof *inputs);
    float *lse = tape_floats(tape, T * H), *zu = r ? tape_floats(tape, T * H * r) : NULL;
    if (tape->err) return &tape->dummy;
    *state = (LatentState){*shape, *in, *keys, lse, zu};
    memcpy(inputs, (Tensor *[]){others, in->q, in->latent, in->kr, in->u}, 5 * sizeof *inputs);
    for (size_t m = 5; m < n_in; m++) inputs[m] = in->B[m - 5];
    Work work;
    for (size_t d = 0; d < group->n_docs && !tape->err; d++) {
        if (!attends_latents(shape, group, keys, d)) continue;
        if (work_open(&work, tape, state, d, false)) document_forward(&work, state, o->data);
        tape_scratch_reset(tape);
    }
    return tape_record(tape, &attention_latent, o, state, false, n_in, inputs);
}
