/* How a step's tokens were shared out to experts, exactly, and which of them a gradient came back to. */
#ifndef GRAFT_TRAIN_ROUTING_COUNTS_H
#define GRAFT_TRAIN_ROUTING_COUNTS_H

#include "train/batch.h"
#include "model/model.h"

/* Of one layer; of this rank's tokens until routing_counts_agree, then of all ranks'. */
typedef struct {
    uint64_t *load;        /* [E] tokens that chose each expert */
    uint64_t *live;        /* [E] those of them whose output a gradient came back to */
    uint64_t *live_tokens; /* [1] tokens of the layer with a gradient */
} LayerCounts;

typedef struct {
    size_t L, E;
    uint64_t *numbers; /* [L][2 E + 1] */
} RoutingCounts;

/* Fails: ERR_MEMORY. */
MUST_USE Err *routing_counts_init(RoutingCounts *counts, size_t n_layers, size_t n_experts);
void routing_counts_free(RoutingCounts *counts);

LayerCounts routing_counts_of(const RoutingCounts *counts, size_t l);

/* Begin a step: zeros, then the load of every sparse layer from choices [n_groups]. */
void routing_counts_load(RoutingCounts *counts, const Model *model, const Batch *batch, const Choices *choices);

/* Count the rows of a group with a gradient dx [T][D] on the output of layer l. A token that no token in the loss
 * depends on has none. */
void routing_counts_live(RoutingCounts *counts, const Model *model, size_t l, const Group *group,
                         const Choices *choices, const float *dx);

/* Add the counts of all ranks. Collective. */
void routing_counts_agree(RoutingCounts *counts, const Dp *dp);

#endif
