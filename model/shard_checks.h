/* What is computed over the bytes of a model's shards: a fingerprint, and whether numbers are finite. */
#ifndef GRAFT_MODEL_SHARD_CHECKS_H
#define GRAFT_MODEL_SHARD_CHECKS_H

#include "tensor/safetensors.h"

enum { DIGEST_BYTES = 33 };

/* 32 hexadecimal digits and a zero: over headers, sizes and sampled blocks of every shard; the same for the same files.
 * Not over all bytes, because a model has up to 1.5 TB. */
void shards_digest(size_t n_shards, const Safetensors *shards, char digest[DIGEST_BYTES]);

/* Fails: ERR_NUMERIC naming file, tensor and element, when a number of the tensor is NaN or infinite. */
MUST_USE Err *tensor_check_finite(const TensorView *tensor, const char *path);

#endif
