/* A step is played with two clocks: `clock` for arithmetic, `disk` for reading. Passes over layers go visit by
 * visit, as model/stream_order.h orders them; what is read next is decided by the policy of a real run
 * (model/stream_policy.h). Reading and arithmetic overlap as far as buffers allow. */
#include "plan/stream_time.h"

#include "base/memory.h"
#include "base/minmax.h"
#include "model/stream_order.h"
#include "model/stream_policy.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_BUFFERS = 8, STEPS = 3 }; /* the last step is like all that follow */

typedef struct {
    size_t part;
    bool chunk, full;
} Buffer;

typedef struct {
    const StreamTimeInput *input;
    Order order;
    size_t n_buffers;
    Buffer buffers[MAX_BUFFERS];
    double *ready;      /* [n] when a part is in memory; INFINITY: it is not asked for yet */
    double disk, clock; /* until when each is busy */
    size_t visit;       /* at work, or waited for */
    size_t core;        /* the part that is held meanwhile */
} Simulation;

static size_t layers(const Simulation *w) { return w->input->parts->n_layers; }
static const size_t *first(const Simulation *w) { return w->input->parts->first; }

static BufferView view_buffer(const void *context, size_t i)
{
    const Simulation *w = context;
    const Buffer *b = &w->buffers[i];
    return (BufferView){b->part, b->chunk, !b->full, b->full && b->part == w->core};
}

static long view_place(const void *context, size_t part)
{
    return ((const Simulation *)context)->ready[part] < INFINITY ? PART_IN_MEMORY : PART_MISSING;
}

/* Begin to read the part that is next; false: the readers wait. */
static bool read_one(Simulation *w)
{
    const StreamedParts *parts = w->input->parts;
    StreamView view = {parts, &w->order, w->n_buffers, false, w, view_buffer, view_place};
    size_t part, i;
    if (!stream_policy_next(&view, w->visit, &part, &i)) return false;
    if (w->buffers[i].full) w->ready[w->buffers[i].part] = INFINITY;
    w->buffers[i] = (Buffer){part, parts->parts[part].chunk, true};
    w->disk += (double)parts->parts[part].bytes / w->input->bytes_per_second;
    w->ready[part] = w->disk;
    return true;
}

/* Arithmetic, while readers work as long as they find something. */
static void compute(Simulation *w, double seconds)
{
    w->clock += seconds;
    while (w->disk < w->clock)
        if (!read_one(w)) w->disk = w->clock;
}

static void need(Simulation *w, size_t part)
{
    while (!(w->ready[part] < INFINITY) && read_one(w)) continue;
    if (w->ready[part] > w->clock && w->ready[part] < INFINITY) w->clock = w->ready[part];
}

/* The chunks of a layer once: rising in the forward pass, falling in the backward pass. */
static void pass_chunks(Simulation *w, size_t l, bool backward, double seconds)
{
    size_t core = first(w)[l], n = first(w)[l + 1] - core - 1;
    for (size_t i = 0; i < n; i++, w->visit++) {
        need(w, core + 1 + (backward ? n - 1 - i : i));
        compute(w, seconds / (double)n);
    }
    if (n == 0) compute(w, seconds);
}

static void pass_layer(Simulation *w, size_t l, bool backward)
{
    const LayerSeconds *s = &w->input->layers[l];
    size_t core = first(w)[l];
    need(w, core);
    w->core = core;
    w->visit++;
    for (size_t group_pass = 0; group_pass < w->input->group_passes; group_pass++) {
        double each = 1 / (double)w->input->group_passes;
        compute(w, each * (backward ? s->core_recompute : s->core_forward));
        pass_chunks(w, l, backward, each * (backward ? s->experts_backward : s->experts_forward));
        if (backward) compute(w, each * s->core_backward);
    }
    w->core = SIZE_MAX;
}

static void step(Simulation *w)
{
    w->order.passes[w->order.n++ % ORDER_PASSES] = (OrderPass){w->visit, w->input->lowest, w->input->group_passes};
    for (size_t l = 0; l < layers(w); l++) pass_layer(w, l, false);
    compute(w, w->input->head);
    for (size_t l = layers(w); l-- > w->input->lowest;) pass_layer(w, l, true);
}

static void add_buffers(Simulation *w, const StreamRing *ring, bool chunk)
{
    for (size_t i = 0; i < ring->n_buffers && w->n_buffers < MAX_BUFFERS; i++)
        w->buffers[w->n_buffers++] = (Buffer){.chunk = chunk};
}

Err *stream_time(double *seconds, const StreamTimeInput *input)
{
    Simulation w = {.input = input, .core = SIZE_MAX};
    TRY(mem_new(&w.ready, input->parts->n, sizeof *w.ready));
    for (size_t p = 0; p < input->parts->n; p++) w.ready[p] = input->resident[p] ? 0 : INFINITY;
    add_buffers(&w, &input->budget->cores, false);
    add_buffers(&w, &input->budget->chunks, true);
    double began = 0;
    for (int i = 0; i < STEPS; i++) {
        began = w.clock;
        step(&w);
    }
    *seconds = w.clock - began;
    free(w.ready);
    return NULL;
}
