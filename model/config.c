/* Families differ in few things: which defaults their transformers class has, whether layers own an indexer, which
 * keys their class honours, and what the multi-token-prediction (MTP) layer brings along. `rules` holds these; the rest
 * of the file reads keys and writes down the tensors.
 * Source: transformers 5.23.0, configuration_{glm_moe_dsa,glm4_moe_lite,deepseek_v3,deepseek_v32}.py. */
#include "model/config.h"

#include "base/memory.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
} Rules;

static const Rules rules[] = {
    [FAMILY_GLM_MOE_DSA] = {"glm_moe_dsa", 2.5, 1e-5, 1, 1, .indexer = true, .may_share = true,
                            .indexer_interleaved = true, .reads_dense_count = true, .reads_layer_types = true},
    [FAMILY_GLM4_MOE_LITE] = {"glm4_moe_lite", 1.8, 1e-5, 1, 1, .may_split_rope = true, .may_lack_q_lora = true,
                              .reads_layer_types = true, .mtp_embedding = true},
    [FAMILY_DEEPSEEK_V3] = {"deepseek_v3", 2.5, 1e-6, 8, 4, .may_split_rope = true, .may_lack_q_lora = true,
                            .reads_dense_count = true, .mtp_embedding = true},
    [FAMILY_DEEPSEEK_V32] = {"deepseek_v32", 2.5, 1e-6, 8, 4, .indexer = true, .reads_dense_count = true,
                             .reads_layer_types = true, .mtp_embedding = true},
};

const char *family_name(Family family) { return rules[family].name; }

/* ---- the family ----------------------------------------------------------------------------------------------- */

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

static Err *read_family(ModelConfig *c, const Json *root)
{
    const char *found;
    TRY(json_get_string(root, "model_type", &found));
    TRY(mem_copy_text(&c->model_type, found));
    for (size_t i = 0; i < sizeof known_types / sizeof *known_types; i++) {
        if (strcmp(found, known_types[i].model_type)) continue;
        c->family = known_types[i].family;
        return NULL;
    }
    const char *reason = "graft does not know it";
    for (size_t i = 0; i < sizeof refused_types / sizeof *refused_types; i++)
        if (strcmp(found, refused_types[i].model_type) == 0) reason = refused_types[i].reason;
    return err_new(ERR_FORMAT,
                   "model_type %s is not supported: %s; supported: glm_moe_dsa, glm4_moe_lite, deepseek_v3, "
                   "kimi_k2, deepseek_v32",
                   found, reason);
}

/* ---- sizes ---------------------------------------------------------------------------------------------------- */

/* The limits keep every product of sizes inside 63 bits. */
enum {
    MOST_LAYERS = 1000,
    MOST_EXPERTS = 4096,
    MOST_GROUPS = 64,
    MOST_HEADS = 4096,
    MOST_WIDTH = 1 << 18,
    MOST_TOKENS = 1 << 24
};

typedef struct {
    const char *key;
    size_t offset;
    int64_t max;
} Size;

#define SIZE(key, max)                        \
    {                                         \
#key, offsetof(ModelConfig, key), max \
    }
static const Size sizes[] = {SIZE(vocab_size, MOST_TOKENS),
                             SIZE(hidden_size, MOST_WIDTH),
                             SIZE(intermediate_size, MOST_WIDTH),
                             SIZE(moe_intermediate_size, MOST_WIDTH),
                             SIZE(num_hidden_layers, MOST_LAYERS),
                             SIZE(num_attention_heads, MOST_HEADS),
                             SIZE(n_shared_experts, 64),
                             SIZE(num_experts_per_tok, MOST_EXPERTS),
                             SIZE(kv_lora_rank, MOST_WIDTH),
                             SIZE(qk_nope_head_dim, MOST_HEADS),
                             SIZE(qk_rope_head_dim, MOST_HEADS),
                             SIZE(v_head_dim, MOST_HEADS),
                             SIZE(max_position_embeddings, 1 << 30)};
static const Size indexer_sizes[] = {SIZE(index_topk, 1 << 30), SIZE(index_head_dim, MOST_HEADS),
                                     SIZE(index_n_heads, MOST_HEADS)};

