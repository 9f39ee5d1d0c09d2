/* Families differ in few things: the defaults of their transformers class, whether layers own an indexer, which keys
 * their class honours, and the tensors of the multi-token-prediction (MTP) layer.
 * Source: transformers 5.23.0, configuration_{glm_moe_dsa,glm4_moe_lite,deepseek_v3,deepseek_v32}.py. */
#include "model/family.h"

#include <string.h>

static const FamilyRules rules[] = {
    [FAMILY_GLM_MOE_DSA] = {"glm_moe_dsa", 2.5, 1e-5, 1, 1, .indexer = true, .may_share = true,
                            .indexer_interleaved = true, .reads_dense_count = true, .reads_layer_types = true},
    [FAMILY_GLM4_MOE_LITE] = {"glm4_moe_lite", 1.8, 1e-5, 1, 1, .may_split_rope = true, .may_lack_q_lora = true,
                              .reads_layer_types = true, .mtp_embedding = true},
    [FAMILY_DEEPSEEK_V3] = {"deepseek_v3", 2.5, 1e-6, 8, 4, .may_split_rope = true, .may_lack_q_lora = true,
                            .reads_dense_count = true, .mtp_embedding = true},
    [FAMILY_DEEPSEEK_V32] = {"deepseek_v32", 2.5, 1e-6, 8, 4, .indexer = true, .reads_dense_count = true,
                             .reads_layer_types = true, .mtp_embedding = true},
};

const FamilyRules *family_rules(Family family) { return &rules[family]; }
const char *family_name(Family family) { return rules[family].name; }

static const struct {
    const char *model_type;
    Family family;
} known_types[] = {{"glm_moe_dsa", FAMILY_GLM_MOE_DSA},
                   {"glm4_moe_lite", FAMILY_GLM4_MOE_LITE},
                   {"deepseek_v3", FAMILY_DEEPSEEK_V3},
                   {"kimi_k2", FAMILY_DEEPSEEK_V3},
                   {"deepseek_v32", FAMILY_DEEPSEEK_V32}};

static const struct {
    const char *model_type, *reason;
} refused_types[] = {{"glm5_next",
                      "GLM-5.3-Flash has linear attention, hyper-connections and a vision tower, which graft lacks"},
                     {"glm4_moe",
                      "GLM-4.5, 4.6 and 4.7 have grouped-query attention, graft computes latent attention"}};

Err *family_of_type(const char *model_type, Family *family)
{
    for (size_t i = 0; i < sizeof known_types / sizeof *known_types; i++) {
        if (strcmp(model_type, known_types[i].model_type)) continue;
        *family = known_types[i].family;
        return NULL;
    }
    const char *reason = "graft does not know it";
    for (size_t i = 0; i < sizeof refused_types / sizeof *refused_types; i++)
        if (strcmp(model_type, refused_types[i].model_type) == 0) reason = refused_types[i].reason;
    return err_new(ERR_FORMAT,
                   "model_type %s is not supported: %s; supported: glm_moe_dsa, glm4_moe_lite, deepseek_v3, "
                   "kimi_k2, deepseek_v32",
                   model_type, reason);
}
