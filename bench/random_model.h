/* A random model to measure and to test with: config.json, and every tensor that it asks for under its published name.
 *
 * Matrices are normal with deviation 1 / sqrt(columns), so that a normed row keeps its size through each of them; the
 * embedding's is 1, so that tokens differ more than their contexts and routing is spread; norms lie near 1;
 * e_score_correction_bias is uniform +-0.05. A config that says FP8 gets matrices in blocks of 128 x 128. A value is a function of (seed, tensor, index). */
#ifndef GRAFT_BENCH_RANDOM_MODEL_H
#define GRAFT_BENCH_RANDOM_MODEL_H

#include "base/file.h"

#include <stdint.h>

/* Write a model into a directory; says on stderr what it is about to write, and how large.
 * shape   the path of a config.json, or NAME for configs/NAME.json
 * Fails:  ERR_USAGE for a shape that is not there; ERR_IO, also when the disk has no room for it. */
MUST_USE Err *random_model_make(const char *shape, const char *directory, uint64_t seed);

/* The directory of a shape's model, `folder`/NAME, made when it is not there.
 * Fails: as above, and ERR_USAGE when another config lies there. */
MUST_USE Err *random_model_have(char directory[PATH_BYTES], const char *folder, const char *shape, uint64_t seed);

#endif