static Err *read_sizes(ModelConfig *c, const Json *root, const Size *table, size_t n)
{
    for (size_t i = 0; i < n; i++)
        TRY(json_get_int(root, table[i].key, 1, table[i].max, (int64_t *)((char *)c + table[i].offset)));
    return NULL;
}

/* n_routed_experts, under any of the names transformers takes for it. */
static Err *read_experts(ModelConfig *c, const Json *root)
{
    static const char *const names[] = {"n_routed_experts", "num_local_experts", "num_experts"};
    const char *first = NULL;
    for (int i = 0; i < 3; i++) {
        int64_t n = 0;
        TRY(json_may_int(root, names[i], 1, MOST_EXPERTS, &n));
        if (n && first && n != c->n_routed_experts)
            return err_new(ERR_FORMAT, "key %s is %lld, but %s is %lld", names[i], (long long)n, first,
                           (long long)c->n_routed_experts);
        if (n && !first) first = names[i];
        if (n) c->n_routed_experts = n;
    }
    return first ? NULL : err_new(ERR_FORMAT, "key n_routed_experts is missing; expected an integer");
}

static Err *read_q_lora_rank(ModelConfig *c, const Json *root)
{
    const Json *value = json_find(root, "q_lora_rank");
    if (value && json_kind(value) == JSON_NULL && rules[c->family].may_lack_q_lora) return NULL;
    return json_get_int(root, "q_lora_rank", 1, MOST_WIDTH, &c->q_lora_rank);
}

/* Keys that only repeat what other keys say. */
static Err *check_repeated(ModelConfig *c, const Json *root)
{
    c->qk_head_dim = c->qk_nope_head_dim + c->qk_rope_head_dim;
    int64_t qk_head_dim = c->qk_head_dim, kv_heads = c->num_attention_heads;
    TRY(json_may_int(root, "qk_head_dim", 1, 2 * MOST_HEADS, &qk_head_dim));
    TRY(json_may_int(root, "num_key_value_heads", 1, MOST_HEADS, &kv_heads));
    if (qk_head_dim != c->qk_head_dim)
        return err_new(ERR_FORMAT, "key qk_head_dim is %lld; expected qk_nope_head_dim + qk_rope_head_dim = %lld",
                       (long long)qk_head_dim, (long long)c->qk_head_dim);
    if (kv_heads != c->num_attention_heads)
        return err_new(ERR_FORMAT, "key num_key_value_heads is %lld; expected num_attention_heads, %lld",
                       (long long)kv_heads, (long long)c->num_attention_heads);
    if (c->qk_rope_head_dim % 2)
        return err_new(ERR_FORMAT, "key qk_rope_head_dim is %lld; expected an even number",
                       (long long)c->qk_rope_head_dim);
    if (c->index_head_dim && c->index_head_dim < c->qk_rope_head_dim)
        return err_new(ERR_FORMAT, "key index_head_dim is %lld; expected at least qk_rope_head_dim, %lld",
                       (long long)c->index_head_dim, (long long)c->qk_rope_head_dim);
    return NULL;
}

/* ---- routing -------------------------------------------------------------------------------------------------- */

static Err *read_routing(ModelConfig *c, const Json *root)
{
    const Rules *r = &rules[c->family];
    c->routed_scaling_factor = r->routed_scaling_factor;
    c->n_group = r->n_group;
    c->topk_group = r->topk_group;
    c->norm_topk_prob = true;
    TRY(json_may_number(root, "routed_scaling_factor", &c->routed_scaling_factor));
    TRY(json_may_bool(root, "norm_topk_prob", &c->norm_topk_prob));
    TRY(json_may_int(root, "n_group", 1, MOST_GROUPS, &c->n_group));
    TRY(json_may_int(root, "topk_group", 1, MOST_EXPERTS, &c->topk_group));
    if (c->n_routed_experts % c->n_group)
        return err_new(ERR_FORMAT, "key n_group is %lld; expected a divisor of n_routed_experts, %lld",
                       (long long)c->n_group, (long long)c->n_routed_experts);
    int64_t per_group = c->n_routed_experts / c->n_group;
    if (c->topk_group > c->n_group)
        return err_new(ERR_FORMAT, "key topk_group is %lld; expected at most n_group, %lld", (long long)c->topk_group,
                       (long long)c->n_group);
    if (c->n_group > 1 && per_group < 2) /* a group's score is the sum of its best two */
        return err_new(ERR_FORMAT, "key n_group is %lld; expected two experts or more in each group",
                       (long long)c->n_group);
    if (c->num_experts_per_tok > c->topk_group * per_group)
        return err_new(ERR_FORMAT,
                       "key num_experts_per_tok is %lld; expected at most %lld, the experts of topk_group groups",
                       (long long)c->num_experts_per_tok, (long long)(c->topk_group * per_group));
    return NULL;
}

