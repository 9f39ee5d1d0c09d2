/* Tensors of a part that lie near each other in a shard are read as one span; spans are cut into pieces of at most 8
 * MiB, which reader threads share. Offsets and sizes are whole blocks, as direct reads need them. */
#include "model/stream_parts.h"

#include "base/direct_io.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 8 << 20, GAP_BYTES = 256 << 10 };

/* ---- one part ------------------------------------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
    const PartRef *x = a, *y = b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static void add_ref(StreamedPart *part, const Weights *weights, const void **pointer, size_t bytes)
{
    PartRef *ref = &part->refs[part->n_refs++];
    *ref = (PartRef){.pointer = pointer, .mapped = *pointer, .bytes = bytes};
    weights_locate(weights, *pointer, &ref->shard, &ref->offset);
}

static size_t scale_bytes(const Weight *w)
{
    return ((w->rows + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK) * ((w->cols + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK) *
           sizeof(float);
}

static size_t data_bytes(const Weight *w) { return w->rows * w->cols * dtype_bytes(w->dtype); }

static void add_weight(StreamedPart *part, const Weights *weights, Weight *w)
{
    if (!w->data) return;
    add_ref(part, weights, &w->data, data_bytes(w));
    if (w->scale) add_ref(part, weights, &w->scale, scale_bytes(w));
}

/* Tensors that lie near each other in a shard share a span; tensors of a layer are neighbours in every published
 * model. */
static size_t set_places(StreamedPart *part, PartPiece *spans)
{
    size_t n = 0;
    qsort(part->refs, part->n_refs, sizeof *part->refs, by_offset);
    for (size_t i = 0; i < part->n_refs; i++) {
        PartRef *ref = &part->refs[i];
        size_t begin = ref->offset / DIRECT_ALIGN * DIRECT_ALIGN, end = direct_round(ref->offset + ref->bytes);
        PartPiece *span = n ? &spans[n - 1] : NULL;
        if (!span || span->shard != ref->shard || begin > span->offset + span->bytes + GAP_BYTES) {
            spans[n] = (PartPiece){ref->shard, begin, 0, part->bytes};
            span = &spans[n++];
        }
        if (end > span->offset + span->bytes) {
            part->bytes += end - span->offset - span->bytes;
            span->bytes = end - span->offset;
        }
        ref->at = span->at + (ref->offset - span->offset);
    }
    return n;
}

static Err *cut_pieces(StreamedPart *part)
{
    PartPiece *spans;
    TRY(mem_new(&spans, part->n_refs, sizeof *spans));
    size_t n = set_places(part, spans);
    Err *err = mem_new(&part->pieces, n + part->bytes / PIECE_BYTES, sizeof *part->pieces);
    for (size_t s = 0; s < n && !err; s++)
        for (size_t at = 0; at < spans[s].bytes; at += PIECE_BYTES) {
            size_t left = spans[s].bytes - at;
            part->pieces[part->n_pieces++] = (PartPiece){spans[s].shard, spans[s].offset + at,
                                                         left < PIECE_BYTES ? left : PIECE_BYTES, spans[s].at + at};
        }
    free(spans);
    return err;
}

static void drop(StreamedPart *part)
{
    free(part->refs);
    free(part->pieces);
    part->refs = NULL;
    part->pieces = NULL;
}

/* What a part is made of: n matrices, and the experts [begin, end). */
typedef struct {
    size_t n;
    Weight *const *list;
    Weight *experts; /* [E][3] */
    size_t begin, end;
} PartContent;

static Err *make_part(StreamedPart *part, const Weights *weights, PartContent c, bool sizes_only)
{
    TRY(mem_new(&part->refs, 2 * (c.n + 3 * (c.end - c.begin)), sizeof *part->refs));
    for (size_t i = 0; i < c.n; i++) add_weight(part, weights, c.list[i]);
    for (size_t i = 3 * c.begin; i < 3 * c.end; i++) add_weight(part, weights, &c.experts[i]);
    Err *err = cut_pieces(part);
    if (sizes_only) drop(part);
    return err;
}

/* ---- a model's parts ------------------------------------------------------------------------------------------ */

enum { CORE_WEIGHTS = 13 };

static void core_of(Layer *x, Weight *list[CORE_WEIGHTS])
{
    Weight *const all[CORE_WEIGHTS] = {&x->q_proj, &x->q_down,  &x->q_up,    &x->kv_down,     &x->kv_up,
                                       &x->o_proj, &x->index_q, &x->index_k, &x->index_heads, &x->gate,
                                       &x->up,     &x->down,    &x->router};
    memcpy(list, all, sizeof all);
}

/* At most what a weight takes; its ends share blocks with others. */
static size_t max_bytes_of(const Weight *w)
{
    return w->data ? direct_round(data_bytes(w)) + DIRECT_ALIGN +
                         (w->scale ? direct_round(scale_bytes(w)) + DIRECT_ALIGN : 0)
                   : 0;
}

