/* Sequences that grow: their tokens, and what the cache holds of them. Many go through the layers together, and none
 * depends on the others: its logits have the same bits in any company. */
#ifndef GRAFT_INFER_SESSION_H
#define GRAFT_INFER_SESSION_H

#include "infer/cache.h"

typedef struct {
    int32_t *ids;       /* [capacity] */
    size_t n, capacity; /* tokens of the sequence; the most it may hold */
    size_t seen;        /* tokens that the cache holds: 0 .. seen - 1 */
    bool cached;        /* false: every step recomputes all of it */
    Cache cache;
} Session;

/* Fails: ERR_DATA beyond max_position_embeddings. */
MUST_USE Err *session_open(Session *session, Model *model, size_t capacity, bool cached);
void session_close(Session *session); /* an empty (all zero) Session is valid */

/* Make the sequence these n tokens, n <= capacity; the cache keeps their common beginning. */
void session_set(Session *session, size_t n, const int32_t *ids);

/* The tapes of steps, kept from one to the next. An empty (all zero) one is valid. */
typedef struct {
    Tape tape, head;
    size_t group_tokens; /* that go through a layer together; 0: all. Never changes a bit */
} SessionWorkspace;
void session_workspace_free(SessionWorkspace *workspace);

/* Run the new tokens of n sessions (one at least each) through the model; logits [n][V] follow each sequence's last
 * token. */
MUST_USE Err *sessions_step(SessionWorkspace *workspace, Model *model, const Adapter *adapter, size_t n,
                            Session *const *sessions, float *logits);

#endif