/* ---- what each layer is --------------------------------------------------------------------------------------- */

/* One of two words for each layer. */
static Err *read_words(const Json *root, const char *key, const char *yes, const char *no, size_t n, bool *out)
{
    const Json *list;
    TRY(json_get_array(root, key, &list));
    if (json_count(list) != n)
        return err_new(ERR_FORMAT, "key %s has %zu entries; expected num_hidden_layers, %zu", key, json_count(list), n);
    size_t layer = 0;
    for (const Json *word = json_first(list); word; word = json_next(word), layer++) {
        const char *text = json_kind(word) == JSON_STRING ? json_string(word) : json_kind_name(word);
        if (strcmp(text, yes) && strcmp(text, no))
            return err_new(ERR_FORMAT, "key %s[%zu] is %s; expected %s or %s", key, layer, text, yes, no);
        out[layer] = strcmp(text, yes) == 0;
    }
    return NULL;
}

static bool is_given(const Json *root, const char *key)
{
    const Json *value = json_find(root, key);
    return value && json_kind(value) != JSON_NULL;
}

static Err *read_dense(ModelConfig *c, const Json *root)
{
    const Rules *r = &rules[c->family];
    size_t n = (size_t)c->num_hidden_layers;
    int64_t first_k = 1; /* glm4_moe_lite reads no count: one dense layer, unless the list says otherwise */
    TRY(mem_new(&c->dense, n, sizeof *c->dense));
    if (r->reads_layer_types && is_given(root, "mlp_layer_types"))
        return read_words(root, "mlp_layer_types", "dense", "sparse", n, c->dense);
    if (r->reads_dense_count) TRY(json_get_int(root, "first_k_dense_replace", 0, MOST_LAYERS, &first_k));
    for (size_t l = 0; l < n; l++) c->dense[l] = (int64_t)l < first_k;
    return NULL;
}

static Err *read_pattern(const Json *root, size_t n, bool *out)
{
    const char *key = "index_topk_pattern";
    const Json *pattern = json_find(root, key);
    if (json_kind(pattern) == JSON_ARRAY) return read_words(root, key, "F", "S", n, out);
    if (json_kind(pattern) != JSON_STRING)
        return err_new(ERR_FORMAT, "key %s is %s; expected a string or an array", key, json_kind_name(pattern));
    const char *text = json_string(pattern);
    if (strlen(text) != n || strspn(text, "FS") != n)
        return err_new(ERR_FORMAT, "key %s is \"%s\"; expected an F or an S for each of %zu layers", key, text, n);
    for (size_t l = 0; l < n; l++) out[l] = text[l] == 'F';
    return NULL;
}

/* Layer l owns an indexer when max(l - offset + 1, 0) is a multiple of the frequency. */
static Err *derive_indexer(const Json *root, size_t n, bool *out)
{
    int64_t freq = 1, offset = 2;
    TRY(json_may_int(root, "index_topk_freq", 0, MOST_LAYERS, &freq));
    TRY(json_may_int(root, "index_skip_topk_offset", 0, MOST_LAYERS, &offset));
    if (freq < 1) freq = 1;
    for (int64_t l = 0; l < (int64_t)n; l++) out[l] = l - offset + 1 <= 0 || (l - offset + 1) % freq == 0;
    return NULL;
}

static Err *read_indexer(ModelConfig *c, const Json *root)
{
    const Rules *r = &rules[c->family];
    size_t n = (size_t)c->num_hidden_layers;
    TRY(mem_new(&c->indexer, n, sizeof *c->indexer));
    if (!r->indexer) return NULL;
    if (!r->may_share)
        memset(c->indexer, true, n);
    else if (is_given(root, "indexer_types"))
        TRY(read_words(root, "indexer_types", "full", "shared", n, c->indexer));
    else if (is_given(root, "index_topk_pattern"))
        TRY(read_pattern(root, n, c->indexer));
    else
        TRY(derive_indexer(root, n, c->indexer));
    return c->indexer[0] ? NULL
                         : err_new(ERR_FORMAT, "layer 0 shares an indexer, but no layer is below it; it must be full");
}

