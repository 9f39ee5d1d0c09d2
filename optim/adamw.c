/* PyTorch keeps scalars in double until they meet a tensor, and rounds after every tensor operation; its
 * lerp_ and addcmul_ fuse their last product and sum. Here those two run in double: the product of two floats is exact
 * there, so the sum is rounded to 53 bits and then to 24, which is the fused result but for a rare tie, on CPUs with
 * and without such an instruction. */
#include "optim/adamw.h"

#include <math.h>

enum { MIN_UPDATES_FOR_THREADS = 1 << 16 }; /* parameters; for fewer, waking threads takes longer */

void adamw_update(const AdamW *cfg, uint64_t t, double lr, double grad_scale, size_t n, float *restrict theta,
                  float *restrict m, float *restrict v, const float *restrict g)
{
    double correction1 = 1 - pow(cfg->beta1, (double)t), correction2 = 1 - pow(cfg->beta2, (double)t);
    float scale = (float)grad_scale, keep = (float)(1 - lr * cfg->weight_decay);
    float weight1 = (float)(1 - cfg->beta1), beta2 = (float)cfg->beta2, weight2 = (float)(1 - cfg->beta2);
    float root2 = (float)sqrt(correction2), epsilon = (float)cfg->epsilon, step = (float)(-lr / correction1);
#pragma omp parallel for simd schedule(static) if (n >= MIN_UPDATES_FOR_THREADS)
    for (size_t i = 0; i < n; i++) {
        float gi = g[i] * scale;
        float away = gi - m[i];
        float mi = (float)((double)m[i] + (double)weight1 * (double)away);
        float kept = v[i] * beta2, part = weight2 * gi;
        float vi = (float)((double)kept + (double)part * (double)gi);
        float below = sqrtf(vi) / root2 + epsilon;
        m[i] = mi;
        v[i] = vi;
        theta[i] = theta[i] * keep + step * mi / below;
    }
}
