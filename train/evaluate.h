/* The loss of base or adapter on a data set. */
#ifndef GRAFT_TRAIN_EVALUATE_H
#define GRAFT_TRAIN_EVALUATE_H

#include "data/dataset.h"
#include "train/step.h"

typedef struct {
    double nll;      /* sum over scored tokens, added document by document */
    size_t scored, right, documents;
} Evaluation;

/* Over all documents of a data set, a few thousand tokens at a time. adapter NULL: the base. Collective. */
MUST_USE Err *evaluate_dataset(Step *step, Dp *dp, const Adapter *adapter, const Dataset *dataset, size_t micro_batch_tokens,
                               size_t group_tokens, Evaluation *evaluation);

#endif
