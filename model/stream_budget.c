/* Why a resident share, and why it is spread evenly: if all memory were one ring, readers would have nothing to do
 * around the turn of a pass, where the last parts are still in memory, and everything to do in between. */
#include "model/stream_budget.h"

#include "base/byte_size.h"

#include <stdio.h>

size_t stream_budget_chunks(const StreamLayer *layer, size_t max_bytes)
{
    size_t experts = layer->n_experts * layer->expert;
    if (layer->core + experts <= max_bytes || layer->n_experts <= STREAM_MIN_CHUNK) return 0;
    size_t fit = max_bytes / layer->expert, per_chunk = fit > STREAM_MIN_CHUNK ? fit : STREAM_MIN_CHUNK;
    return (layer->n_experts + per_chunk - 1) / per_chunk;
}

static bool fits(size_t max_bytes, size_t left, size_t n, const StreamLayer *layers)
{
    size_t core = 0, chunk = 0;
    for (size_t l = 0; l < n; l++) {
        size_t chunks = stream_budget_chunks(&layers[l], max_bytes),
               experts = chunks ? (layers[l].n_experts + chunks - 1) / chunks : 0;
        size_t bytes = layers[l].core + (chunks ? 0 : layers[l].n_experts * layers[l].expert);
        if (bytes > core) core = bytes;
        if (experts * layers[l].expert > chunk) chunk = experts * layers[l].expert;
    }
    return core + chunk <= left;
}

size_t stream_budget_part_max(size_t left, size_t n, const StreamLayer *layers)
{
    size_t max_bytes = left / 8;
    while (max_bytes > 0 && !fits(max_bytes, left, n, layers)) max_bytes /= 2;
    return max_bytes;
}

/* Is the i-th of n parts resident, when r of them are? */
static bool is_resident(size_t i, size_t r, size_t n) { return (i + 1) * r / n != i * r / n; }

/* The ring of one kind of parts when r of them are resident; returns its memory. */
static size_t set_ring(StreamRing *ring, bool chunk, size_t r, size_t buffers, size_t n, const StreamPart *parts,
                       bool *resident)
{
    size_t at = 0, of = ring->n;
    *ring = (StreamRing){.n = of, .n_resident = r};
    for (size_t i = 0; i < n; i++) {
        if (parts[i].chunk != chunk) continue;
        bool keep = is_resident(at++, r, of);
        if (keep)
            ring->resident_bytes += parts[i].bytes;
        else
            ring->streamed_bytes += parts[i].bytes;
        if (!keep && parts[i].bytes > ring->buffer_bytes) ring->buffer_bytes = parts[i].bytes;
        if (resident) resident[i] = keep;
    }
    ring->n_buffers = buffers < of - r ? buffers : of - r;
    return stream_budget_ring_bytes(ring);
}

/* Three buffers hide the unevenness of a disk, two let reading and computing overlap, one works. Three only where they
 * leave half of the memory to resident parts. */
static void fill_ring(StreamRing *ring, bool chunk, size_t left, size_t n, const StreamPart *parts, bool *resident)
{
    size_t buffers = 1, r = ring->n;
    set_ring(ring, chunk, 0, 1, n, parts, NULL);
    if (2 * ring->buffer_bytes <= left) buffers = 2;
    if (6 * ring->buffer_bytes <= left) buffers = 3;
    while (r > 0 && set_ring(ring, chunk, r, buffers, n, parts, NULL) > left) r--;
    set_ring(ring, chunk, r, buffers, n, parts, resident);
}

/* Cores between chunks are small: all are resident where they leave three quarters to the chunks, else they stream
 * through two buffers. */
static void fill_cores(StreamBudget *p, size_t left, size_t n, const StreamPart *parts, bool *resident)
{
    size_t chunk = p->chunks.buffer_bytes, core = p->cores.buffer_bytes,
           all = set_ring(&p->cores, false, p->cores.n, 0, n, parts, resident);
    if (all <= left / 4 && all + chunk <= left) return;
    set_ring(&p->cores, false, 0, 2 * (core + chunk) <= left ? 2 : 1, n, parts, resident);
}

Err *stream_budget(StreamBudget *budget, size_t limit, size_t fixed, size_t n, const StreamPart *parts, bool *resident)
{
    *budget = (StreamBudget){.limit_bytes = limit, .fixed_bytes = fixed};
    for (size_t i = 0; i < n; i++) (parts[i].chunk ? &budget->chunks : &budget->cores)->n++;
    budget->min_bytes = fixed + set_ring(&budget->cores, false, 0, 1, n, parts, NULL) +
                        set_ring(&budget->chunks, true, 0, 1, n, parts, NULL);
    if (limit < budget->min_bytes)
        return err_new(ERR_MEMORY, "weights need %s at least: embedding and head, and one part of a layer at a time",
                       BYTES(budget->min_bytes));
    size_t left = limit - fixed;
    if (budget->chunks.n == 0) {
        fill_ring(&budget->cores, false, left, n, parts, resident);
        return NULL;
    }
    fill_cores(budget, left, n, parts, resident);
    fill_ring(&budget->chunks, true, left - stream_budget_ring_bytes(&budget->cores), n, parts, resident);
    return NULL;
}

static int describe_ring(char *text, size_t capacity, const StreamRing *r, const char *what)
{
    int n = snprintf(text, capacity, "%zu of %zu %s resident (%s)", r->n_resident, r->n, what,
                     BYTES(r->resident_bytes));
    if (r->n_buffers)
        n += snprintf(text + n, capacity - (size_t)n, ", the others stream through %zu buffer%s of %s", r->n_buffers,
                      r->n_buffers == 1 ? "" : "s", BYTES(r->buffer_bytes));
    return n;
}

const char *stream_budget_describe(char text[STREAM_TEXT_BYTES], const StreamBudget *p)
{
    int n = describe_ring(text, STREAM_TEXT_BYTES, &p->cores, p->chunks.n ? "layers without their experts" : "layers");
    if (p->chunks.n == 0) return text;
    n += snprintf(text + n, (size_t)(STREAM_TEXT_BYTES - n), "; ");
    describe_ring(text + n, (size_t)(STREAM_TEXT_BYTES - n), &p->chunks, "expert chunks");
    return text;
}
