/* The one driver over layers. Training, evaluation and generation all go through it: for every layer
 *
 *     announce the order | embed | for every layer:  acquire its weights, the caller's work on it, release them
 *
 * What the work is (which groups, which tapes, which adapters) belongs to the caller. Below the driver stand the steps
 * that every caller shares: the hidden states of a group, one layer over a group, and rows for the head. */
#ifndef GRAFT_MODEL_FORWARD_H
#define GRAFT_MODEL_FORWARD_H

#include "base/timing.h"
#include "model/model.h"

/* A pass over the layers of a model. Functions get the caller's context. */
typedef struct {
    size_t lowest;       /* a backward pass follows, or is made, down to this layer; n_layers: forward only */
    size_t group_passes; /* how many groups go through a layer: of the rank that has most. Only speed depends on it */
    Timing *timing; /* what a layer waits for its weights is noted here, and what follows is that layer's. NULL: no */
    Err *(*embed)(void *context);           /* once, when the order is announced; NULL in a backward pass */
    Err *(*before_layer)(void *context);    /* its error ends the pass: a signal asks for the end, say; NULL: nothing */
    Err *(*layer)(void *context, size_t l); /* the work on layer l, whose weights may be read meanwhile */
    Err *(*after_layer)(void *context, size_t l); /* once they are released; NULL: nothing */
    void *context;
} LayerLoop;

/* Layers 0, 1, ... n_layers - 1.  Fails: as the functions do; an error in a layer says which. */
MUST_USE Err *layers_forward(Model *model, const LayerLoop *loop);

/* Layers n_layers - 1, ... lowest, in the order that layers_forward announced. Fails the same way. */
MUST_USE Err *layers_backward(Model *model, const LayerLoop *loop);

/* ---- what a caller does with a group, tape off ----------------------------------------------------------------- */

/* x [T][D] = the embedding of ids [T]. The tape begins anew with the group. */
MUST_USE Err *group_embed(Tape *tape, const Model *model, const Group *group, const int32_t *ids, float *x);

/* x [T][D] = layer l of x, in place. adapter NULL: the base alone. The tape begins anew with the group. */
MUST_USE Err *group_forward(Tape *tape, const Model *model, size_t l, const Adapter *adapter, const Group *group,
                            float *x, const LayerPass *pass);

/* ---- the head -------------------------------------------------------------------------------------------------- */

/* Rows row[0 .. n) of hidden states x [..][D], gathered into a leaf [n][D], for model_loss or model_logits. Only rows
 * that somebody asks about go through the head: V is large. Owner: the tape. */
Tensor *head_rows(Tape *tape, const Model *model, size_t n, const size_t *row, const float *x, bool requires_grad);

#endif
