/* AdamW over flat slices. Every element is computed from its own numbers alone, in an order that no compiler may
 * change, so a result never depends on where a slice begins or on how wide the CPU's registers are.
 *
 *     g     = grad_scale g
 *     theta = theta (1 - lr weight_decay)
 *     m     = m + (1 - beta1) (g - m)
 *     v     = beta2 v + (1 - beta2) g g
 *     theta = theta - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
 *
 * Source: Loshchilov and Hutter 2019, algorithm 2 (arXiv:1711.05101), in the order and rounding of torch.optim.AdamW. */
#ifndef GRAFT_OPTIM_ADAMW_H
#define GRAFT_OPTIM_ADAMW_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    double beta1, beta2, epsilon, weight_decay;
} AdamW;

/* One update of n parameters.
 *   t            this update's number, from 1
 *   grad_scale   multiplies the gradient first (clip_scale)
 *   theta, m, v  [n]  in and out; m and v start as zeros
 *   g            [n] */
void adamw_update(const AdamW *cfg, uint64_t t, double lr, double grad_scale, size_t n, float *theta, float *m,
                  float *v, const float *g);

#endif
