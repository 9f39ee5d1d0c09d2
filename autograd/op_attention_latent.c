/* Attention over chosen keys without expanding them: the latents, which all heads share, serve as keys and values once
 * Wk is applied to the query and Wv to the weighted sum. With u = drop(c) A' of the LoRA on kv_up, B = [Bk; Bv], per
 * head h:
 *
 *     key[t] = [c | u | kr],   value[t] = [c | u],   q_h = scale [qn Wk | s qn Bk | qr]
 *     P = softmax(q_h key'),   z = P value = [zc | zu],   o = zc Wv' + s zu Bv'
 *
 *     dz = [do Wv | s do Bv],   dP = dz value',   dS = P (dP - rowsum(do o)),   dq_h = dS key = [dq_c | dq_u | dq_r]
 *     dqn = scale (dq_c Wk' + s dq_u Bk'),   dqr = scale dq_r,   dBk = scale s qn' dq_u,   dBv = s do' zu
 *     dkey = dS' q_h + P' dz, summed over heads and queries
 *
 * c [T][R], u [T][r], kr [T][rope], Wk [nope][R], Wv [v][R], o [T][v].
 *
 * A document is computed in blocks of queries. Each block takes several passes of all threads: over heads (products
 * with Wk, Wv, B), over queries (sums over their own keys), and in the backward pass over ranges of keys: each key adds
 * what the queries contribute, in their order. So no bit depends on the block or the threads.
 * Source: DeepSeek-V2 report, section 2.1.2 (arXiv:2405.04434); docs/glm5.md, section 5. */
#include "autograd/latent_document.h"
#include "autograd/lora.h"
#include "tensor/rows.h"

#include <string.h>

enum { RANGES_PER_THREAD = 2 }; /* of keys, in the backward pass */

/* ---- products of one head -------------------------------------------------------------------------------------- */

/* Rows [first, first + n) of kv_up: in place, or, for FP8, whose blocks of factors would be cut, as floats in copy. */
static Weight weight_rows(const Weight *W, size_t first, size_t n, float *copy)
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

/* The rows of kv_up and B of one head, for keys or for values. */
typedef struct {
    Weight W, B; /* [n][R], [n][r] */
    size_t n;
    float s;
    float *scratch;
} HeadRows;

static HeadRows head_rows(const LatentDocument *doc, size_t h, bool values)
{
    const AttentionShape *s = doc->shape;
    const LatentInputs *in = doc->in;
    size_t first = h * (s->nope + s->v) + (values ? s->nope : 0), n = values ? s->v : s->nope;
    float *copy = latent_scratch_of_thread(doc);
    HeadRows rows = {.n = n,
                     .W = weight_rows(in->kv_up, first, n, copy),
                     .scratch = copy + latent_round_up(size_max(s->nope, s->v) * doc->R)};
    if (!in->lora) return rows;
    rows.B = weight_of(in->lora->B->name, n, doc->r, in->lora->B->data + first * doc->r);
    rows.s = in->lora->scale;
    return rows;
}

/* y = s [x W | lora x B]; rows of y have the columns of a key. */
static void project_in(const LatentDocument *doc, size_t m, const HeadRows *rows, float s, Rows x, Rows y)
{
    gemm_nn(m, y, false, s, x, &rows->W, NULL, rows->scratch);
    if (doc->r) gemm_narrow_nn(m, rows_right(y, doc->u_col), s * rows->s, x, doc->r, rows->n, rows->B.data);
}

/* y (+)= s (x_c W' + lora x_u B'). */
static void project_out(const LatentDocument *doc, size_t m, const HeadRows *rows, bool add, float s, Rows x, Rows y)
{
    GemmLora term = {doc->r, rows->B.data, 0, rows->n, rows_right(x, doc->u_col), s * rows->s};
    gemm_nt(m, y, add, s, x, &rows->W, &term, rows->scratch);
}

/* The rows of head h: in an array of a block; of queries from `at` on, in q and in o. */
static Rows block_rows(const LatentDocument *doc, float *x, size_t width, size_t h)
{
    return rows_of(x + h * width, doc->shape->n_heads * width);
}

