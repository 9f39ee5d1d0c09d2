/* A random model for measurements and tests: config.json, and every tensor that it asks for, under its published name.
 *
 * Matrices have almost normal elements with deviation 1 / sqrt(columns), so that a normalised row keeps its size.
 * The embedding has deviation 1: tokens then differ more than their contexts, and routing is balanced. Norm weights
 * are near 1. e_score_correction_bias is uniform in +-0.05. With an FP8 config, matrices have blocks of 128 x 128. A
 * value is a function of (seed, tensor, index). */
#ifndef GRAFT_BENCH_RANDOM_MODEL_H
#define GRAFT_BENCH_RANDOM_MODEL_H

#include "base/file.h"

#include <stdint.h>

/* Write a model into a directory; prints its size on stderr first.
 * shape   the path of a config.json, or NAME for configs/NAME.json
 * Fails:  ERR_USAGE for an unknown shape; ERR_IO, also when the model does not fit on the disk. */
MUST_USE Err *random_model_make(const char *shape, const char *directory, uint64_t seed);

/* The directory of a shape's model, `folder`/NAME. The model is made unless it exists.
 * Fails: as above, and ERR_USAGE when the directory has another config. */
MUST_USE Err *random_model_have(char directory[PATH_BYTES], const char *folder, const char *shape, uint64_t seed);

#endif
