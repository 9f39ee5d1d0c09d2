/* The rotary angles of a config, YaRN included. */
#ifndef GRAFT_MODEL_ROPE_H
#define GRAFT_MODEL_ROPE_H

#include "model/config.h"

#include <stddef.h>

/* Fill cos and sin, each [n][dim / 2], for positions 0 .. n - 1; dim = qk_rope_head_dim. */
void rope_fill(const ModelConfig *config, size_t n, float *cos_values, float *sin_values);

/* What multiplies (nope + rope)^-1/2 in the softmax: 1, or YaRN's g(mscale_all_dim)^2. */
double rope_softmax_factor(const RopeConfig *rope);

#endif
