/* The lightning indexer's choice of keys:
 *     I[s,t] = sum_h (w[s,h] H^-1/2) ReLU(q[s,h] . k[t] d^-1/2),   t <= s;   the top_k largest of each row s
 * q [T][H * d], k [T][d], w [T][H]. No backward: the choice is a constant.
 *
 * The keys of a document are packed once; then threads take blocks of queries, each with all keys of its past. A score
 * depends on its own query and key alone, so no bit depends on blocks or threads.
 * Source: docs/glm5.md, section 6; DeepSeek-V3.2 report, section 2.1; transformers 5.23.0, GlmMoeDsaIndexer in
 * modeling_glm_moe_dsa.py. */
#include "autograd/op.h"
#include "base/minmax.h"
#include "tensor/kernel.h"
#include "tensor/rows.h"

#include <omp.h>
#include <string.h>

typedef struct {
    const IndexShape *shape;
    const float *q, *w; /* from the document's first new row on */
    const float *k;     /* of the whole document */
    size_t past, n;     /* number of keys before the new rows; number of new rows */
    size_t words, groups;
    float *keys; /* [group][dim][LANES] */
    uint64_t *chosen;
} IndexDocument;

/* Scratch of a thread. */
typedef struct {
    float *q, *w, *score; /* [head][dim][INDEX_QUERIES], [INDEX_QUERIES][head], [INDEX_QUERIES][stride] */
    uint32_t *order;      /* [stride] */
    size_t stride, n_floats;
} IndexWorkspace;

/* Laid out from `base` on; NULL: only its sizes. longest: keys of the longest document. */
static IndexWorkspace index_workspace(const IndexShape *s, size_t longest, float *base)
{
    IndexWorkspace ws = {.stride = round_up(longest, LANES) + LANES};
    size_t q = s->n_heads * s->dim * INDEX_QUERIES, w = s->n_heads * INDEX_QUERIES, score = ws.stride * INDEX_QUERIES;
    ws.n_floats = round_up(q + w + score + ws.stride, LANES);
    if (!base) return ws;
    ws.q = base;
    ws.score = ws.q + q;
    ws.order = (uint32_t *)(void *)(ws.score + score);
    ws.w = ws.score + score + ws.stride;
    return ws;
}

/* Pack the keys [group * LANES, + LANES) in lanes, times the scale before the ReLU. */
static void pack_group(const IndexDocument *doc, size_t group)
{
    size_t dim = doc->shape->dim, at = group * LANES, n = size_min(LANES, doc->past + doc->n - at);
    for (size_t c = 0; c < dim; c += BLOCK)
        kernels->gemm->pack_lanes(n, size_min(BLOCK, dim - c), doc->shape->scale, rows_of(doc->k + at * dim + c, dim),
                                  doc->keys + (group * dim + c) * LANES, 0);
}

/* Pack the queries [begin, begin + n); the rest of the block is zero. */
static void pack_queries(const IndexDocument *doc, size_t begin, size_t n, const IndexWorkspace *ws)
{
    const IndexShape *s = doc->shape;
    size_t width = s->n_heads * s->dim;
    memset(ws->w, 0, INDEX_QUERIES * s->n_heads * sizeof *ws->w);
    for (size_t i = 0; i < INDEX_QUERIES; i++) {
        const float *q = doc->q + (begin + i) * width;
        for (size_t c = 0; c < width; c++) ws->q[c * INDEX_QUERIES + i] = i < n ? q[c] : 0;
        for (size_t h = 0; i < n && h < s->n_heads; h++)
            ws->w[i * s->n_heads + h] = doc->w[(begin + i) * s->n_heads + h] * s->head_scale;
    }
}

static void choose_block(const IndexDocument *doc, size_t begin, size_t n, const IndexWorkspace *ws)
{
    const IndexShape *s = doc->shape;
    size_t seen = doc->past + begin + 1; /* keys that the first query sees: the last is its own */
    pack_queries(doc, begin, n, ws);
    IndexBlock block = {
        n, (seen + n - 1 + LANES - 1) / LANES, s->n_heads, s->dim, ws->q, ws->w, doc->keys, ws->score, ws->stride};
    kernels->index->scores(&block);
    for (size_t i = 0; i < n; i++, seen++) {
        uint64_t *row = doc->chosen + (begin + i) * doc->words;
        memset(row, 0, doc->words * sizeof *row);
        row_top_k_set(seen, size_min(seen, s->top_k), row, ws->score + i * ws->stride, ws->order);
    }
}

static void choose_document(const IndexDocument *doc, size_t longest, float *scratch)
{
    size_t ws_floats = index_workspace(doc->shape, longest, NULL).n_floats,
           blocks = (doc->n + INDEX_QUERIES - 1) / INDEX_QUERIES;
#pragma omp parallel
    {
        IndexWorkspace ws = index_workspace(doc->shape, longest, scratch + (size_t)omp_get_thread_num() * ws_floats);
#pragma omp for schedule(static)
        for (size_t g = 0; g < doc->groups; g++) pack_group(doc, g);
#pragma omp for schedule(dynamic)
        for (size_t b = blocks; b > 0; b--) { /* the longest rows first */
            size_t at = (b - 1) * INDEX_QUERIES;
            choose_block(doc, at, size_min(doc->n - at, INDEX_QUERIES), &ws);
        }
    }
}

void op_index(Tape *tape, const IndexShape *shape, Tensor *q, Tensor *k, Tensor *w, const float *const *past,
              Keys *keys)
{
    const Group *group = tape->group;
    size_t longest = 0, n_threads = tape_threads(tape), width = shape->n_heads * shape->dim;
    for (size_t d = 0; d < group->n_docs; d++)
        if (keys->of[d] && keys_words(group, d) * 64 > longest) longest = keys_words(group, d) * 64;
    if (longest == 0) return;
    float *scratch = tape_scratch(tape, n_threads * index_workspace(shape, longest, NULL).n_floats);
    float *packed = tape_scratch(tape, (longest + LANES) * shape->dim);
    if (!tape_expect(tape,
                     q->shape[1] == width && k->shape[1] == shape->dim && w->shape[1] == shape->n_heads &&
                         q->shape[0] == group->T && k->shape[0] == group->T && w->shape[0] == group->T,
                     "index: q is [%zu][%zu], k [%zu][%zu], w [%zu][%zu], %zu tokens", q->shape[0], q->shape[1],
                     k->shape[0], k->shape[1], w->shape[0], w->shape[1], group->T))
        return;
    for (size_t d = 0; d < group->n_docs && tape_computes(tape); d++) {
        if (!keys->of[d]) continue;
        size_t begin = group->doc_start[d], n = group->doc_start[d + 1] - begin;
        IndexDocument doc = {.shape = shape,
                             .q = q->data + begin * width,
                             .w = w->data + begin * shape->n_heads,
                             .n = n,
                             .k = past ? past[d] : k->data + begin * shape->dim,
                             .past = group->doc_past ? group->doc_past[d] : 0,
                             .words = keys_words(group, d),
                             .keys = packed,
                             .chosen = keys->of[d]};
        doc.groups = (doc.past + n + LANES - 1) / LANES;
        choose_document(&doc, longest, scratch);
    }
    tape_scratch_reset(tape);
    timing_note(tape->timing, "index", TIMING_FORWARD);
}
