/* The documents of one step, cut into micro-batches by index alone, shared out to ranks, gathered into groups.
 *
 *     documents     0 1 2 | 3 4 | 5 | 6 7 8        consecutive ones up to micro_batch_tokens
 *     micro-batch     0      1    2     3
 *     ranks         [   0   1  ] [ 2      3 ]      runs of micro-batches, near to even in tokens
 *     groups        [ 0 ] [ 1 ]  [   2 3    ]      a rank's micro-batches up to group_tokens
 *
 * Cuts into micro-batches fix the bits; ranks and groups never change one. */
#ifndef GRAFT_TRAIN_BATCH_H
#define GRAFT_TRAIN_BATCH_H

#include "autograd/group.h"
#include "data/records/dataset.h"
#include "train/dp.h"

/* Rows of one group, with what goes in and what is asked of them. */
typedef struct {
    Group group;
    size_t row;             /* of its first row among the rank's */
    const int32_t *ids;     /* [T] */
    const int32_t *targets; /* [T], -1: not in the loss */
} BatchGroup;

typedef struct {
    size_t n_docs, tokens, n_loss_tokens; /* of the whole step, all ranks */
    size_t n_micro_batches;
    size_t *micro_doc;      /* [n_micro_batches + 1] first document of each */
    size_t *rank_micro;     /* [size + 1] first micro-batch of each rank */
    size_t *rank_doc;       /* [size + 1] first document of each rank */
    size_t T;               /* rows of this rank */
    int32_t *ids, *targets; /* [T] */
    size_t *doc_start;      /* offsets for all groups, each from 0 */
    size_t *micro_batch_start;
    size_t n_groups, max_groups; /* of this rank, the most of any rank */
    BatchGroup *groups;
    size_t longest; /* tokens of the longest document */
} Batch;

/* Documents are borrowed while it runs. group_tokens 0: one group. */
MUST_USE Err *batch_new(Batch *batch, const Dp *dp, size_t n_docs, const Document *const *docs,
                        size_t micro_batch_tokens, size_t group_tokens);
void batch_free(Batch *batch);

#endif
