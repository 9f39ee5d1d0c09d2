/* Sequences, generated token by token through the layer_forward that training uses. */
#ifndef GRAFT_INFER_GENERATE_H
#define GRAFT_INFER_GENERATE_H

#include "infer/sample.h"
#include "infer/session.h"

typedef struct {
    const int32_t *prompt;
    size_t n_prompt, max_new_tokens;
    const int32_t *stop; /* ids that end the sequence; they are not part of it */
    size_t n_stop;
    bool no_cache; /* recompute the whole sequence for every token: slow, for comparison */
    Sampling sampling;
    /* Called for every token, as soon as it is known. It returns false to end the sequence. May be NULL. */
    bool (*on_token)(void *context, int32_t token);
    void *context;
} Generation;

/* adapter NULL: the base. Owner of *tokens: the caller, until free(). Fails: ERR_DATA when the sequence would be longer
 * than max_position_embeddings. */
MUST_USE Err *generate(Model *model, const Adapter *adapter, const Generation *generation, int32_t **tokens,
                       size_t *n_tokens);

typedef struct {
    int32_t *tokens;
    double *log_probabilities; /* of the tokens, before any filter, in nats */
    size_t n, capacity;
    bool stopped; /* by a stop id or by on_token; else it reached max_new_tokens */
} Generated;

/* Many sequences: up to `at_once` take each step together, and the next begins when one ends. A sequence depends on its
 * own prompt, sampling and seed, never on the others.
 * group_tokens   that go through a layer together; 0: all
 * generated      [n] out; owner: the caller, generated_free */
MUST_USE Err *generate_all(Model *model, const Adapter *adapter, size_t n, const Generation *generations,
                           size_t at_once, size_t group_tokens, Generated *generated);
/* One sequence in a session of the caller's: the beginning of the prompt that is in the session's cache is not
 * recomputed.
 * Fails: ERR_DATA when prompt and max_new_tokens do not fit into it. */
MUST_USE Err *generate_in(Session *session, Model *model, const Adapter *adapter, const Generation *generation,
                          Generated *generated);

void generated_free(size_t n, Generated *generated);

#endif
