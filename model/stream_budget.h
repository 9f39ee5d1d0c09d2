/* What a memory limit buys for a model's weights, from sizes alone.
 *
 *     layer    core (attention, norms, router, dense or shared MLP) | expert chunk | expert chunk | ...
 *     memory   embedding, head | resident parts, spread evenly | ring of buffers for cores | ring of buffers for chunks
 *
 * A layer that is small beside the limit is one part, a core with its experts in it. Otherwise its experts are cut into
 * chunks, which stream while the layer is at work (autograd/op.h, ExpertChunks). */
#ifndef GRAFT_MODEL_STREAM_BUDGET_H
#define GRAFT_MODEL_STREAM_BUDGET_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { STREAM_MIN_CHUNK = 8 }; /* experts; threads must have something to share */
#define STREAM_WHOLE SIZE_MAX

/* A layer's bytes: all but its experts, and those, one like another. */
typedef struct {
    size_t core, expert, n_experts;
} StreamLayer;

typedef struct {
    size_t bytes;
    bool chunk; /* of experts; else a core */
} StreamPart;

/* Parts of one kind: some are resident, the others stream through buffers as large as the largest of them. */
typedef struct {
    size_t n, n_resident, resident_bytes;
    size_t n_buffers, buffer_bytes;
    size_t streamed_bytes; /* of the others */
} StreamRing;

typedef struct {
    size_t limit_bytes; /* what weights may take */
    size_t part_bytes;  /* the limit of a part of a layer; STREAM_WHOLE: layers are not cut */
    size_t fixed_bytes; /* embedding and head */
    size_t min_bytes;   /* the smallest limit that works with these parts */
    StreamRing cores, chunks;
} StreamBudget;

/* Into how many chunks a layer's experts are cut when a part may take max_bytes; 0: the layer is one part. */
size_t stream_budget_chunks(const StreamLayer *layer, size_t max_bytes);

/* The limit of a part: an eighth of what is left for layers, halved until a core and a chunk fit. */
size_t stream_budget_part_max(size_t left, size_t n, const StreamLayer *layers);

/* The budget for parts in the order of their layers. resident [n] is filled; NULL: not wanted.
 * Fails: ERR_MEMORY when not even one buffer of each kind fits; min_bytes is right then, too. */
MUST_USE Err *stream_budget(StreamBudget *budget, size_t limit_bytes, size_t fixed_bytes, size_t n,
                            const StreamPart *parts, bool *resident);

/* "21 of 21 layers without their experts resident (1.2 GiB); 5 of 40 expert chunks resident (3.7 GiB), the others
 * stream through 3 buffers of 766 MiB". */
enum { STREAM_TEXT_BYTES = 256 };
const char *stream_budget_describe(char text[STREAM_TEXT_BYTES], const StreamBudget *budget);

/* Memory that it takes, and all weights of layers. */
static inline size_t stream_budget_ring_bytes(const StreamRing *r)
{
    return r->resident_bytes + r->n_buffers * r->buffer_bytes;
}
static inline size_t stream_budget_bytes(const StreamBudget *p)
{
    return p->fixed_bytes + stream_budget_ring_bytes(&p->cores) + stream_budget_ring_bytes(&p->chunks);
}
static inline size_t stream_budget_layer_bytes(const StreamBudget *p)
{
    return p->cores.resident_bytes + p->cores.streamed_bytes + p->chunks.resident_bytes + p->chunks.streamed_bytes;
}

#endif