/* ---- rotary positions ----------------------------------------------------------------------------------------- */

static Err *read_yarn(ModelConfig *c, const Json *rope)
{
    RopeConfig *y = &c->rope;
    y->yarn = y->truncate = true;
    y->beta_fast = 32;
    y->beta_slow = 1;
    y->original_max_position_embeddings = c->max_position_embeddings;
    TRY(json_get_number(rope, "factor", &y->factor));
    TRY(json_may_number(rope, "beta_fast", &y->beta_fast));
    TRY(json_may_number(rope, "beta_slow", &y->beta_slow));
    TRY(json_may_number(rope, "mscale", &y->mscale));
    TRY(json_may_number(rope, "mscale_all_dim", &y->mscale_all_dim));
    TRY(json_may_number(rope, "attention_factor", &y->attention_factor));
    TRY(json_may_bool(rope, "truncate", &y->truncate));
    TRY(json_may_int(rope, "original_max_position_embeddings", 1, 1 << 30, &y->original_max_position_embeddings));
    if (y->factor < 1) return err_new(ERR_FORMAT, "key factor is %g; expected 1 or more", y->factor);
    if (!(y->beta_slow > 0 && y->beta_fast >= y->beta_slow))
        return err_new(ERR_FORMAT, "key beta_fast is %g and beta_slow %g; expected beta_fast >= beta_slow > 0",
                       y->beta_fast, y->beta_slow);
    if (y->mscale < 0 || y->mscale_all_dim < 0 || y->attention_factor < 0)
        return err_new(ERR_FORMAT, "keys mscale, mscale_all_dim, attention_factor: one is negative");
    return NULL;
}

static Err *read_rope_object(ModelConfig *c, const Json *rope)
{
    const char *type = "default";
    double partial = 1;
    TRY(json_may_number(rope, "rope_theta", &c->rope.rope_theta));
    TRY(json_may_number(rope, "partial_rotary_factor", &partial));
    TRY(json_may_string(rope, "type", &type));
    TRY(json_may_string(rope, "rope_type", &type));
    if (partial != 1) return err_new(ERR_FORMAT, "key partial_rotary_factor is %g; graft computes only 1", partial);
    if (strcmp(type, "yarn") == 0) return read_yarn(c, rope);
    if (strcmp(type, "default") == 0) return NULL;
    return err_new(ERR_FORMAT, "key rope_type is %s; graft computes only default and yarn", type);
}

/* rope_scaling, when it is not null, wins over rope_parameters. */
static Err *read_rope(ModelConfig *c, const Json *root)
{
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    c->rope.rope_theta = 10000;
    TRY(json_may_number(root, "rope_theta", &c->rope.rope_theta));
    for (int i = 0; i < 2; i++) {
        const Json *rope;
        if (!is_given(root, keys[i])) continue;
        TRY(json_get_object(root, keys[i], &rope));
        TRY(err_wrap(read_rope_object(c, rope), "%s", keys[i]));
        break;
    }
    if (c->rope.rope_theta <= 1)
        return err_new(ERR_FORMAT, "key rope_theta is %g; expected more than 1", c->rope.rope_theta);
    return NULL;
}

/* Which halves of a head rotate together. Some classes fix this and ignore the keys; a file that disagrees is refused. */
static Err *read_rope_style(ModelConfig *c, const Json *root)
{
    const Rules *r = &rules[c->family];
    c->rope_interleave = true;
    c->indexer_rope_interleave = r->indexer_interleaved;
    TRY(json_may_bool(root, "rope_interleave", &c->rope_interleave));
    TRY(json_may_bool(root, "indexer_rope_interleave", &c->indexer_rope_interleave));
    if (!c->rope_interleave && !r->may_split_rope)
        return err_new(ERR_FORMAT, "key rope_interleave is false; %s always interleaves", r->name);
    if (r->indexer && c->indexer_rope_interleave != r->indexer_interleaved)
        return err_new(ERR_FORMAT, "key indexer_rope_interleave is %s; %s %s interleaves there",
                       c->indexer_rope_interleave ? "true" : "false", r->name,
                       r->indexer_interleaved ? "always" : "never");
    return NULL;
}

