/* What a step computes and moves, from shapes alone: for plans, and for the rate that a run reports. */
#ifndef GRAFT_PLAN_FLOPS_H
#define GRAFT_PLAN_FLOPS_H

#include "plan/budget.h"

/* Floating-point operations of a step's tokens, a multiply-add as 2: up, again on the way down unless tapes are kept, and back. */
typedef struct {
    double frozen, experts; /* with weights in the path's numbers: of routed experts, and of all others */
    double exact;           /* with those that are multiplied in fp32: routers, indexers, what an indexer sees */
    double attention, latent, index; /* scores and values over all keys; over chosen latents; the indexer's scores */
    double lora;                     /* LoRA's */
    double moved_bytes;              /* of activations and gradients, to memory and back; no operations */
} Flops;

/* How often a layer is passed: up, up again on the way down, back. */
typedef struct {
    double forward, recompute, backward;
} PassCounts;

PassCounts flops_passes(const Model *model, const Adapter *adapter, const StepWork *work, size_t l);

/* What so many passes of a layer take: all but its routed experts, and those. row: floats of a row of its activations (tapes_rows). */
void flops_of_layer(Flops *core, Flops *experts, const Model *model, const Adapter *adapter, const StepWork *work,
                    size_t l, size_t row, PassCounts passes);

/* Embedding, head and loss. */
Flops flops_of_head(const Model *model, const Adapter *adapter, const StepWork *work);

/* All of it, adapter NULL: evaluation. rows [n_layers], or NULL: what layers move is not counted. */
Flops flops_of_step(const Model *model, const Adapter *adapter, const StepWork *work, const size_t *rows);

double flops_all(const Flops *f);

#endif
