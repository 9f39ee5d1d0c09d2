/* The lightning indexer's choice of keys:
 *     I[s,t] = sum_h (w[s,h] H^-1/2) ReLU(q[s,h] . k[t] d^-1/2),   t <= s;   the top_k largest of each row.
 * A document's keys are packed once; then blocks of queries meet their whole past, each on one thread. A score depends
 * on its own query and key alone.
 * Source: DeepSeek-V3.2 report, section 2.1; transformers 5.23.0, modeling_glm_moe_dsa.py, GlmMoeDsaIndexer. */
#include "autograd/op.h"
#include "tensor/kernel.h"
#include "tensor/rows.h"

#include <omp.h>
#include <string.h>

typedef struct {
    const IndexShape *shape;
    const float *q, *w; /* of the document's first new row */
    const float *k;     /* of the whole document */
    size_t past, n;     /* keys before the new rows, new rows */
    size_t words, groups;
    float *keys; /* [group][dim][LANES] */
    uint64_t *chosen;
} Document;

/* What a thread works in. */
typedef struct {
    float *q, *w, *score; /* [head][dim][INDEX_QUERIES], [INDEX_QUERIES][head], [INDEX_QUERIES][stride] */
    uint32_t *order;      /* [stride] */
    size_t stride, n_floats;
} Room;

static Room room_of(const IndexShape *s, size_t longest, float *at)
{
    Room r = {.stride = (longest + LANES - 1) / LANES * LANES + LANES};
    size_t q = s->n_heads * s->dim * INDEX_QUERIES, w = s->n_heads * INDEX_QUERIES, score = r.stride * INDEX_QUERIES;
    r.n_floats = (q + w + score + r.stride + LANES - 1) / LANES * LANES;
    if (!at) return r;
    r.q = at;
    r.score = r.q + q;
    r.order = (uint32_t *)(void *)(r.score + score);
    r.w = r.score + score + r.stride;
    return r;
}

/* Keys [group * LANES, + LANES) to lanes, times the scale that stands before the ReLU. */
static void pack_group(const Document *doc, size_t group)
{
    size_t dim = doc->shape->dim, at = group * LANES, n = size_min(LANES, doc->past + doc->n - at);
    for (size_t c = 0; c < dim; c += BLOCK)
        kernels->gemm->pack_lanes(n, size_min(BLOCK, dim - c), doc->shape->scale, rows_of(doc->k + at * dim + c, dim),
                                  doc->keys + (group * dim + c) * LANES, 0);
}

/* Queries [begin, begin + n), absent ones zero. */
static void pack_queries(const Document *doc, size_t begin, size_t n, const Room *room)
{
    const IndexShape *s = doc->shape;
    size_t width = s->n_heads * s->dim;
    memset(room->w, 0, INDEX_QUERIES * s->n_heads * sizeof *room->w);
    for (size_t i = 0; i < INDEX_QUERIES; i++) {
        const float *q = doc->q + (begin + i) * width;
        for (size_t c = 0; c < width; c++) room->q[c * INDEX_QUERIES + i] = i < n ? q[c] : 0;
        for (size_t h = 0; i < n && h < s->n_heads; h++)
            room->w[i * s->n_heads + h] = doc->w[(begin + i) * s->n_heads + h] * s->head_scale;
    }
}

static void choose_block(const Document *doc, size_t begin, size_t n, const Room *room)
{
    const IndexShape *s = doc->shape;
    size_t seen = doc->past + begin + 1; /* its own position is the last that a query sees */
    pack_queries(doc, begin, n, room);
    IndexBlock block = {n,           (seen + n - 1 + LANES - 1) / LANES,
                        s->n_heads,  s->dim,
                        room->q,     room->w,
                        doc->keys,   room->score,
                        room->stride};
    kernels->index->scores(&block);
    for (size_t i = 0; i < n; i++, seen++) {
        uint64_t *row = doc->chosen + (begin + i) * doc->words;
        memset(row, 0, doc->words * sizeof *row);
        row_top_k_set(seen, size_min(seen, s->top_k), row, room->score + i * room->stride, room->order);
    }
}

static void choose_document(const Document *doc, size_t longest, float *scratch)
{
    size_t each = room_of(doc->shape, longest, NULL).n_floats, blocks = (doc->n + INDEX_QUERIES - 1) / INDEX_QUERIES;
#pragma omp parallel
    {
        Room room = room_of(doc->shape, longest, scratch + (size_t)omp_get_thread_num() * each);
#pragma omp for schedule(static)
        for (size_t g = 0; g < doc->groups; g++) pack_group(doc, g);
#pragma omp for schedule(dynamic)
        for (size_t b = blocks; b > 0; b--) { /* the longest rows first */
            size_t at = (b - 1) * INDEX_QUERIES;
            choose_block(doc, at, size_min(doc->n - at, INDEX_QUERIES), &room);
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
    float *scratch = tape_scratch(tape, n_threads * room_of(shape, longest, NULL).n_floats);
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
        Document doc = {.shape = shape,
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
