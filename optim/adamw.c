/* AdamW with the rounding that torch.optim.AdamW has. The equations are in the header.
 *
 * PyTorch keeps scalars in double until they meet a tensor, and rounds to float32 after every tensor operation. Its
 * lerp_ (for m) and addcmul_ (for v) fuse their last product and sum. Here these two are computed in double: the
 * product of two floats is exact in double, so the sum is rounded to 53 bits and then to 24. Except for a rare tie
 * that is the fused result, and it is the same on CPUs with and without a fused multiply-add. */
#include "optim/adamw.h"

#include <math.h>

enum { MIN_UPDATES_FOR_THREADS = 1 << 16 }; /* elements; below that, waking the threads takes longer than the update */

void adamw_update(const AdamW *cfg, const AdamWStep *s, size_t n, float *restrict theta, float *restrict m,
                  float *restrict v, const float *restrict g)
{
    double correction1 = 1 - pow(cfg->beta1, (double)s->t), correction2 = 1 - pow(cfg->beta2, (double)s->t);
    float scale = (float)s->grad_scale, decay = (float)(1 - s->lr * cfg->weight_decay);
    float weight1 = (float)(1 - cfg->beta1), beta2 = (float)cfg->beta2, weight2 = (float)(1 - cfg->beta2);
    float root2 = (float)sqrt(correction2), epsilon = (float)cfg->epsilon, step = (float)(-s->lr / correction1);
#pragma omp parallel for simd schedule(static) if (n >= MIN_UPDATES_FOR_THREADS)
    for (size_t i = 0; i < n; i++) {
        float gi = g[i] * scale;
        float difference = gi - m[i];
        float mi = (float)((double)m[i] + (double)weight1 * (double)difference);
        float decayed = v[i] * beta2, weighted = weight2 * gi;
        float vi = (float)((double)decayed + (double)weighted * (double)gi);
        float denominator = sqrtf(vi) / root2 + epsilon;
        m[i] = mi;
        v[i] = vi;
        theta[i] = theta[i] * decay + step * mi / denominator;
    }
}
