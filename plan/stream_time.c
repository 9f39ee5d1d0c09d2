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

static size_t n_layers(const Simulation *sim) { return sim->input->parts->n_layers; }
static const size_t *first_parts(const Simulation *sim) { return sim->input->parts->first; }

static BufferView view_buffer(const void *context, size_t i)
{
    const Simulation *sim = context;
    const Buffer *b = &sim->buffers[i];
    return (BufferView){b->part, b->chunk, !b->full, b->full && b->part == sim->core};
}

static long view_place(const void *context, size_t part)
{
    return ((const Simulation *)context)->ready[part] < INFINITY ? PART_IN_MEMORY : PART_MISSING;
}

/* Begin to read the part that is next; false: the readers wait. */
static bool read_one(Simulation *sim)
{
    const StreamedParts *parts = sim->input->parts;
    StreamView view = {parts, &sim->order, sim->n_buffers, false, sim, view_buffer, view_place};
    size_t part, i;
    if (!stream_policy_next(&view, sim->visit, &part, &i)) return false;
    if (sim->buffers[i].full) sim->ready[sim->buffers[i].part] = INFINITY;
    sim->buffers[i] = (Buffer){part, parts->parts[part].chunk, true};
    sim->disk += (double)parts->parts[part].bytes / sim->input->bytes_per_second;
    sim->ready[part] = sim->disk;
    return true;
}

/* Arithmetic, while readers work as long as they find something. */
static void play_arithmetic(Simulation *sim, double seconds)
{
    sim->clock += seconds;
    while (sim->disk < sim->clock)
        if (!read_one(sim)) sim->disk = sim->clock;
}

/* Until the part is in memory; readers go on meanwhile. */
static void wait_for_part(Simulation *sim, size_t part)
{
    while (!(sim->ready[part] < INFINITY) && read_one(sim)) continue;
    if (sim->ready[part] > sim->clock && sim->ready[part] < INFINITY) sim->clock = sim->ready[part];
}

/* The chunks of a layer once: rising in the forward pass, falling in the backward pass. */
static void play_chunks(Simulation *sim, size_t l, bool backward, double seconds)
{
    size_t core = first_parts(sim)[l], n = first_parts(sim)[l + 1] - core - 1;
    for (size_t i = 0; i < n; i++, sim->visit++) {
        wait_for_part(sim, core + 1 + (backward ? n - 1 - i : i));
        play_arithmetic(sim, seconds / (double)n);
    }
    if (n == 0) play_arithmetic(sim, seconds);
}

static void play_layer(Simulation *sim, size_t l, bool backward)
{
    const LayerSeconds *s = &sim->input->layers[l];
    size_t core = first_parts(sim)[l];
    wait_for_part(sim, core);
    sim->core = core;
    sim->visit++;
    for (size_t group_pass = 0; group_pass < sim->input->group_passes; group_pass++) {
        double each = 1 / (double)sim->input->group_passes;
        play_arithmetic(sim, each * (backward ? s->core_recompute : s->core_forward));
        play_chunks(sim, l, backward, each * (backward ? s->experts_backward : s->experts_forward));
        if (backward) play_arithmetic(sim, each * s->core_backward);
    }
    sim->core = SIZE_MAX;
}

static void play_step(Simulation *sim)
{
    sim->order.passes[sim->order.n++ % ORDER_PASSES] = (OrderPass){sim->visit, sim->input->lowest,
                                                                   sim->input->group_passes};
    for (size_t l = 0; l < n_layers(sim); l++) play_layer(sim, l, false);
    play_arithmetic(sim, sim->input->head);
    for (size_t l = n_layers(sim); l-- > sim->input->lowest;) play_layer(sim, l, true);
}

static void add_buffers(Simulation *sim, const StreamRing *ring, bool chunk)
{
    for (size_t i = 0; i < ring->n_buffers && sim->n_buffers < MAX_BUFFERS; i++)
        sim->buffers[sim->n_buffers++] = (Buffer){.chunk = chunk};
}

Err *stream_time(double *seconds, const StreamTimeInput *input)
{
    Simulation sim = {.input = input, .core = SIZE_MAX};
    TRY(mem_new(&sim.ready, input->parts->n, sizeof *sim.ready));
    for (size_t p = 0; p < input->parts->n; p++) sim.ready[p] = input->resident[p] ? 0 : INFINITY;
    add_buffers(&sim, &input->budget->cores, false);
    add_buffers(&sim, &input->budget->chunks, true);
    double began = 0;
    for (int i = 0; i < STEPS; i++) {
        began = sim.clock;
        play_step(&sim);
    }
    *seconds = sim.clock - began;
    free(sim.ready);
    return NULL;
}