/* ---- what graft does not compute ------------------------------------------------------------------------------ */

static const struct {
    const char *key, *only;
} only_texts[] = {{"scoring_func", "sigmoid"},
                  {"topk_method", "noaux_tc"},
                  {"hidden_act", "silu"},
                  {"moe_router_dtype", "float32"}};
static const char *const only_false[] = {"attention_bias", "mlp_bias", "tie_word_embeddings"};
static const struct {
    const char *key;
    double only;
} only_numbers[] = {{"moe_layer_freq", 1}, {"partial_rotary_factor", 1}, {"attention_dropout", 0}};

static Err *refuse_others(const Json *root)
{
    for (size_t i = 0; i < sizeof only_texts / sizeof *only_texts; i++) {
        const char *found = only_texts[i].only;
        TRY(json_may_string(root, only_texts[i].key, &found));
        if (strcmp(found, only_texts[i].only))
            return err_new(ERR_FORMAT, "key %s is %s; graft computes only %s", only_texts[i].key, found,
                           only_texts[i].only);
    }
    for (size_t i = 0; i < sizeof only_false / sizeof *only_false; i++) {
        bool found = false;
        TRY(json_may_bool(root, only_false[i], &found));
        if (found) return err_new(ERR_FORMAT, "key %s is true; graft computes only false", only_false[i]);
    }
    for (size_t i = 0; i < sizeof only_numbers / sizeof *only_numbers; i++) {
        double found = only_numbers[i].only;
        TRY(json_may_number(root, only_numbers[i].key, &found));
        if (found != only_numbers[i].only)
            return err_new(ERR_FORMAT, "key %s is %g; graft computes only %g", only_numbers[i].key, found,
                           only_numbers[i].only);
    }
    return NULL;
}

/* Only FP8 E4M3 with a factor for each block of 128 x 128. */
static Err *read_quantization(ModelConfig *c, const Json *root)
{
    const Json *object, *block;
    const char *method, *fmt = "e4m3", *scheme = "dynamic";
    if (!is_given(root, "quantization_config")) return NULL;
    TRY(json_get_object(root, "quantization_config", &object));
    TRY(json_get_string(object, "quant_method", &method));
    if (strcmp(method, "fp8"))
        return err_new(ERR_FORMAT, "key quant_method is %s; graft reads only fp8 (E4M3 in blocks of 128 x 128)",
                       method);
    TRY(json_may_string(object, "fmt", &fmt));
    if (strcmp(fmt, "e4m3")) return err_new(ERR_FORMAT, "key fmt is %s; graft reads only e4m3", fmt);
    TRY(json_may_string(object, "activation_scheme", &scheme));
    if (strcmp(scheme, "dynamic"))
        return err_new(ERR_FORMAT, "key activation_scheme is %s; graft reads only dynamic", scheme);
    TRY(json_get_array(object, "weight_block_size", &block));
    bool square = json_count(block) == 2;
    for (const Json *side = json_first(block); side; side = json_next(side)) {
        int64_t n;
        TRY(json_to_int(side, "weight_block_size", 1, MOST_WIDTH, &n));
        square = square && n == 128;
    }
    if (!square) return err_new(ERR_FORMAT, "key weight_block_size: graft reads only [128, 128]");
    c->fp8 = true;
    return NULL;
}

/* ---- the whole file ------------------------------------------------------------------------------------------- */

static Err *read_eos(ModelConfig *c, const Json *root)
{
    const Json *ids = json_find(root, "eos_token_id");
    if (!is_given(root, "eos_token_id")) return NULL;
    bool list = json_kind(ids) == JSON_ARRAY;
    for (const Json *id = list ? json_first(ids) : ids; id; id = list ? json_next(id) : NULL) {
        if (c->n_eos == MAX_EOS) return err_new(ERR_FORMAT, "key eos_token_id has more than %d entries", MAX_EOS);
        TRY(json_to_int(id, "eos_token_id", 0, INT32_MAX, &c->eos_token_id[c->n_eos++]));
    }
    return NULL;
}

