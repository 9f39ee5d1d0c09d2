/* The published files of a base model: every tensor found by name, checked against the config, mapped read-only.
 *
 * A directory holds model.safetensors.index.json with its shards, or one model.safetensors. Nothing in it is trusted:
 * tensor/safetensors checks each file, weights_open checks names, shapes and dtypes against model_config_tensors. */
#ifndef GRAFT_MODEL_WEIGHTS_H
#define GRAFT_MODEL_WEIGHTS_H

#include "model/config.h"
#include "tensor/safetensors.h"
#include "tensor/weight.h"

typedef struct Weights Weights;

/* Open all shards of a directory. Missing tensors are an error that names up to three and counts the rest; extra ones
 * are not (weights_report lists them); the MTP layer's may be absent. Every F32 and BF16 vector must be finite. */
MUST_USE Err *weights_open(Weights **weights, const ModelConfig *config, const char *directory);
void weights_close(Weights *weights);

/* The tensor of that name as a Weight with its FP8 scales, if any. Fails: ERR_FORMAT when absent. */
MUST_USE Err *weights_get(const Weights *weights, const char *name, Weight *out);

/* A vector or small matrix widened to float. Owner: the caller, until free(). */
MUST_USE Err *weights_get_floats(const Weights *weights, const char *name, size_t n, float **out);

/* 32 hexadecimal digits and a zero: over headers, sizes and sampled blocks of every shard; the same for the same files. */
enum { DIGEST_BYTES = 33 };
void weights_digest(const Weights *weights, char digest[DIGEST_BYTES]);

/* A check of all weights for NaN and infinity (reads everything). Fails: ERR_NUMERIC naming file, tensor and element. */
MUST_USE Err *weights_check_finite(const Weights *weights);

/* What a directory holds, for `graft inspect`: written as text for people or as JSON. Weights may be absent. */
MUST_USE Err *weights_report(const char *directory, bool as_json, char **text);

#endif
