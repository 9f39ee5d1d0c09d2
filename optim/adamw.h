/* AdamW over flat slices. Every element is computed from its own numbers alone, in a fixed order of operations, so a
 * result never depends on where a slice begins or on how wide the CPU's registers are.
 *
 *     g     = grad_scale g
 *     theta = theta (1 - lr weight_decay)
 *     m     = m + (1 - beta1) (g - m)
 *     v     = beta2 v + (1 - beta2) g g
 *     theta = theta - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
 *
 * Source: Loshchilov and Hutter 2019, algorithm 2 (arXiv:1711.05101), in the order and with the rounding that
 * torch.optim.AdamW has. */
#ifndef GRAFT_OPTIM_ADAMW_H
#define GRAFT_OPTIM_ADAMW_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    double beta1, beta2, epsilon, weight_decay;
} AdamW;

/* What one update has of its own. */
typedef struct {
    uint64_t t;        /* the number of this update, from 1 */
    double lr;         /* learning rate */
    double grad_scale; /* multiplies the gradient first (clip_scale) */
} AdamWStep;

/* Update n parameters.
 *   theta, m, v  [n]  in and out; m and v start as zeros
 *   g            [n]  the gradient */
void adamw_update(const AdamW *cfg, const AdamWStep *step, size_t n, float *theta, float *m, float *v, const float *g);

#endif
