/* Weights of a model that is larger than memory: some parts are resident, the others are streamed through a few
 * buffers.
 *
 *     parts     layers, or where those are large their cores and expert chunks (model/stream_budget.h, stream_parts.h)
 *     order     forward through the layers, then backward: what is read last is needed first (model/stream_order.h)
 *     readers   threads that look ahead along the order and fill buffers (model/stream_policy.h says which)
 *
 * Transitions of a part, and who makes them:
 *
 *     missing    -- reader: assign, begin_load -->      being read
 *     being read -- reader: the last piece -->          in memory
 *     in memory  -- stream_acquire, acquire_chunk -->   held: its Weights point to the buffer
 *     held       -- stream_release, release_chunk -->   in memory: its Weights point into the mapping again
 *     in memory  -- reader: assign to another part -->  missing (never a resident part)
 *
 * What always holds:
 *   1. Between stream_acquire and stream_release the Weights of a layer's core point to its bytes in memory, outside
 *      into the mapping. The same holds for an expert chunk between acquire and release of the layer's `chunks`, inside
 *      the former.
 *   2. A buffer that anybody holds, or that the slowest rank needs before the part that would replace it, is not
 *      overwritten.
 *   3. Ranks of a host share memory and readers: each byte is read once, by the first of them (the leader).
 *   4. After an error of a reader, every acquire fails with its message.
 *   5. Nobody waits for ever: an acquire fails when a process of the host ends without a word, or when nothing has
 *      moved on the host for half an hour (model/stream_shared.h). */
#ifndef GRAFT_MODEL_STREAM_H
#define GRAFT_MODEL_STREAM_H

#include "model/host_memory.h"
#include "model/model.h"
#include "model/stream_budget.h"

typedef struct Stream Stream;

/* Move the model's weights from the mapping into at most limit_bytes of memory, in parts of at most part_bytes
 * (StreamBudget). host NULL: one process. The leader of several processes calls first. model_close ends it. */
MUST_USE Err *stream_open(Model *model, size_t limit_bytes, size_t part_bytes, HostRanks *host);
void stream_close(Stream *stream);

/* The order of the layers to come: forward, then backward down to `lowest`; n_layers: forward only. group_passes: how
 * often the experts of a layer are asked for while it is at work, the most of any rank. Unannounced passes are forward,
 * once. */
void stream_announce(Stream *stream, size_t lowest, size_t group_passes);

MUST_USE Err *stream_acquire(Stream *stream, size_t l);
void stream_release(Stream *stream, size_t l);

/* From now on this rank reads from the mapping, at its own pace, and no other rank waits for it: it may repeat layers
 * while the others stand elsewhere. Only embedding and head remain in memory. It cannot come back. */
void stream_leave(Stream *stream);

/* How long an acquire waits while nothing moves on the host; at first 1800 s. */
void stream_set_patience(Stream *stream, double seconds);

typedef struct {
    StreamBudget budget;
    size_t read_bytes;     /* by the leader's readers */
    double waited_seconds; /* of this process in acquire */
    bool direct;           /* every file so far */
} StreamStats;
StreamStats stream_stats(const Stream *stream);

#endif
