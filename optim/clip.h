/* The global norm of a gradient and the factor that bounds it.
 *
 * The sum of squares is one double per CLIP_CHUNK elements of a layer's block, then the sum of those in order: a rank
 * that holds whole chunks can compute its own, and the total has the same bits however chunks are shared out. */
#ifndef GRAFT_OPTIM_CLIP_H
#define GRAFT_OPTIM_CLIP_H

#include <stddef.h>

enum { CLIP_CHUNK = 4096 };

static inline size_t clip_n_chunks(size_t n) { return (n + CLIP_CHUNK - 1) / CLIP_CHUNK; }

/* sums [clip_n_chunks(n)]  out: the sum of squares of each chunk of g[n]; the last chunk may be short. */
void clip_chunk_sums(size_t n, const float *g, double *sums);

/* sqrt of the sums, added in order. Not finite when an element of the gradient was not: the caller reports that. */
double clip_norm(size_t n_chunks, const double *sums);

/* min(1, max_norm / (norm + 1e-6)); 1 when max_norm is 0, which turns clipping off.
 * Source: torch.nn.utils.clip_grad_norm_. */
double clip_scale(double norm, double max_norm);

#endif
