/* config.json of a Hugging Face directory -> ModelConfig, under Hugging Face's own key names.
 * Source: docs/glm5.md; transformers 5.23.0, configuration_glm_moe_dsa.py and its siblings. */
#ifndef GRAFT_MODEL_CONFIG_H
#define GRAFT_MODEL_CONFIG_H

#include "base/err.h"
#include "base/json.h"
#include "model/family.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    double rope_theta;
    bool yarn;
    double factor, beta_fast, beta_slow, mscale, mscale_all_dim, attention_factor; /* attention_factor 0: not given */
    bool truncate;
    int64_t original_max_position_embeddings;
} RopeConfig;

enum { MAX_EOS = 8 };

typedef struct {
    char *path; /* of the file, for messages */
    Family family;
    char *model_type; /* as the file says it */
    int64_t vocab_size, hidden_size, intermediate_size, moe_intermediate_size;
    int64_t num_hidden_layers, num_nextn_predict_layers; /* 0 when the file does not say */
    int64_t num_attention_heads;
    int64_t n_shared_experts, n_routed_experts, num_experts_per_tok, n_group, topk_group;
    double routed_scaling_factor;
    bool norm_topk_prob;
    int64_t q_lora_rank; /* 0: null in the file, one q_proj */
    int64_t kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
    int64_t qk_head_dim;                               /* nope + rope; checked against the file's, when given */
    int64_t index_topk, index_head_dim, index_n_heads; /* all 0 when the family has no indexer */
    bool rope_interleave, indexer_rope_interleave;
    double rms_norm_eps;
    double latent_norm_eps; /* of q_a_layernorm and kv_a_layernorm: 1e-6 as transformers; docs/glm5.md says more */
    int64_t max_position_embeddings;
    bool tie_word_embeddings; /* always false: a tied head is refused */
    bool fp8;                 /* quantization_config says block FP8 */
    RopeConfig rope;
    int64_t n_eos, eos_token_id[MAX_EOS];
    bool *dense;   /* [num_hidden_layers] dense MLP instead of experts */
    bool *indexer; /* [num_hidden_layers] owns an indexer; false with index_topk > 0: shares the choice below */
} ModelConfig;

/* Read and check. The sizes of a model must be in the file: nothing falls back to another model's. Other keys have
 * the default of their transformers class; values that graft does not compute are refused, by name.
 * Fails: ERR_IO, ERR_FORMAT: key missing, wrong or unsupported (by its name), model type unknown. */
MUST_USE Err *model_config_read(ModelConfig *config, const char *path);

/* Take eos_token_id from the generation_config.json of a directory, if it is there and has one: for generation it has
 * precedence over config.json's, as in transformers. Fails: ERR_IO, ERR_FORMAT. */
MUST_USE Err *model_config_end_tokens(ModelConfig *config, const char *directory);
void model_config_free(ModelConfig *config);

/* One tensor that a checkpoint of this config must hold. */
typedef struct {
    /* "embedding", "attention", "indexer", "dense MLP", "router", "experts", "shared experts", "norms", "head",
     * "MTP" */
    const char *part;
    size_t rows, cols; /* a vector has rows == 1 and one dimension in the file */
    bool vector;
    bool must_f32; /* e_score_correction_bias */
    bool may_fp8;  /* quantised in FP8 repositories, with a weight_scale_inv beside it */
    bool mtp;      /* belongs to the multi-token-prediction layer: may be absent, is never used */
} TensorSpec;

/* Call visit for every tensor by its published name: embedding, layers, MTP layers, final norm, head; stops at the
 * first error. The name is the visitor's only until it returns. */
typedef Err *(*TensorVisit)(void *context, const char *name, const TensorSpec *spec);
MUST_USE Err *model_config_tensors(const ModelConfig *config, bool with_mtp, TensorVisit visit, void *context);

#endif
