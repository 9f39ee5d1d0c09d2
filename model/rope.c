/* Angles as transformers has them, to the bit where that is possible: inv_freq = 1 / float(theta^(2 j / d)), the angle
 * is a product of floats, then cos and sin of it.
 * YaRN: dimensions that turn often keep their frequency, slow ones are divided by `factor`, a ramp between.
 * Source: transformers 5.23.0, modeling_rope_utils.py; Peng et al. 2023, section 3 (arXiv:2309.00071). */
#include "model/rope.h"

#include <math.h>

static double growth(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1; }

double rope_softmax_factor(const RopeConfig *rope)
{
    if (!rope->yarn || rope->mscale_all_dim == 0) return 1;
    double g = growth(rope->factor, rope->mscale_all_dim);
    return g * g;
}

static double attention_factor(const RopeConfig *rope)
{
    if (!rope->yarn) return 1;
    if (rope->attention_factor != 0) return rope->attention_factor;
    if (rope->mscale != 0 && rope->mscale_all_dim != 0)
        return growth(rope->factor, rope->mscale) / growth(rope->factor, rope->mscale_all_dim);
    return growth(rope->factor, 1);
}

/* The dimension whose wave turns `turns` times over the original context. */
static double dimension_of(const RopeConfig *rope, double d, double turns)
{
    return d * log((double)rope->original_max_position_embeddings / (turns * 2 * M_PI)) / (2 * log(rope->rope_theta));
}

static float inverse_frequency(const RopeConfig *rope, size_t j, size_t dim)
{
    float power = (float)pow(rope->rope_theta, (double)(2 * j) / (double)dim);
    if (!rope->yarn) return 1.0f / power;
    double d = (double)dim, low = dimension_of(rope, d, rope->beta_fast), high = dimension_of(rope, d, rope->beta_slow);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, d - 1);
    if (low == high) high += 0.001;
    float ramp = (float)(((double)j - low) / (high - low));
    float keep = 1 - fminf(fmaxf(ramp, 0), 1);
    return 1.0f / ((float)rope->factor * power) * (1 - keep) + 1.0f / power * keep;
}

void rope_fill(const ModelConfig *config, size_t n, float *cos_values, float *sin_values)
{
    const RopeConfig *rope = &config->rope;
    size_t dim = (size_t)config->qk_rope_head_dim, half = dim / 2;
    float factor = (float)attention_factor(rope);
    for (size_t j = 0; j < half; j++) {
        float inverse = inverse_frequency(rope, j, dim);
        for (size_t p = 0; p < n; p++) {
            double angle = (double)((float)p * inverse);
            cos_values[p * half + j] = (float)cos(angle) * factor;
            sin_values[p * half + j] = (float)sin(angle) * factor;
        }
    }
}
