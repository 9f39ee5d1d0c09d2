/* Texts that grow: their tokens, and what the cache holds of them. Many of them go through the layers together, and none
 * knows of the others: its logits have the same bits in any company. */
#ifndef GRAFT_INFER_SESSION_H
#define GRAFT_INFER_SESSION_H

#include "infer/cache.h"

typedef struct {
    int32_t *ids;       /* [capacity] */
    size_t n, capacity; /* tokens of the text; the most it may hold */
    size_t seen;        /* tokens that the cache holds: 0 .. seen - 1 */
    bool cached;        /* false: everything is computed again at every step */
    Cache cache;
} Session;

/* Fails: ERR_DATA beyond max_position_embeddings. */
MUST_USE Err *session_open(Session *session, Model *model, size_t capacity, bool cached);
void session_close(Session *session); /* an empty (all zero) Session is valid */

/* Make the text these n tokens, n <= capacity; what the cache holds of their common beginning stays. */
void session_set(Session *session, size_t n, const int32_t *ids);

/* Tapes and scratch for steps, kept from one to the next. An empty (all zero) Stepper is valid. */
typedef struct {
    Tape tape, head;
    size_t group_tokens; /* run through a layer together; 0: all. Never changes a bit */
} Stepper;
void stepper_free(Stepper *stepper);

/* Run the new tokens of n sessions (one at least each) through the model; logits [n][V] are those after each text's end. */
MUST_USE Err *sessions_step(Stepper *stepper, Model *model, const Adapter *adapter, size_t n, Session *const *sessions,
                            float *logits);

#endif