static Rows q_rows(const LatentDocument *doc, const float *q, size_t at, size_t h)
{
    size_t per_head = doc->shape->nope + doc->shape->rope, width = doc->shape->n_heads * per_head;
    return rows_of(q + (doc->first + at) * width + h * per_head, width);
}

static Rows o_rows(const LatentDocument *doc, const float *o, size_t at, size_t h)
{
    size_t width = doc->shape->n_heads * doc->shape->v;
    return rows_of(o + (doc->first + at) * width + h * doc->shape->v, width);
}

/* q_h of the queries [at, at + m). */
static void absorb(const LatentDocument *doc, size_t at, size_t m, size_t h)
{
    const AttentionShape *s = doc->shape;
    HeadRows rows = head_rows(doc, h, false);
    Rows from = q_rows(doc, doc->in->q->data, at, h), to = block_rows(doc, doc->q, doc->q_width, h);
    project_in(doc, m, &rows, s->scale, from, to);
    for (size_t i = 0; i < m; i++) row_scale(s->rope, row_of(to, i) + doc->kr_col, s->scale, row_of(from, i) + s->nope);
}

/* Columns u of one head's rows into [query][H][r]. */
static void copy_u(const LatentDocument *doc, size_t m, size_t h, Rows from, float *to)
{
    size_t H = doc->shape->n_heads;
    for (size_t i = 0; i < m && doc->r; i++)
        memcpy(to + (i * H + h) * doc->r, row_of(from, i) + doc->u_col, doc->r * sizeof *to);
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

/* The ids of the keys that query `at + i` of the document chose. */
static void list_keys(LatentDocument *doc, size_t at, size_t i)
{
    const uint64_t *bits = doc->chosen + (at + i) * doc->words;
    uint32_t *ids = doc->ids + i * doc->max_keys;
    size_t n = 0, seen = at + i + 1;
    for (size_t word = 0; word * 64 < seen; word++)
        for (uint64_t left = bits[word]; left; left &= left - 1)
            ids[n++] = (uint32_t)(word * 64 + (size_t)__builtin_ctzll(left));
    doc->n_ids[i] = n;
}

/* Query i of the block at work. */
static LatentQuery query_of(const LatentDocument *doc, size_t i, float *lse, float *scratch)
{
    return (LatentQuery){.n = doc->n_ids[i],
                         .ids = doc->ids + i * doc->max_keys,
                         .q = doc->q + i * doc->shape->n_heads * doc->q_width,
                         .q_stride = doc->q_width,
                         .o_stride = doc->z_width,
                         .lse = lse,
                         .state = doc->state ? doc->state + i * doc->state_floats : NULL,
                         .scratch = scratch};
}

static void attend(LatentDocument *doc, size_t at, size_t i, float *lse)
{
    size_t H = doc->shape->n_heads;
    list_keys(doc, at, i);
    LatentQuery query = query_of(doc, i, lse + (doc->first + at + i) * H, latent_scratch_of_thread(doc));
    latent_attend(&doc->exact, &query, doc->z + i * H * doc->z_width);
}

static void document_forward(LatentDocument *doc, const LatentState *state, float *o)
{
    size_t H = doc->shape->n_heads;
    for (size_t at = 0; at < doc->n; at += doc->block_queries) {
        size_t m = size_min(doc->block_queries, doc->n - at);
#pragma omp parallel
        {
#pragma omp for schedule(static)
            for (size_t h = 0; h < H; h++) absorb(doc, at, m, h);
#pragma omp for schedule(dynamic, 4)
            for (size_t i = 0; i < m; i++) attend(doc, at, i, state->lse);
#pragma omp for schedule(static)
            for (size_t h = 0; h < H; h++) {
                HeadRows rows = head_rows(doc, h, true);
                Rows z = block_rows(doc, doc->z, doc->z_width, h);
                project_out(doc, m, &rows, false, 1, z, o_rows(doc, o, at, h));
                copy_u(doc, m, h, z, state->zu + (doc->first + at) * H * doc->r);
            }
        }
    }
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* Gradients of the inputs, NULL if not required; dB: of the document's micro-batch. */
typedef struct {
    const float *o, *d_o;
    float *dq, *dlatent, *du, *dkr, *dB;
    float *dq_u; /* [rows of the document][H][r] */
} LatentGradients;

static void query_backward(LatentDocument *doc, const LatentState *state, const LatentGradients *g, size_t at, size_t i)
{
    size_t H = doc->shape->n_heads, v = doc->shape->v, row = doc->first + at + i;
    float *delta = doc->dq + i * H * doc->q_width; /* read before dq is written */
    list_keys(doc, at, i);
    for (size_t h = 0; h < H; h++) delta[h] = row_dot(v, g->d_o + row * H * v + h * v, g->o + row * H * v + h * v);
    LatentQuery query = query_of(doc, i, state->lse + row * H, latent_scratch_of_thread(doc));
    latent_backward(&doc->exact, &doc->keys, &query, doc->z + i * H * doc->z_width, delta,
                    doc->dq + i * H * doc->q_width);
}

/* The first i with ids[i] >= key; ids ascend. */
static size_t lower_bound(size_t n, const uint32_t *ids, size_t key)
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

/* dkey of keys [begin, end): add the contributions of a block's queries, in order of queries. */
static void keys_backward(const LatentDocument *doc, size_t m, size_t begin, size_t end)
{
    for (size_t i = 0; i < m; i++) {
        LatentQuery query = query_of(doc, i, NULL, NULL);
        size_t from = lower_bound(query.n, query.ids, begin), count = lower_bound(query.n, query.ids, end) - from;
        latent_scatter(&doc->keys, &query, from, count, doc->dkey, doc->q_width);
    }
}

/* Add dkey of row t of the document to the gradients of latent, u and kr. */
static void add_dkey(const LatentDocument *doc, const LatentGradients *g, size_t t)
{
    const float *dkey = doc->dkey + t * doc->q_width;
    size_t row = doc->first + t;
    if (g->dlatent) row_add(doc->R, g->dlatent + row * doc->R, dkey);
    if (g->du) row_add(doc->r, g->du + row * doc->r, dkey + doc->u_col);
    if (g->dkr) row_add(doc->shape->rope, g->dkr + row * doc->in->kr->shape[1] + doc->in->kr_col, dkey + doc->kr_col);
}

static void head_backward(const LatentDocument *doc, const LatentGradients *g, size_t at, size_t m, size_t h)
{
    const AttentionShape *s = doc->shape;
    HeadRows rows = head_rows(doc, h, false);
    Rows from = block_rows(doc, doc->dq, doc->q_width, h);
    copy_u(doc, m, h, from, g->dq_u + at * s->n_heads * doc->r);
    if (!g->dq) return;
    Rows to = q_rows(doc, g->dq, at, h);
    project_out(doc, m, &rows, true, s->scale, from, to);
    for (size_t i = 0; i < m; i++) row_axpy(s->rope, row_of(to, i) + s->nope, s->scale, row_of(from, i) + doc->kr_col);
}

static void document_backward(LatentDocument *doc, const LatentState *state, const LatentGradients *g)
{
    size_t H = doc->shape->n_heads, n_ranges = RANGES_PER_THREAD * (size_t)omp_get_max_threads();
    memset(doc->dkey, 0, doc->n * doc->q_width * sizeof *doc->dkey);
    for (size_t at = 0; at < doc->n; at += doc->block_queries) {
        size_t m = size_min(doc->block_queries, doc->n - at), seen = at + m;
#pragma omp parallel
        {
#pragma omp for schedule(static) nowait
            for (size_t h = 0; h < H; h++) absorb(doc, at, m, h);
#pragma omp for schedule(static)
            for (size_t h = 0; h < H; h++) { /* dz */
                HeadRows rows = head_rows(doc, h, true);
                project_in(doc, m, &rows, 1, o_rows(doc, g->d_o, at, h), block_rows(doc, doc->z, doc->z_width, h));
            }
#pragma omp for schedule(dynamic, 4)
            for (size_t i = 0; i < m; i++) query_backward(doc, state, g, at, i);
#pragma omp for schedule(dynamic) nowait
            for (size_t i = 0; i < n_ranges; i++) keys_backward(doc, m, seen * i / n_ranges, seen * (i + 1) / n_ranges);
#pragma omp for schedule(static)
            for (size_t h = 0; h < H; h++) head_backward(doc, g, at, m, h);
        }
    }
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < doc->n; t++) add_dkey(doc, g, t);
}

/* Add the document's part to dB of its micro-batch; threads take heads. */
static void lora_B_gradient(const LatentDocument *doc, const LatentState *state, const LatentGradients *g)
{
    const AttentionShape *s = doc->shape;
    size_t H = s->n_heads, r = doc->r;
    float scale = doc->in->lora->scale;
#pragma omp parallel for schedule(static)
    for (size_t h = 0; h < H; h++) {
        float *dB = g->dB + h * (s->nope + s->v) * r, *sum = latent_scratch_of_thread(doc);
        Rows q = q_rows(doc, doc->in->q->data, 0, h), d_o = o_rows(doc, g->d_o, 0, h);
        gemm_tn(doc->n, s->nope, r, sum, false, s->scale * scale, q, rows_of(g->dq_u + h * r, H * r));
        row_add(s->nope * r, dB, sum);
        gemm_tn(doc->n, s->v, r, sum, false, scale, d_o, rows_of(state->zu + (doc->first * H + h) * r, H * r));
        row_add(s->v * r, dB + s->nope * r, sum);
    }
}

static float *gradient_of(const Tensor *x) { return x && x->requires_grad ? x->grad : NULL; }

static void attention_latent_backward(Node *node)
{
    Tape *tape = node->tape;
    const LatentState *state = node->state;
    const LatentInputs *in = &state->in;
    const Group *group = tape->group;
    LatentGradients g = {.o = node->out->data,
                         .d_o = node->out->grad,
                         .dq = gradient_of(in->q),
                         .dlatent = gradient_of(in->latent),
                         .du = gradient_of(in->u),
                         .dkr = gradient_of(in->kr)};
    for (size_t d = 0, m = 0; d < group->n_docs; d++) {
        while (in->lora && m + 1 < group->n_micro_batches && group->micro_batch_start[m + 1] <= group->doc_start[d])
            m++;
        if (!attends_latents(&state->shape, group, &state->keys, d)) continue;
        LatentDocument doc;
        latent_document_init(&doc, tape, state, d, true);
        g.dq_u = tape_scratch(tape, doc.n * state->shape.n_heads * doc.r + 1);
        if (tape_computes(tape)) {
            document_backward(&doc, state, &g);
            g.dB = in->lora && group->n_micro_batches ? gradient_of(in->B[m]) : NULL;
            if (g.dB) lora_B_gradient(&doc, state, &g);
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
    Tensor *others = o; /* NULL: o is made here */
    if (!o) o = tape_tensor(tape, T, H * shape->v);
    LatentState *state = tape_alloc(tape, sizeof *state);
    Tensor **inputs = tape_alloc(tape, n_in * sizeof *inputs);
    float *lse = tape_floats(tape, T * H), *zu = r ? tape_floats(tape, T * H * r) : NULL;
    if (tape->err) return &tape->dummy;
    *state = (LatentState){*shape, *in, *keys, lse, zu};
    memcpy(inputs, (Tensor *[]){others, in->q, in->latent, in->kr, in->u}, 5 * sizeof *inputs);
    for (size_t m = 5; m < n_in; m++) inputs[m] = in->B[m - 5];
    LatentDocument doc;
    for (size_t d = 0; d < group->n_docs && !tape->err; d++) {
        if (!attends_latents(shape, group, keys, d)) continue;
        if (latent_document_init(&doc, tape, state, d, false)) document_forward(&doc, state, o->data);
        tape_scratch_reset(tape);
    }
    return tape_record(tape, &attention_latent, o, state, false, n_in, inputs);
}
