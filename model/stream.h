/* Weights of a model that is larger than memory: some layers stay, the rest passes through a few buffers.
 *
 *     memory   | embedding, head | resident layers, spread evenly | slot | slot | slot |
 *     order    0 1 2 ... L-1, L-1 ... lowest, then 0 1 2 ... again: what is read last on the way up is first on the way down
 *     readers  threads of their own look ahead along the order: the first layer that is missing goes into a free slot, or
 *              into the one whose layer is needed last, if that is later
 *
 * A layer's tensors of one shard lie together: they are read as few large aligned spans, directly (base/direct).
 *
 * What always holds:
 *   1. Between stream_acquire and stream_release a unit's Weights point to its bytes in memory, outside into the mapping.
 *   2. A slot that anybody holds, or that the slowest rank still needs before what would replace it, is not overwritten.
 *   3. Ranks of a host share memory and readers: each byte is read once, by the first of them (the leader).
 *   4. After an error of a reader, every acquire fails with its message. */
#ifndef GRAFT_MODEL_STREAM_H
#define GRAFT_MODEL_STREAM_H

#include "model/model.h"

typedef struct Stream Stream;

/* This process among those of its host. The leader makes the shared memory, others open it by the leader's process and
 * descriptor. */
typedef struct {
    int rank, size;  /* leader: rank 0 */
    int leader, fd;  /* of the leader: process id, descriptor of its memory; out for the leader, in for others */
} StreamHost;

/* What a limit buys. */
typedef struct {
    size_t limit_bytes;     /* what weights may take */
    size_t fixed_bytes;     /* embedding and head */
    size_t layer_bytes;     /* of all layers */
    size_t n_resident, resident_bytes;
    size_t n_slots, slot_bytes;
    size_t least_bytes;     /* the smallest limit that works: one slot */
    size_t pass_bytes;      /* that one pass over all layers must read, but for what slots save at the turns */
} StreamPlan;

/* The plan for a limit from the sizes of layers alone: [n] bytes each. resident [n] is filled; NULL: not wanted.
 * Fails: ERR_MEMORY when not even one slot fits; least_bytes is right then, too. */
MUST_USE Err *stream_plan(StreamPlan *plan, size_t limit_bytes, size_t fixed_bytes, size_t n, const size_t *bytes, bool *resident);

/* Bytes [n_layers + 1] that each layer takes in memory; the last: embedding and head. */
MUST_USE Err *stream_sizes(Model *model, size_t *bytes);

/* Move the model's weights from the mapping into at most limit_bytes of memory. host NULL: one process.
 * model_close ends it. The leader of several calls first. */
MUST_USE Err *stream_open(Model *model, size_t limit_bytes, StreamHost *host);
void stream_close(Stream *stream);

/* The order of the layers to come: up, then down to `lowest`; n_layers: up only. Not said: up, again and again. */
void stream_walk(Stream *stream, size_t lowest);

MUST_USE Err *stream_acquire(Stream *stream, size_t l);
void stream_release(Stream *stream, size_t l);

typedef struct {
    StreamPlan plan;
    size_t read_bytes;      /* by the leader's readers */
    double waited_seconds;  /* of this process in acquire */
    bool direct;            /* every file so far */
} StreamStats;
StreamStats stream_stats(const Stream *stream);

#endif
