/* The model families that graft computes, and what tells one from another. A new family begins here. */
#ifndef GRAFT_MODEL_FAMILY_H
#define GRAFT_MODEL_FAMILY_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum {
    FAMILY_GLM_MOE_DSA,   /* GLM-5, 5.1, 5.2, 5.3 */
    FAMILY_GLM4_MOE_LITE, /* GLM-4.7-Flash */
    FAMILY_DEEPSEEK_V3,   /* DeepSeek-V3, Moonlight, Kimi-K2 (kimi_k2) */
    FAMILY_DEEPSEEK_V32,
} Family;

/* What a family's transformers class does where the config says nothing, which keys it honours, and what it has. */
typedef struct {
    const char *name;
    double routed_scaling_factor, rms_norm_eps;
    int64_t n_group, topk_group;
    bool indexer;             /* layers own or share an indexer */
    bool may_share;           /* indexer_types is honoured */
    bool indexer_interleaved; /* rotation inside the indexer */
    bool may_split_rope;      /* rope_interleave is honoured; the others interleave whatever the file says */
    bool may_lack_q_lora;     /* q_lora_rank may be null */
    bool reads_dense_count;   /* first_k_dense_replace is honoured */
    bool reads_layer_types;   /* mlp_layer_types is honoured */
    bool mtp_embedding;       /* the MTP layer has an embedding and a head of its own */
} FamilyRules;

const FamilyRules *family_rules(Family family);
const char *family_name(Family family);

/* The family of a config's model_type. Fails: ERR_FORMAT for one that graft does not compute, with the reason. */
MUST_USE Err *family_of_type(const char *model_type, Family *family);

#endif
