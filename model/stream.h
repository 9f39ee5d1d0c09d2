/* Weights of a model that is larger than memory: some parts stay, the rest passes through a few buffers.
 *
 *     parts    layers, or where those are large their cores and runs of experts (model/stream_budget.h)
 *     order    up the layers, then down, then up again: what is read last is the first needed again (model/stream_order.h)
 *     readers  threads of their own look ahead along the order: the first part that is missing goes into a free slot of its
 *              kind, or into the one whose part is needed last, if that is later
 *
 * What always holds:
 *   1. Between stream_acquire and stream_release the Weights of a layer's core point to its bytes in memory, outside into the
 *      mapping; those of a run of experts between acquire and release of the layer's `runs`, inside of those.
 *   2. A slot that anybody holds, or that the slowest rank still needs before what would replace it, is not overwritten.
 *   3. Ranks of a host share memory and readers: each byte is read once, by the first of them (the leader).
 *   4. After an error of a reader, every acquire fails with its message. */
#ifndef GRAFT_MODEL_STREAM_H
#define GRAFT_MODEL_STREAM_H

#include "model/model.h"
#include "model/stream_budget.h"

typedef struct Stream Stream;

/* This process among those of its host. The leader makes the shared memory, others open it by the leader's process and
 * descriptor. */
typedef struct {
    int rank, size; /* leader: rank 0 */
    int leader, fd; /* of the leader: process id, descriptor of its memory; out for the leader, in for others */
} StreamHost;

/* Move the model's weights from the mapping into at most limit_bytes of memory, in parts of part_bytes at the most (StreamBudget).
 * host NULL: one process.
 * model_close ends it. The leader of several calls first. */
MUST_USE Err *stream_open(Model *model, size_t limit_bytes, size_t part_bytes, StreamHost *host);
void stream_close(Stream *stream);

/* The order of the layers to come: up, then down to `lowest`; n_layers: up only. laps: how often their experts are asked for
 * while a layer is at work, the most of any rank. Not said: up, again and again, once. */
void stream_announce(Stream *stream, size_t lowest, size_t group_passes);

MUST_USE Err *stream_acquire(Stream *stream, size_t l);
void stream_release(Stream *stream, size_t l);

typedef struct {
    StreamBudget plan;
    size_t read_bytes;     /* by the leader's readers */
    double waited_seconds; /* of this process in acquire */
    bool direct;           /* every file so far */
} StreamStats;
StreamStats stream_stats(const Stream *stream);

#endif