static StreamLayer size_of(const Model *model, Layer *x)
{
    StreamLayer size = {.n_experts = x->dense ? 0 : model->router.E};
    Weight *list[CORE_WEIGHTS];
    core_of(x, list);
    for (size_t i = 0; i < CORE_WEIGHTS; i++) size.core += max_bytes_of(list[i]);
    for (size_t i = 0; i < 3 && size.n_experts; i++) size.expert += max_bytes_of(&x->expert_weights[i]);
    return size;
}

/* Sizes of all layers. Owner: the caller. */
static Err *sizes_of(Model *model, StreamLayer **sizes)
{
    TRY(mem_new(sizes, model->n_layers, sizeof **sizes));
    for (size_t l = 0; l < model->n_layers; l++) (*sizes)[l] = size_of(model, &model->layers[l]);
    return NULL;
}

Err *parts_size(Model *model, size_t limit, size_t *part_bytes)
{
    StreamLayer *sizes;
    size_t fixed = max_bytes_of(&model->embed_tokens) + max_bytes_of(&model->lm_head);
    TRY(sizes_of(model, &sizes));
    *part_bytes = stream_budget_part_max(limit > fixed ? limit - fixed : 0, model->n_layers, sizes);
    free(sizes);
    return NULL;
}

/* Fill first[], the number of each layer's core, from how many chunks each layer has. */
static Err *number_parts(StreamedParts *p, Model *model, size_t part_bytes)
{
    StreamLayer *sizes;
    TRY(sizes_of(model, &sizes));
    for (size_t l = 0; l < model->n_layers; l++)
        p->first[l + 1] = p->first[l] + 1 + stream_budget_chunks(&sizes[l], part_bytes);
    p->n = p->first[model->n_layers];
    free(sizes);
    return NULL;
}

static Err *make_layer(StreamedParts *p, Model *model, size_t l, bool sizes_only)
{
    Layer *x = &model->layers[l];
    size_t E = x->dense ? 0 : model->router.E, core = p->first[l], chunks = p->first[l + 1] - core - 1;
    Weight *list[CORE_WEIGHTS];
    core_of(x, list);
    TRY(make_part(&p->parts[core], model->weights,
                  (PartContent){CORE_WEIGHTS, list, x->expert_weights, 0, chunks ? 0 : E}, sizes_only));
    for (size_t i = 0; i <= chunks && chunks; i++) p->begin[core + i] = E * i / chunks;
    for (size_t i = 0; i < chunks; i++) {
        p->parts[core + 1 + i].chunk = true;
        PartContent experts = {0, NULL, x->expert_weights, p->begin[core + i], p->begin[core + i + 1]};
        TRY(make_part(&p->parts[core + 1 + i], model->weights, experts, sizes_only));
    }
    return NULL;
}

static Err *cut(StreamedParts *p, Model *model, size_t part_bytes, bool sizes_only)
{
    size_t L = model->n_layers;
    StreamedPart ends = {0};
    TRY(mem_new(&p->first, L + 1, sizeof *p->first));
    Err *err = make_part(&ends, model->weights,
                         (PartContent){2, (Weight *[]){&model->embed_tokens, &model->lm_head}, NULL, 0, 0}, sizes_only);
    if (!err) err = number_parts(p, model, part_bytes);
    if (!err) err = mem_new(&p->begin, p->n, sizeof *p->begin);
    if (!err) err = mem_new(&p->parts, p->n + 1, sizeof *p->parts);
    if (err) {
        drop(&ends);
        return err;
    }
    p->parts[p->n] = ends;
    for (size_t l = 0; l < L; l++) TRY(make_layer(p, model, l, sizes_only));
    return NULL;
}

void parts_free(StreamedParts *p)
{
    for (size_t i = 0; i <= p->n && p->parts; i++) drop(&p->parts[i]);
    free(p->first);
    free(p->begin);
    free(p->parts);
    *p = (StreamedParts){0};
}

Err *parts_budget(const StreamedParts *p, size_t limit, StreamBudget *budget, bool *resident)
{
    StreamPart *sizes;
    TRY(mem_new(&sizes, p->n, sizeof *sizes));
    for (size_t i = 0; i < p->n; i++) sizes[i] = (StreamPart){p->parts[i].bytes, p->parts[i].chunk};
    Err *err = stream_budget(budget, limit, p->parts[p->n].bytes, p->n, sizes, resident);
    free(sizes);
    return err;
}

Err *parts_cut(StreamedParts *p, Model *model, size_t part_bytes, bool sizes_only)
{
    *p = (StreamedParts){.n_layers = model->n_layers};
    Err *err = cut(p, model, part_bytes, sizes_only);
    if (err) parts_free(p);
    return err;
}
