/* Data parallelism: ranks, agreement, and sums that have the same bits for any number of ranks. The only wrapper of
 * MPI.
 *
 * Without mpirun there is one rank, and MPI is never started. The n values of a layer are cut into slices of whole
 * CLIP_CHUNKs. Rank j owns slice j: it sums its gradient, holds its AdamW moments and updates it. */
#ifndef GRAFT_TRAIN_DP_H
#define GRAFT_TRAIN_DP_H

#include "autograd/param.h"

typedef struct {
    int rank, size;
    bool started; /* we called MPI_Init */
    size_t n_buffer;
    float *buffer; /* received from other ranks */
} Dp;

/* Join the job that mpirun started, if it did. Call before threads. */
MUST_USE Err *dp_open(Dp *dp);

/* code 0: leave the job together with all ranks. Otherwise abort the job with that exit code. mpirun drops output that
 * a rank has not handed over when the job ends, so a rank that has not reported the error waits longer. */
void dp_close(Dp *dp, int code, bool reported);

/* If a rank has an error, all ranks return one: that of the lowest such rank. Collective: every rank calls it. */
MUST_USE Err *dp_agree(const Dp *dp, Err *err);

/* Check that the value is the same on all ranks. Fails: ERR_COMM naming `what`. Collective. */
MUST_USE Err *dp_same(const Dp *dp, uint64_t value, const char *what);

/* Add the counts of all ranks, in place. Collective. */
void dp_add_counts(const Dp *dp, size_t n, uint64_t *counts);

/* The bits that are set on any rank. Collective. */
unsigned dp_any(const Dp *dp, unsigned bits);

/* The slice [begin, end) of n values that a rank owns. */
void dp_slice(const Dp *dp, int rank, size_t n, size_t *begin, size_t *end);

/* Add the subtrees of all ranks along the tree of micro-batches, for one layer; each rank gets its slice of the total.
 *   forest   this rank's subtrees of micro-batches [first[rank], first[rank + 1]); used up
 *   first    [size + 1] first micro-batch of every rank, and the number of all micro-batches
 *   slice    [end - begin] of dp_slice  out: the total, the same bits for any number of ranks
 * Collective: every rank calls it, layer by layer, with the same n and first. */
MUST_USE Err *dp_reduce(Dp *dp, Forest *forest, const size_t *first, float *slice);

/* Share the slices: every rank has its own slice of values [n] and gets those of the others. Collective. */
MUST_USE Err *dp_share(const Dp *dp, size_t n, float *values);

/* Share the rows of a table of doubles: rank r has rows [first[r], first[r + 1]) and gets the others. Collective. */
MUST_USE Err *dp_share_rows(const Dp *dp, const size_t *first, size_t width, double *rows);

/* Collect the slices of all ranks in block [n] on rank 0. Collective. */
MUST_USE Err *dp_collect(const Dp *dp, size_t n, const float *slice, float *block);

#endif