static Err *read_all(ModelConfig *c, const Json *root)
{
    if (json_kind(root) != JSON_OBJECT)
        return err_new(ERR_FORMAT, "the file holds %s; expected an object", json_kind_name(root));
    TRY(read_family(c, root));
    TRY(read_sizes(c, root, sizes, sizeof sizes / sizeof *sizes));
    if (rules[c->family].indexer) TRY(read_sizes(c, root, indexer_sizes, sizeof indexer_sizes / sizeof *indexer_sizes));
    TRY(read_experts(c, root));
    TRY(read_q_lora_rank(c, root));
    TRY(check_repeated(c, root));
    TRY(json_may_int(root, "num_nextn_predict_layers", 0, 8, &c->num_nextn_predict_layers));
    TRY(read_routing(c, root));
    c->rms_norm_eps = rules[c->family].rms_norm_eps;
    c->latent_norm_eps = 1e-6;
    TRY(json_may_number(root, "rms_norm_eps", &c->rms_norm_eps));
    if (c->rms_norm_eps <= 0)
        return err_new(ERR_FORMAT, "key rms_norm_eps is %g; expected more than 0", c->rms_norm_eps);
    TRY(refuse_others(root));
    TRY(read_rope(c, root));
    TRY(read_rope_style(c, root));
    TRY(read_quantization(c, root));
    TRY(read_eos(c, root));
    TRY(read_dense(c, root));
    return read_indexer(c, root);
}

Err *model_config_read(ModelConfig *config, const char *path)
{
    Json *root = NULL;
    *config = (ModelConfig){0};
    TRY(json_read_file(&root, path));
    Err *err = mem_copy_text(&config->path, path);
    if (!err) err = read_all(config, root);
    json_free(root);
    if (err) model_config_free(config);
    return err_wrap(err, "%s", path);
}

void model_config_free(ModelConfig *config)
{
    free(config->path);
    free(config->model_type);
    free(config->dense);
    free(config->indexer);
    *config = (ModelConfig){0};
}

/* ---- its tensors ---------------------------------------------------------------------------------------------- */

typedef struct {
    const ModelConfig *c;
    TensorVisit visit;
    void *context;
    char prefix[64]; /* "model.layers.3." */
    bool mtp;
    Err *err; /* the first; what follows does nothing */
} Walk;

static void PRINTF(3, 4) tell(Walk *w, TensorSpec spec, const char *format, ...)
{
    char name[192];
    if (w->err) return;
    int n = snprintf(name, sizeof name, "%s", w->prefix);
    va_list args;
    va_start(args, format);
    vsnprintf(name + n, sizeof name - (size_t)n, format, args);
    va_end(args);
    spec.mtp = w->mtp;
    if (w->mtp) spec.part = "MTP";
    w->err = w->visit(w->context, name, &spec);
}

static TensorSpec vector(const char *part, int64_t n)
{
    return (TensorSpec){.part = part, .rows = 1, .cols = (size_t)n, .vector = true};
}

static TensorSpec matrix(const char *part, int64_t rows, int64_t cols)
{
    return (TensorSpec){.part = part, .rows = (size_t)rows, .cols = (size_t)cols};
}

static TensorSpec projection(const char *part, int64_t rows, int64_t cols) /* a matrix that FP8 files quantise */
{
    return (TensorSpec){.part = part, .rows = (size_t)rows, .cols = (size_t)cols, .may_fp8 = true};
}

static void attention_tensors(Walk *w)
{
    const ModelConfig *c = w->c;
    const char *part = "attention";
    int64_t D = c->hidden_size, H = c->num_attention_heads;
    if (c->q_lora_rank) {
        tell(w, projection(part, c->q_lora_rank, D), "self_attn.q_a_proj.weight");
        tell(w, vector(part, c->q_lora_rank), "self_attn.q_a_layernorm.weight");
        tell(w, projection(part, H * c->qk_head_dim, c->q_lora_rank), "self_attn.q_b_proj.weight");
    } else {
        tell(w, projection(part, H * c->qk_head_dim, D), "self_attn.q_proj.weight");
    }
    tell(w, projection(part, c->kv_lora_rank + c->qk_rope_head_dim, D), "self_attn.kv_a_proj_with_mqa.weight");
    tell(w, vector(part, c->kv_lora_rank), "self_attn.kv_a_layernorm.weight");
    tell(w, projection(part, H * (c->qk_nope_head_dim + c->v_head_dim), c->kv_lora_rank), "self_attn.kv_b_proj.weight");
    tell(w, projection(part, D, H * c->v_head_dim), "self_attn.o_proj.weight");
}

