/* What tapes take, counted from shapes: every block that the operations of a layer ask for (model/attention.c, model/moe.c). */
#ifndef GRAFT_TRAIN_TAPES_H
#define GRAFT_TRAIN_TAPES_H

#include "model/model.h"

/* A group of T rows at work. */
typedef struct {
    size_t T, longest;  /* rows, tokens of the longest document */
    size_t threads;
    double experts;     /* share of a layer's experts that are worked on at once: 1, or that of the largest run */
    size_t kept_layers; /* topmost layers whose tapes are kept */
    size_t kept_rows;   /* of those: all of the rank */
} TapeWork;

/* Bytes of the tape at work and of those kept. adapter NULL: upward only. How tokens meet experts is not known before: the
 * busiest is given three times its share. */
size_t tapes_bytes(const Model *model, const Adapter *adapter, const TapeWork *work);

/* Floats of a row of layer l: what operations return and keep, without the experts' own. */
size_t tapes_row(const Model *model, size_t l);

#endif
