/* What the balance losses need of a whole step: each sparse layer's statistics, added over micro-batches and ranks.
 * They are gathered in the forward pass, so that the backward pass has the exact gradient. */
#ifndef GRAFT_TRAIN_BALANCE_SUMS_H
#define GRAFT_TRAIN_BALANCE_SUMS_H

#include "model/model.h"
#include "train/batch.h"

typedef struct {
    size_t L, E;
    double *micro;       /* [L][n_micro_batches][balance_width(E)] of every micro-batch */
    double *totals;      /* [L][balance_width(E)] of sparse layers, one after another */
    double *load_all;    /* [E] loads of all sparse layers */
    BalanceStep *layers; /* [L] what op_balance reads in the backward pass */
} BalanceSums;

/* Fails: ERR_MEMORY. */
MUST_USE Err *balance_sums_init(BalanceSums *sums, const Model *model);
void balance_sums_free(BalanceSums *sums);

/* Make space for a batch. Fails: ERR_MEMORY. */
MUST_USE Err *balance_sums_begin(BalanceSums *sums, const Batch *batch);

/* Where layer l gathers the statistics of micro-batch m and those after it. */
double *balance_sums_at(const BalanceSums *sums, const Batch *batch, size_t l, size_t m);

/* Once the forward pass is through: share and add everybody's, and give the losses' values. Collective. */
MUST_USE Err *balance_sums_gather(BalanceSums *sums, const Model *model, const Batch *batch, const Dp *dp,
                                  BalanceValues *values);

#endif
