/* What the ranks of a host share of a stream (model/stream.h): its state, the lock, and waiting for a change.
 *
 *     a mapping    StreamShared | buffers | buffer of each part | bytes of the buffers
 *
 * What always holds:
 *   1. Everything here is read and written with the lock. Whoever changes what others may wait for calls
 *      shared_changed.
 *   2. A wait ends after a second at most. Then it looks whether a process of the host has ended without a word.
 *   3. A process that ends with the lock blocks nobody: the next one gets the lock, and the stream has failed.
 *   4. Once the stream has failed, it keeps its first message. */
#ifndef GRAFT_MODEL_STREAM_SHARED_H
#define GRAFT_MODEL_STREAM_SHARED_H

#include "base/err.h"
#include "model/stream_order.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum { SHARED_MAX_RANKS = 256, SHARED_MESSAGE_BYTES = 1024 };

/* In StreamRank: holds no layer; has left, and holds nobody up. */
#define SHARED_NO_LAYER SIZE_MAX
#define SHARED_LEFT     SIZE_MAX

typedef enum { BUFFER_EMPTY, BUFFER_LOADING, BUFFER_READY } BufferState;

typedef struct {
    BufferState state;
    bool resident, chunk; /* never overwritten; for expert chunks */
    size_t part, at, holders;
    size_t taken, done; /* pieces */
} StreamBuffer;

typedef struct {
    int process;  /* 0: not there yet, or gone in order */
    size_t place; /* visit it is at, or SHARED_LEFT */
    size_t said;  /* passes it has announced */
    size_t layer; /* that it holds, or SHARED_NO_LAYER */
} StreamRank;

typedef struct {
    pthread_mutex_t lock;
    uint32_t changes, sleepers; /* count of changes, a futex; processes that wait for it */
    bool closing, failed, direct;
    ErrKind kind;
    char message[SHARED_MESSAGE_BYTES];
    size_t read_bytes;
    Order order;
    int n_ranks;
    StreamRank ranks[SHARED_MAX_RANKS];
    size_t n_buffers;
    StreamBuffer buffers[]; /* then [n + 1] the buffer of each part, or nowhere */
} StreamShared;

/* Of zeros that all ranks see: the leader calls, before anybody else uses it. */
void shared_init(StreamShared *shared, int n_ranks);

void shared_lock(StreamShared *shared);
void shared_unlock(StreamShared *shared);

/* Wake everybody who waits. Lock held. */
void shared_changed(StreamShared *shared);

/* Give up the lock until something changes, a second at most. false: nothing did. The stream fails when a process of
 * the host has ended without a word. Lock held, also afterwards. */
bool shared_wait(StreamShared *shared);

/* From now on every acquire fails with this error. Takes err. Lock held. */
void shared_fail(StreamShared *shared, Err *err);

/* The error of a rank of the host that waited so long for a layer (SHARED_NO_LAYER: embedding and head) while nothing
 * moved: says what holds it up. Lock held. */
Err *shared_stuck(const StreamShared *shared, int rank, size_t layer, double seconds);

/* The rank whose place comes first, of those that have not left, `except` aside; -1: none. Lock held. */
int shared_slowest(const StreamShared *shared, int except);

#endif
