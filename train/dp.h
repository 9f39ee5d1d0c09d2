/* Data parallelism: ranks, agreement, and sums whose bits do not know how many ranks there are. The only door to MPI.
 *
 * Without mpirun there is one rank and MPI is never started. Every layer's block of n values is cut into slices of
 * whole CLIP_CHUNKs; rank j adds up, updates and owns slice j, with AdamW's moments. */
#ifndef GRAFT_TRAIN_DP_H
#define GRAFT_TRAIN_DP_H

#include "autograd/param.h"

typedef struct {
    int rank, size;
    bool started; /* MPI_Init was ours */
    size_t n_buffer;
    float *buffer; /* what others send */
} Dp;

/* Join the job that mpirun started, if it did. Call before threads. */
MUST_USE Err *dp_open(Dp *dp);

/* code 0: leave in order, with everybody. Otherwise bring the job down with that exit code: who has told why first, the
 * others after a while, since mpirun drops what a rank has not yet handed over when it ends. */
void dp_close(Dp *dp, int code, bool told);

/* The error of the lowest rank that has one becomes everyone's. Collective: every rank calls it. */
MUST_USE Err *dp_agree(const Dp *dp, Err *err);

/* Everyone's value is the same on all ranks? Fails: ERR_COMM naming `what`. Collective. */
MUST_USE Err *dp_same(const Dp *dp, uint64_t value, const char *what);

/* Everyone's counts, added. Collective. */
void dp_add_counts(const Dp *dp, size_t n, uint64_t *counts);

/* The bits that anybody has. Collective. */
unsigned dp_any(const Dp *dp, unsigned bits);

/* The part of a block of n values that a rank owns. */
void dp_slice(const Dp *dp, int rank, size_t n, size_t *begin, size_t *end);

/* Add everyone's subtrees of one layer along the tree of micro-batches; each rank ends with its slice of the total.
 *   forest   this rank's subtrees of micro-batches [first[rank], first[rank + 1]); used up
 *   first    [size + 1] first micro-batch of every rank, and the number of them all
 *   slice    [end - begin] of dp_slice  out: the total, the same bits for any number of ranks
 * Collective: every rank calls it, layer by layer, with the same n and first. */
MUST_USE Err *dp_reduce(Dp *dp, Forest *forest, const size_t *first, float *slice);

/* Everyone's slice of a block becomes known to all: values [n], own slice in place. Collective. */
MUST_USE Err *dp_share(const Dp *dp, size_t n, float *values);

/* Rows [first[r], first[r + 1]) of a table of doubles come from rank r; all get them all. Collective. */
MUST_USE Err *dp_share_rows(const Dp *dp, const size_t *first, size_t width, double *rows);

/* Rank 0 collects a block whose slices the others own: block [n] on rank 0. Collective. */
MUST_USE Err *dp_collect(const Dp *dp, size_t n, const float *slice, float *block);

#endif