static void indexer_tensors(Walk *w)
{
    const ModelConfig *c = w->c;
    const char *part = "indexer";
    tell(w, projection(part, c->index_n_heads * c->index_head_dim, c->q_lora_rank), "self_attn.indexer.wq_b.weight");
    tell(w, projection(part, c->index_head_dim, c->hidden_size), "self_attn.indexer.wk.weight");
    tell(w, vector(part, c->index_head_dim), "self_attn.indexer.k_norm.weight");
    tell(w, vector(part, c->index_head_dim), "self_attn.indexer.k_norm.bias");
    tell(w, matrix(part, c->index_n_heads, c->hidden_size), "self_attn.indexer.weights_proj.weight");
}

static void mlp_tensors(Walk *w, const char *part, const char *where, int64_t width)
{
    int64_t D = w->c->hidden_size;
    tell(w, projection(part, width, D), "%sgate_proj.weight", where);
    tell(w, projection(part, width, D), "%sup_proj.weight", where);
    tell(w, projection(part, D, width), "%sdown_proj.weight", where);
}

static void moe_tensors(Walk *w)
{
    const ModelConfig *c = w->c;
    TensorSpec bias = vector("router", c->n_routed_experts);
    bias.must_f32 = true;
    tell(w, matrix("router", c->n_routed_experts, c->hidden_size), "mlp.gate.weight");
    tell(w, bias, "mlp.gate.e_score_correction_bias");
    for (int64_t e = 0; e < c->n_routed_experts && !w->err; e++) {
        char where[48];
        snprintf(where, sizeof where, "mlp.experts.%lld.", (long long)e);
        mlp_tensors(w, "experts", where, c->moe_intermediate_size);
    }
    mlp_tensors(w, "shared experts", "mlp.shared_experts.", c->n_shared_experts * c->moe_intermediate_size);
}

static void layer_tensors(Walk *w, bool indexer, bool dense)
{
    const ModelConfig *c = w->c;
    tell(w, vector("norms", c->hidden_size), "input_layernorm.weight");
    attention_tensors(w);
    if (indexer) indexer_tensors(w);
    tell(w, vector("norms", c->hidden_size), "post_attention_layernorm.weight");
    if (dense)
        mlp_tensors(w, "dense MLP", "mlp.", c->intermediate_size);
    else
        moe_tensors(w);
}

/* An MTP layer is a whole layer of experts, with what joins it to the last one. */
static void mtp_tensors(Walk *w)
{
    const ModelConfig *c = w->c;
    const Rules *r = &rules[c->family];
    int64_t D = c->hidden_size;
    if (r->mtp_embedding) tell(w, matrix("MTP", c->vocab_size, D), "embed_tokens.weight");
    tell(w, vector("MTP", D), "enorm.weight");
    tell(w, vector("MTP", D), "hnorm.weight");
    tell(w, matrix("MTP", D, 2 * D), "eh_proj.weight");
    layer_tensors(w, r->indexer, false);
    tell(w, vector("MTP", D), "shared_head.norm.weight");
    if (r->mtp_embedding) tell(w, matrix("MTP", c->vocab_size, D), "shared_head.head.weight");
}

Err *model_config_tensors(const ModelConfig *c, bool with_mtp, TensorVisit visit, void *context)
{
    Walk w = {.c = c, .visit = visit, .context = context};
    int64_t n_layers = c->num_hidden_layers, n_mtp = with_mtp ? c->num_nextn_predict_layers : 0;
    tell(&w, matrix("embedding", c->vocab_size, c->hidden_size), "model.embed_tokens.weight");
    for (int64_t l = 0; l < n_layers + n_mtp && !w.err; l++) {
        snprintf(w.prefix, sizeof w.prefix, "model.layers.%lld.", (long long)l);
        w.mtp = l >= n_layers;
        if (w.mtp)
            mtp_tensors(&w);
        else
            layer_tensors(&w, c->indexer[l], c->dense[l]);
    }
    w.prefix[0] = 0;
    w.mtp = false;
    tell(&w, vector("norms", c->hidden_size), "model.norm.weight");
    tell(&w, matrix("head", c->vocab_size, c->hidden_size), "lm_head.weight");
    return w.err;
}
