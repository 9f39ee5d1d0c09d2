/* What a step computes and moves, from shapes alone: for plans, and for the rate that a run reports. Documents are
 * counted as if all were as long as the longest. */
#ifndef GRAFT_PLAN_FLOPS_H
#define GRAFT_PLAN_FLOPS_H

#include "plan/budget.h"

/* Floating-point operations of a step's tokens, a multiply-add as 2: of the forward pass, of recomputation unless
 * tapes are kept, and of the backward pass. */
typedef struct {
    double frozen, experts; /* products with frozen weights on the compute path: of all others, of routed experts */
    double exact; /* products with weights that are multiplied in fp32: routers, indexers, an indexer's input */
    double attention, latent, index; /* scores and values over all keys; over chosen latents; the indexer's scores */
    double lora;                     /* products with LoRA's A and B */
    double moved_bytes;              /* of activations and gradients, written and read; not an operation */
} Flops;

/* How many times a layer is computed: forward, forward again for the backward pass, backward. */
typedef struct {
    double forward, recompute, backward;
} PassCounts;

/* A layer: all but its routed experts, and its routed experts. */
typedef struct {
    Flops core, experts;
} LayerFlops;

/* The passes of layer l in one step. adapter NULL: evaluation. */
PassCounts flops_passes(const Model *model, const Adapter *adapter, const StepWork *work, size_t l);

/* Layer l in these passes. row: floats of a row of its activations (tapes_rows). */
LayerFlops flops_of_layer(const Model *model, const Adapter *adapter, const StepWork *work, size_t l, size_t row,
                          PassCounts passes);

/* Embedding, head and loss. */
Flops flops_of_head(const Model *model, const Adapter *adapter, const StepWork *work);

/* The whole step. adapter NULL: evaluation.   rows [n_layers], or NULL: the bytes that layers move are not counted. */
Flops flops_of_step(const Model *model, const Adapter *adapter, const StepWork *work, const size_t *rows);

/* The sum of all operations. */
double flops_all(const Flops *f);

#endif
