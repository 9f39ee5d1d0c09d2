/* Tapes of the topmost layers that are kept from the forward to the backward pass, one for each layer and group. */
#ifndef GRAFT_TRAIN_KEPT_TAPES_H
#define GRAFT_TRAIN_KEPT_TAPES_H

#include "autograd/tape.h"

typedef struct {
    Tape tape;
    Tensor *in, *out; /* the layer's, of the tape */
} KeptTape;

/* An empty (all zero) one is valid. */
typedef struct {
    size_t n;
    KeptTape *tapes; /* [n] */
} KeptTapes;

/* Have n tapes. Those of the last step serve again when they are as many: fresh memory would cost more than used
 * memory.
 * Fails: ERR_MEMORY. */
MUST_USE Err *kept_tapes_begin(KeptTapes *kept, size_t n);
void kept_tapes_free(KeptTapes *kept);

/* Bytes that they hold. */
size_t kept_tapes_bytes(const KeptTapes *kept);

#endif
