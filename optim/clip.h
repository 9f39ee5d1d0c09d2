/* The global norm of a gradient, and the factor that scales the gradient down to a maximum norm.
 *
 * There is one sum of squares, a double, for each CLIP_CHUNK elements of a layer's block; the norm adds them in
 * order. A rank that holds whole chunks computes their sums, and the norm has the same bits for any distribution of
 * chunks over ranks. */
#ifndef GRAFT_OPTIM_CLIP_H
#define GRAFT_OPTIM_CLIP_H

#include <stddef.h>

enum { CLIP_CHUNK = 4096 }; /* elements */

static inline size_t clip_n_chunks(size_t n) { return (n + CLIP_CHUNK - 1) / CLIP_CHUNK; }

/* sums [clip_n_chunks(n)]  out: the sum of squares of each chunk of g[n]; the last chunk may be short. */
void clip_chunk_sums(size_t n, const float *g, double *sums);

/* The square root of the sums, added in order. It is not finite when an element of the gradient was not; the caller
 * reports that. */
double clip_norm(size_t n_chunks, const double *sums);

/* min(1, max_norm / (norm + 1e-6)). It is 1 when max_norm is 0, which turns clipping off.
 * Source: torch.nn.utils.clip_grad_norm_. */
double clip_scale(double norm, double max_norm);

#endif
