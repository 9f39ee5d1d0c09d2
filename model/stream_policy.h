/* What is read next, and into which buffer: the policy of streaming, as pure functions. The reader threads
 * (model/stream.c) and the plan of a step's time (plan/stream_time.c) both ask here, so a plan decides as a run does.
 *
 *     next part     the first along the order (model/stream_order.h) that is not in memory and finds a buffer
 *     its buffer    of its kind: an empty one, else the one whose part is needed last, if later than the new part */
#ifndef GRAFT_MODEL_STREAM_POLICY_H
#define GRAFT_MODEL_STREAM_POLICY_H

#include "model/stream_order.h"
#include "model/stream_parts.h"

/* What the policy has to know of a buffer. */
typedef struct {
    size_t part; /* that it holds; undefined when it is empty */
    bool chunk;  /* for expert chunks; else for cores */
    bool empty;
    bool in_use; /* may not be overwritten: a rank holds it, it is being filled, or its part is resident */
} BufferView;

enum {
    PART_IN_MEMORY = -1,
    PART_MISSING = -2
}; /* else a number: the buffer that is reserved for the part, and empty */

/* A state of streaming. Functions get its context. */
typedef struct {
    const StreamedParts *parts;
    const Order *order;
    size_t n_buffers;
    bool any_reserved; /* some part has a reserved buffer: a resident one that was not read yet */
    const void *context;
    BufferView (*buffer)(const void *context, size_t i);
    long (*place)(const void *context, size_t part); /* PART_IN_MEMORY, PART_MISSING or the reserved buffer */
} StreamView;

/* The buffer of a kind that can best be overwritten for a part that is needed at `visit`, as seen from visit `from`.
 * false: none, every part in memory is needed sooner. */
bool stream_policy_buffer(const StreamView *view, bool chunk, size_t from, size_t visit, size_t *buffer);

/* The part to read next, as seen from visit `from`, and the buffer to read it into. false: nothing is to be read
 * now. */
bool stream_policy_next(const StreamView *view, size_t from, size_t *part, size_t *buffer);

#endif
