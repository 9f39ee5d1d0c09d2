/* The published files of a base model: every tensor found by name, checked against the config, mapped read-only.
 *
 * A directory holds model.safetensors.index.json with its shards, or one model.safetensors. Nothing in it is trusted:
 * tensor/safetensors checks each file, weights_open checks names, shapes and dtypes against model_config_tensors. */
#ifndef GRAFT_MODEL_WEIGHTS_H
#define GRAFT_MODEL_WEIGHTS_H

#include "model/config.h"
#include "model/shard_checks.h"
#include "tensor/weight.h"

typedef struct Weights Weights;

/* Open all shards of a directory. Missing tensors are an error that names up to three and counts the rest; extra ones
 * are not (weights_survey lists them); the MTP layer's may be absent. Every F32 and BF16 vector must be finite. */
MUST_USE Err *weights_open(Weights **weights, const ModelConfig *config, const char *directory);
void weights_close(Weights *weights);

/* The weights of a config whose files need not be there: names, shapes, places, and zeros for values. matrices is the
 * dtype of those that FP8 repositories quantise, F8_E4M3 or BF16. */
MUST_USE Err *weights_outline(Weights **weights, const ModelConfig *config, DType matrices);

/* Its one file (model/weights_outline.c); closed by safetensors_close. */
MUST_USE Err *weights_outline_file(Safetensors *file, const ModelConfig *config, DType matrices);

/* The tensor of that name as a Weight with its FP8 scales, if any. Fails: ERR_FORMAT when absent. */
MUST_USE Err *weights_get(const Weights *weights, const char *name, Weight *out);

/* The shard and the offset in it that a Weight's data (or scale) was read from; shards are counted from 0. */
size_t weights_shards(const Weights *weights);
const char *weights_shard_path(const Weights *weights, size_t shard);
void weights_locate(const Weights *weights, const void *data, size_t *shard, size_t *offset);

/* A vector or small matrix widened to float. Owner: the caller, until free(). */
MUST_USE Err *weights_get_floats(const Weights *weights, const char *name, size_t n, float **out);

/* The fingerprint of all shards (shards_digest). */
void weights_digest(const Weights *weights, char digest[DIGEST_BYTES]);

/* A check of all weights for NaN and infinity (reads everything). Fails: ERR_NUMERIC naming file, tensor and
 * element. */
MUST_USE Err *weights_check_finite(const Weights *weights);

/* What the files of a directory hold, measured against the config. Nothing here is an error, except files that cannot
 * be read at all. */
enum { SURVEY_NAMES = 5 };
typedef struct {
    size_t count;
    char *names[SURVEY_NAMES]; /* the first of them; a wrong one with what is wrong */
} SurveyList;

typedef struct {
    size_t n_shards, n_tensors, file_bytes;
    struct {
        size_t tensors, elements, bytes;
    } dtypes[DTYPE_COUNT];
    size_t n_mtp; /* tensors of the MTP layer that are there */
    SurveyList missing, extra, wrong;
    char digest[DIGEST_BYTES];
} WeightsSurvey;

/* Owner: the caller, until weights_survey_free. */
MUST_USE Err *weights_survey(WeightsSurvey *survey, const ModelConfig *config, const char *directory);
void weights_survey_free(WeightsSurvey *survey);
bool weights_exist(const char *directory);

#endif
