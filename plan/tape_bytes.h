/* What tapes take: the operations of every layer run on shapes alone, in pools that count (autograd/tape.h, counts).
 * So a plan has what operations ask for, block by block. Where documents may attend in two ways, it is the larger of
 * both. */
#ifndef GRAFT_PLAN_TAPE_BYTES_H
#define GRAFT_PLAN_TAPE_BYTES_H

#include "model/model.h"

typedef struct {
    size_t rows, T; /* tokens of the rank, tokens of the group at work */
    size_t longest; /* tokens of the longest document */
    size_t micro_batch_tokens;
    size_t threads;
    size_t kept_layers; /* topmost layers whose tapes are kept, of all groups */
} TapeWork;

/* Bytes of the tape at work and of the tapes that are kept.
 *   adapter   its parameters have a forest during the call, as in training, and none afterwards. NULL: forward only
 * Fails: as operations do on shapes that do not fit. */
MUST_USE Err *tapes_bytes(size_t *bytes, const Model *model, Adapter *adapter, const TapeWork *work);

/* Floats of a row of each layer [n_layers] that operations return and keep in the forward pass, in a document of n
 * tokens. */
MUST_USE Err *tapes_rows(size_t *floats, const Model *model, size_t n);

#endif
