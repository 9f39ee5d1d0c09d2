/* Slices of layers lie one after another, in layer order; so does all that belongs to them. The norm is a sum of
 * doubles, one for each CLIP_CHUNK of a layer's block, added in order: the same bits whatever the number of ranks. */
#include "train/grad_shards.h"

#include "base/memory.h"
#include "base/minmax.h"
#include "optim/clip.h"

#include <math.h>
#include <stdlib.h>

/* ---- life ----------------------------------------------------------------------------------------------------- */

static int by_begin(const void *a, const void *b)
{
    size_t x = ((const RateSpan *)a)->begin, y = ((const RateSpan *)b)->begin;
    return (x > y) - (x < y);
}

/* Neighbours of one kind become one span: the experts' A lie together, and so do their B. */
static size_t merge_spans(size_t n, RateSpan *spans)
{
    size_t kept = 0;
    qsort(spans, n, sizeof *spans, by_begin);
    for (size_t i = 0; i < n; i++) {
        if (kept && spans[kept - 1].kind == spans[i].kind && spans[kept - 1].end == spans[i].begin)
            spans[kept - 1].end = spans[i].end;
        else
            spans[kept++] = spans[i];
    }
    return kept;
}

static Err *set_spans(Slices *s)
{
    size_t L = s->n_layers, n = 0;
    TRY(mem_new(&s->span_at, L + 1, sizeof *s->span_at));
    for (size_t l = 0; l < L && s->adapter; l++) n += s->adapter->layers[l].n_params;
    TRY(mem_new(&s->spans, n, sizeof *s->spans));
    for (size_t l = 0; l < L && s->adapter; l++) {
        const LayerAdapter *layer = &s->adapter->layers[l];
        RateSpan *span = s->spans + s->span_at[l];
        for (size_t i = 0; i < layer->n_params; i++) {
            const Param *p = &layer->params[i];
            RateKind kind = p == layer->router ? RATE_ROUTER
                            : i % 2            ? RATE_B
                                               : RATE_A; /* LoRA come first, A before B */
            span[i] = (RateSpan){p->offset, p->offset + param_count(p), kind};
        }
        s->span_at[l + 1] = s->span_at[l] + (layer->n_params ? merge_spans(layer->n_params, span) : 0);
    }
    return NULL;
}

Err *slices_init(Slices *s, Dp *dp, Adapter *adapter, size_t L)
{
    size_t begin, end;
    *s = (Slices){.dp = dp, .adapter = adapter, .n_layers = L};
    TRY(mem_new(&s->at, L + 1, sizeof *s->at));
    TRY(mem_new(&s->chunk_at, L + 1, sizeof *s->chunk_at));
    for (size_t l = 0; l < L; l++) {
        size_t n = adapter ? adapter->layers[l].n : 0;
        dp_slice(dp, dp->rank, n, &begin, &end);
        s->at[l + 1] = s->at[l] + end - begin;
        s->chunk_at[l + 1] = s->chunk_at[l] + clip_n_chunks(n);
    }
    TRY(mem_new(&s->gradient, s->at[L], sizeof *s->gradient));
    TRY(mem_new(&s->m, s->at[L], sizeof *s->m));
    TRY(mem_new(&s->v, s->at[L], sizeof *s->v));
    TRY(mem_new(&s->chunk_sums, s->chunk_at[L], sizeof *s->chunk_sums));
    return set_spans(s);
}

void slices_free(Slices *s)
{
    void *owned[] = {s->at, s->chunk_at, s->gradient, s->m, s->v, s->chunk_sums, s->spans, s->span_at};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    *s = (Slices){0};
}

/* ---- gradients ------------------------------------------------------------------------------------------------ */

/* The sums over micro-batches, which no tape sees. */
static Err *guard_slice(const LayerAdapter *layer, size_t begin, size_t end, const float *slice)
{
    for (size_t i = begin; i < end; i++) {
        if (isfinite(slice[i - begin])) continue;
        const Param *p = layer->params;
        while (i < p->offset || i >= p->offset + param_count(p)) p++;
        return err_new(ERR_NUMERIC, "the gradient of %s: row %zu, column %zu is %g", p->name, (i - p->offset) / p->cols,
                       (i - p->offset) % p->cols, (double)slice[i - begin]);
    }
    return NULL;
}

Err *slices_reduce(Slices *s, size_t l, Forest *forest, const size_t *first, bool guard)
{
    float *slice = s->gradient + s->at[l];
    size_t begin, end;
    TRY(dp_reduce(s->dp, forest, first, slice));
    dp_slice(s->dp, s->dp->rank, s->adapter->layers[l].n, &begin, &end);
    if (guard) TRY(guard_slice(&s->adapter->layers[l], begin, end, slice));
    clip_chunk_sums(end - begin, slice, s->chunk_sums + s->chunk_at[l] + begin / CLIP_CHUNK);
    return NULL;
}

/* Sums of squares of every layer's chunks, known to all ranks. */
static Err *share_chunk_sums(Slices *s)
{
    size_t *first, begin, end;
    TRY(mem_new(&first, (size_t)s->dp->size + 1, sizeof *first));
    Err *err = NULL;
    for (size_t l = 0; l < s->n_layers && !err; l++) {
        for (int r = 0; r < s->dp->size; r++) {
            dp_slice(s->dp, r, s->adapter->layers[l].n, &begin, &end);
            first[r] = clip_n_chunks(begin);
            first[r + 1] = clip_n_chunks(end);
        }
        err = dp_share_rows(s->dp, first, 1, s->chunk_sums + s->chunk_at[l]);
    }
    free(first);
    return err;
}

Err *slices_norm(Slices *s, double *norm)
{
    TRY(share_chunk_sums(s));
    *norm = clip_norm(s->chunk_at[s->n_layers], s->chunk_sums);
    return NULL;
}

/* ---- update --------------------------------------------------------------------------------------------------- */

/* AdamW with the gradient times scale, number t. */
typedef struct {
    const AdamW *adamw;
    uint64_t t;
    const StepRates *rates;
    double scale;
} Update;

/* The own part [begin, end) of a layer's block, span by span of one learning rate. */
static void update_layer(Slices *s, size_t l, const Update *u, size_t begin, size_t end)
{
    float *values = s->adapter->values + s->adapter->layers[l].offset;
    for (const RateSpan *span = s->spans + s->span_at[l]; span < s->spans + s->span_at[l + 1]; span++) {
        size_t from = size_max(span->begin, begin), to = size_min(span->end, end), at = s->at[l] + from - begin;
        double rate = span->kind == RATE_ROUTER ? u->rates->router : span->kind == RATE_B ? u->rates->B : u->rates->A;
        if (from < to)
            adamw_update(u->adamw, &(AdamWStep){u->t, rate, u->scale}, to - from, values + from, s->m + at, s->v + at,
                         s->gradient + at);
    }
}

Err *slices_update(Slices *s, const AdamW *adamw, uint64_t t, const StepRates *rates, double scale)
{
    const Update update = {adamw, t, rates, scale};
    for (size_t l = 0; l < s->n_layers; l++) {
        const LayerAdapter *layer = &s->adapter->layers[l];
        size_t begin, end;
        if (layer->n == 0) continue;
        dp_slice(s->dp, s->dp->rank, layer->n, &begin, &end);
        update_layer(s, l, &update, begin, end);
        TRY(dp_share(s->dp, layer->n, s->adapter->values + layer->offset));
    }
    return NULL;
}
