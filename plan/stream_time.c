#include "plan/stream_time.h"

#include "base/memory.h"
#include "base/minmax.h"
#include "model/stream_order.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_BUFFERS = 8, STEPS = 3 }; /* the last of them is like all that follow */

typedef struct {
    size_t part;
    bool chunk, full;
} Place;

typedef struct {
    const StreamTimeInput *work;
    Order order;
    size_t n_buffers;
    Place buffers[MAX_BUFFERS];
    double *ready;      /* [n] when a part is there; INFINITY: it is not asked for yet */
    double disk, clock; /* until when each is busy */
    size_t visit;       /* at work, or waited for */
    size_t core;        /* borrowed meanwhile */
} Walk;

static size_t layers(const Walk *w) { return w->work->parts->n_layers; }
static const size_t *first(const Walk *w) { return w->work->parts->first; }
static size_t next_use(const Walk *w, size_t from, size_t part)
{
    return order_next(&w->order, layers(w), first(w), from, part);
}

/* As spare_buffer of model/stream.c. */
static Place *spare(Walk *w, bool chunk, size_t visit)
{
    Place *best = NULL;
    size_t latest = visit;
    for (size_t i = 0; i < w->n_buffers; i++) {
        Place *buffer = &w->buffers[i];
        if (buffer->chunk != chunk || (buffer->full && buffer->part == w->core)) continue;
        if (!buffer->full) return buffer;
        size_t use = next_use(w, w->visit, buffer->part);
        if (use <= latest) continue;
        latest = use;
        best = buffer;
    }
    return best;
}

/* Begin to read the first part that is missing and has a slot; false: readers rest. */
static bool read_one(Walk *w)
{
    const StreamedParts *parts = w->work->parts;
    bool full[2] = {false, false};
    for (size_t visit = w->visit; visit < w->visit + 2 * parts->n && !(full[0] && full[1]); visit++) {
        size_t part = order_part(&w->order, layers(w), first(w), visit);
        bool chunk = parts->parts[part].chunk;
        if (w->ready[part] < INFINITY || full[chunk]) continue;
        Place *buffer = spare(w, chunk, visit);
        full[chunk] = !buffer;
        if (!buffer) continue;
        if (buffer->full) w->ready[buffer->part] = INFINITY;
        *buffer = (Place){part, chunk, true};
        w->disk += (double)parts->parts[part].bytes / w->work->bytes_per_second;
        w->ready[part] = w->disk;
        return true;
    }
    return false;
}

/* Arithmetic, while readers work as long as they find something. */
static void compute(Walk *w, double seconds)
{
    w->clock += seconds;
    while (w->disk < w->clock)
        if (!read_one(w)) w->disk = w->clock;
}

static void need(Walk *w, size_t part)
{
    while (!(w->ready[part] < INFINITY) && read_one(w)) continue;
    if (w->ready[part] > w->clock && w->ready[part] < INFINITY) w->clock = w->ready[part];
}

/* Runs of a layer once, rising or falling. */
static void pass_runs(Walk *w, size_t l, bool down, double seconds)
{
    size_t core = first(w)[l], n = first(w)[l + 1] - core - 1;
    for (size_t i = 0; i < n; i++, w->visit++) {
        need(w, core + 1 + (down ? n - 1 - i : i));
        compute(w, seconds / (double)n);
    }
    if (n == 0) compute(w, seconds);
}

static void pass_layer(Walk *w, size_t l, bool down)
{
    const LayerSeconds *s = &w->work->layers[l];
    size_t core = first(w)[l];
    need(w, core);
    w->core = core;
    w->visit++;
    for (size_t group_pass = 0; group_pass < w->work->group_passes; group_pass++) {
        double each = 1 / (double)w->work->group_passes;
        compute(w, each * (down ? s->core_recompute : s->core_forward));
        pass_runs(w, l, down, each * (down ? s->experts_backward : s->experts_forward));
        if (down) compute(w, each * s->core_backward);
    }
    w->core = SIZE_MAX;
}

static void step(Walk *w)
{
    OrderPass walk = {w->visit, w->work->lowest, w->work->group_passes};
    w->order.passes[w->order.n++ % ORDER_PASSES] = walk;
    for (size_t l = 0; l < layers(w); l++) pass_layer(w, l, false);
    compute(w, w->work->head);
    for (size_t l = layers(w); l-- > w->work->lowest;) pass_layer(w, l, true);
}

static void add_slots(Walk *w, const StreamRing *ring, bool chunk)
{
    for (size_t i = 0; i < ring->n_buffers && w->n_buffers < MAX_BUFFERS; i++)
        w->buffers[w->n_buffers++] = (Place){.chunk = chunk};
}

Err *stream_time(double *seconds, const StreamTimeInput *work)
{
    Walk w = {.work = work, .core = SIZE_MAX};
    TRY(mem_new(&w.ready, work->parts->n, sizeof *w.ready));
    for (size_t p = 0; p < work->parts->n; p++) w.ready[p] = work->resident[p] ? 0 : INFINITY;
    add_slots(&w, &work->plan->cores, false);
    add_slots(&w, &work->plan->chunks, true);
    double began = 0;
    for (int i = 0; i < STEPS; i++) {
        began = w.clock;
        step(&w);
    }
    *seconds = w.clock - began;
    free(w.ready);
    return NULL;
}
