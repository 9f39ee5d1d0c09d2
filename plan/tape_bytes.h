/* What tapes take: the operations of every layer run on shapes alone, in pools that count (autograd/tape.h, counts). So what is
 * planned is what is asked for, block by block; where documents may attend in two ways, the more of both. */
#ifndef GRAFT_PLAN_TAPE_BYTES_H
#define GRAFT_PLAN_TAPE_BYTES_H

#include "model/model.h"

typedef struct {
    size_t rows, T; /* of the rank, of a group at work */
    size_t longest; /* tokens of the longest document */
    size_t micro_batch_tokens;
    size_t threads;
    size_t kept_layers; /* topmost layers whose tapes are kept, those of all groups */
} TapeWork;

/* Bytes of the tape at work and of those kept. adapter NULL: upward only. */
MUST_USE Err *tapes_bytes(size_t *bytes, const Model *model, const Adapter *adapter, const TapeWork *work);

/* Floats of a row of each layer [n_layers] that operations return and keep on the way up, in a document of n tokens. */
MUST_USE Err *tapes_rows(size_t *floats, const Model *model, size_t n);

#endif
