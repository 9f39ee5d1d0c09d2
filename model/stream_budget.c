/* Why a resident share, and spread evenly: were the whole memory one ring, readers would have nothing to do while the walk
 * passes the parts that are still there around its turns, and everything to do in between. */
#include "model/stream_budget.h"

#include "base/byte_size.h"

#include <stdio.h>

size_t stream_budget_chunks(const StreamLayer *layer, size_t most)
{
    size_t experts = layer->n_experts * layer->expert;
    if (layer->core + experts <= most || layer->n_experts <= STREAM_MIN_CHUNK) return 0;
    size_t fit = most / layer->expert, per_run = fit > STREAM_MIN_CHUNK ? fit : STREAM_MIN_CHUNK;
    return (layer->n_experts + per_run - 1) / per_run;
}

static bool fits(size_t most, size_t left, size_t n, const StreamLayer *layers)
{
    size_t core = 0, chunk = 0;
    for (size_t l = 0; l < n; l++) {
        size_t chunks = stream_budget_chunks(&layers[l], most),
               experts = chunks ? (layers[l].n_experts + chunks - 1) / chunks : 0;
        size_t bytes = layers[l].core + (chunks ? 0 : layers[l].n_experts * layers[l].expert);
        if (bytes > core) core = bytes;
        if (experts * layers[l].expert > chunk) chunk = experts * layers[l].expert;
    }
    return core + chunk <= left;
}

size_t stream_budget_part_max(size_t left, size_t n, const StreamLayer *layers)
{
    size_t most = left / 8;
    while (most > 0 && !fits(most, left, n, layers)) most /= 2;
    return most;
}

/* The i-th of n stays when r of them do. */
static bool stays(size_t i, size_t r, size_t n) { return (i + 1) * r / n != i * r / n; }

/* The ring of one kind of parts when r of them stay; returns the memory that it takes. */
static size_t set_ring(StreamRing *ring, bool chunk, size_t r, size_t buffers, size_t n, const StreamPart *parts,
                       bool *resident)
{
    size_t at = 0, of = ring->n;
    *ring = (StreamRing){.n = of, .n_resident = r};
    for (size_t i = 0; i < n; i++) {
        if (parts[i].chunk != chunk) continue;
        bool stay = stays(at++, r, of);
        if (stay)
            ring->resident_bytes += parts[i].bytes;
        else
            ring->streamed_bytes += parts[i].bytes;
        if (!stay && parts[i].bytes > ring->buffer_bytes) ring->buffer_bytes = parts[i].bytes;
        if (resident) resident[i] = stay;
    }
    ring->n_buffers = buffers < of - r ? buffers : of - r;
    return stream_budget_ring_bytes(ring);
}

/* Three slots hide the unevenness of a disk, two let reading and computing overlap, one works. Three only where they leave
 * half of the memory to what stays. */
static void fill_ring(StreamRing *ring, bool chunk, size_t left, size_t n, const StreamPart *parts, bool *resident)
{
    size_t buffers = 1, r = ring->n;
    set_ring(ring, chunk, 0, 1, n, parts, NULL);
    if (2 * ring->buffer_bytes <= left) buffers = 2;
    if (6 * ring->buffer_bytes <= left) buffers = 3;
    while (r > 0 && set_ring(ring, chunk, r, buffers, n, parts, NULL) > left) r--;
    set_ring(ring, chunk, r, buffers, n, parts, resident);
}

/* Cores between runs are small: all stay where they leave three quarters to the runs, else two slots pass them. */
static void fill_cores(StreamBudget *p, size_t left, size_t n, const StreamPart *parts, bool *resident)
{
    size_t chunk = p->chunks.buffer_bytes, core = p->cores.buffer_bytes,
           all = set_ring(&p->cores, false, p->cores.n, 0, n, parts, resident);
    if (all <= left / 4 && all + chunk <= left) return;
    set_ring(&p->cores, false, 0, 2 * (core + chunk) <= left ? 2 : 1, n, parts, resident);
}

Err *stream_budget(StreamBudget *plan, size_t limit, size_t fixed, size_t n, const StreamPart *parts, bool *resident)
{
    *plan = (StreamBudget){.limit_bytes = limit, .fixed_bytes = fixed};
    for (size_t i = 0; i < n; i++) (parts[i].chunk ? &plan->chunks : &plan->cores)->n++;
    plan->least_bytes = fixed + set_ring(&plan->cores, false, 0, 1, n, parts, NULL) +
                        set_ring(&plan->chunks, true, 0, 1, n, parts, NULL);
    if (limit < plan->least_bytes)
        return err_new(ERR_MEMORY, "weights need %s at least: embedding and head, and one part of a layer at a time",
                       BYTES(plan->least_bytes));
    size_t left = limit - fixed;
    if (plan->chunks.n == 0) {
        fill_ring(&plan->cores, false, left, n, parts, resident);
        return NULL;
    }
    fill_cores(plan, left, n, parts, resident);
    fill_ring(&plan->chunks, true, left - stream_budget_ring_bytes(&plan->cores), n, parts, resident);
    return NULL;
}

static int describe_ring(char *text, size_t room, const StreamRing *r, const char *what)
{
    int n = snprintf(text, room, "%zu of %zu %s stay (%s)", r->n_resident, r->n, what, BYTES(r->resident_bytes));
    if (r->n_buffers)
        n += snprintf(text + n, room - (size_t)n, ", the others pass through %zu slot%s of %s", r->n_buffers,
                      r->n_buffers == 1 ? "" : "s", BYTES(r->buffer_bytes));
    return n;
}

const char *stream_budget_describe(char text[STREAM_TEXT_BYTES], const StreamBudget *p)
{
    int n = describe_ring(text, STREAM_TEXT_BYTES, &p->cores, p->chunks.n ? "layers without their experts" : "layers");
    if (p->chunks.n == 0) return text;
    n += snprintf(text + n, (size_t)(STREAM_TEXT_BYTES - n), "; ");
    describe_ring(text + n, (size_t)(STREAM_TEXT_BYTES - n), &p->chunks, "runs of experts");
    return text;
}
