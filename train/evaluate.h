/* The loss of an adapter on held-out documents: of the whole file, and of each domain that its records name. */
#ifndef GRAFT_TRAIN_EVALUATE_H
#define GRAFT_TRAIN_EVALUATE_H

#include "data/records/dataset.h"
#include "model/model.h"
#include "train/dp.h"

/* Sums over tokens in the loss, added document by document. */
typedef struct {
    const char *domain; /* NULL: the whole file. Borrowed from the data set */
    double nll, right;
    size_t n_loss_tokens, documents;
} EvalPart;

/* Owner: the caller, evaluation_free, which takes an empty (all zero) one. */
typedef struct {
    size_t n;
    EvalPart *parts; /* the whole file, then its domains in the order of their first records */
} Evaluation;

typedef struct {
    size_t group_tokens;      /* run through a layer together; 0: all of a pass */
    size_t pass_tokens;       /* of a rank, for which the weights are read once; their hidden states are held */
    const volatile int *stop; /* set from outside: leave between two layers. NULL: never */
} EvaluateHow;

/* adapter NULL: the base. The same bits for any number of ranks and any `how`, and those of `graft eval`. Collective.
 * Fails: ERR_STOPPED on all ranks, after the same layer. */
MUST_USE Err *evaluate_dataset(Evaluation *evaluation, Model *model, const Dp *dp, const Adapter *adapter,
                               const Dataset *dataset, const EvaluateHow *how);
void evaluation_free(Evaluation *evaluation);

#endif
