/* What a rank owns of the trained values: its slice of every layer's block, with gradient and AdamW's moments.
 *
 *     for every layer, backward:   slices_reduce    everyone's gradients of the layer, added; each rank keeps its slice
 *     then                         slices_norm      of all slices of all ranks
 *                                  slices_update    AdamW on the own ones; all ranks get all new values */
#ifndef GRAFT_TRAIN_GRAD_SHARDS_H
#define GRAFT_TRAIN_GRAD_SHARDS_H

#include "model/adapter.h"
#include "optim/adamw.h"
#include "train/dp.h"

/* Learning rates of one update, by what a parameter is. */
typedef struct {
    double A, B, router;
} StepRates;

/* A stretch [begin, end) of a layer's block whose parameters share one learning rate. */
typedef enum { RATE_A, RATE_B, RATE_ROUTER } RateKind;
typedef struct {
    size_t begin, end;
    RateKind kind;
} RateSpan;

typedef struct {
    Dp *dp;
    Adapter *adapter; /* NULL: nothing is trained */
    size_t n_layers;
    size_t *at;              /* [L + 1] where a layer's slice begins; at[L] floats in all */
    size_t *chunk_at;        /* [L + 1] first CLIP_CHUNK of each layer, all ranks */
    float *gradient, *m, *v; /* [at[L]] */
    double *chunk_sums;      /* [chunk_at[L]] */
    RateSpan *spans;         /* of all slices, in order */
    size_t *span_at;         /* [L + 1] first span of each layer */
} Slices;

/* dp and adapter are borrowed. slices_free is safe after a failure, and on an empty (all zero) one. */
MUST_USE Err *slices_init(Slices *slices, Dp *dp, Adapter *adapter, size_t n_layers);
void slices_free(Slices *slices);

/* Add everyone's subtrees of layer l, which are used up. guard: look for what is not finite. Collective.
 * Fails: as dp_reduce; ERR_NUMERIC, naming the parameter. */
MUST_USE Err *slices_reduce(Slices *slices, size_t l, Forest *forest, const size_t *first, bool guard);

/* The norm of the whole gradient. Collective. */
MUST_USE Err *slices_norm(Slices *slices, double *norm);

/* AdamW with the gradient times scale; t counts updates from 1. Collective. */
MUST_USE Err *slices_update(Slices *slices, const AdamW *adamw, uint64_t t, const StepRates *rates, double scale);

#endif
