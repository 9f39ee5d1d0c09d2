/* Reads the keys of config.json, gives them the defaults of the family's transformers class (model/family.h), and
 * refuses every value that graft would not compute. What always holds: a config that was read is one that the equations
 * of docs/glm5.md cover; no size falls back to a default.
 * Source: transformers 5.23.0, configuration_{glm_moe_dsa,glm4_moe_lite,deepseek_v3,deepseek_v32}.py. */
#include "model/config.h"

#include "base/file.h"
#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the family ----------------------------------------------------------------------------------------------- */

static Err *read_family(ModelConfig *c, const Json *root)
{
    const char *found;
    TRY(json_get_string(root, "model_type", &found));
    TRY(mem_copy_text(&c->model_type, found));
    return family_of_type(found, &c->family);
}

/* ---- sizes ---------------------------------------------------------------------------------------------------- */

/* The limits keep every product of sizes inside 63 bits. */
enum {
    MAX_LAYERS = 1000,
    MAX_EXPERTS = 4096,
    MAX_GROUPS = 64,
    MAX_HEADS = 4096,
    MAX_WIDTH = 1 << 18,
    MAX_TOKENS = 1 << 24
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
static const Size sizes[] = {SIZE(vocab_size, MAX_TOKENS),
                             SIZE(hidden_size, MAX_WIDTH),
                             SIZE(intermediate_size, MAX_WIDTH),
                             SIZE(moe_intermediate_size, MAX_WIDTH),
                             SIZE(num_hidden_layers, MAX_LAYERS),
                             SIZE(num_attention_heads, MAX_HEADS),
                             SIZE(n_shared_experts, 64),
                             SIZE(num_experts_per_tok, MAX_EXPERTS),
                             SIZE(kv_lora_rank, MAX_WIDTH),
                             SIZE(qk_nope_head_dim, MAX_HEADS),
                             SIZE(qk_rope_head_dim, MAX_HEADS),
                             SIZE(v_head_dim, MAX_HEADS),
                             SIZE(max_position_embeddings, 1 << 30)};
static const Size indexer_sizes[] = {SIZE(index_topk, 1 << 30), SIZE(index_head_dim, MAX_HEADS),
                                     SIZE(index_n_heads, MAX_HEADS)};

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
        TRY(json_may_int(root, names[i], 1, MAX_EXPERTS, &n));
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
    if (value && json_kind(value) == JSON_NULL && family_rules(c->family)->may_lack_q_lora) return NULL;
    return json_get_int(root, "q_lora_rank", 1, MAX_WIDTH, &c->q_lora_rank);
}

/* Keys that only repeat what other keys say. */
static Err *check_repeated(ModelConfig *c, const Json *root)
{
    c->qk_head_dim = c->qk_nope_head_dim + c->qk_rope_head_dim;
    int64_t qk_head_dim = c->qk_head_dim, kv_heads = c->num_attention_heads;
    TRY(json_may_int(root, "qk_head_dim", 1, 2 * MAX_HEADS, &qk_head_dim));
    TRY(json_may_int(root, "num_key_value_heads", 1, MAX_HEADS, &kv_heads));
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
    const FamilyRules *r = family_rules(c->family);
    c->routed_scaling_factor = r->routed_scaling_factor;
    c->n_group = r->n_group;
    c->topk_group = r->topk_group;
    c->norm_topk_prob = true;
    TRY(json_may_number(root, "routed_scaling_factor", &c->routed_scaling_factor));
    TRY(json_may_bool(root, "norm_topk_prob", &c->norm_topk_prob));
    TRY(json_may_int(root, "n_group", 1, MAX_GROUPS, &c->n_group));
    TRY(json_may_int(root, "topk_group", 1, MAX_EXPERTS, &c->topk_group));
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
    const FamilyRules *r = family_rules(c->family);
    size_t n = (size_t)c->num_hidden_layers;
    int64_t first_k = 1; /* glm4_moe_lite reads no count: one dense layer, unless the list says otherwise */
    TRY(mem_new(&c->dense, n, sizeof *c->dense));
    if (r->reads_layer_types && is_given(root, "mlp_layer_types"))
        return read_words(root, "mlp_layer_types", "dense", "sparse", n, c->dense);
    if (r->reads_dense_count) TRY(json_get_int(root, "first_k_dense_replace", 0, MAX_LAYERS, &first_k));
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
    TRY(json_may_int(root, "index_topk_freq", 0, MAX_LAYERS, &freq));
    TRY(json_may_int(root, "index_skip_topk_offset", 0, MAX_LAYERS, &offset));
    if (freq < 1) freq = 1;
    for (int64_t l = 0; l < (int64_t)n; l++) out[l] = l - offset + 1 <= 0 || (l - offset + 1) % freq == 0;
    return NULL;
}

static Err *read_indexer(ModelConfig *c, const Json *root)
{
    const FamilyRules *r = family_rules(c->family);
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

/* Which halves of a head rotate together. Some classes fix this and ignore the keys; a file that disagrees is
 * refused. */
static Err *read_rope_style(ModelConfig *c, const Json *root)
{
    const FamilyRules *r = family_rules(c->family);
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
        TRY(json_to_int(side, "weight_block_size", 1, MAX_WIDTH, &n));
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
    c->n_eos = 0;
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
    if (family_rules(c->family)->indexer)
        TRY(read_sizes(c, root, indexer_sizes, sizeof indexer_sizes / sizeof *indexer_sizes));
    TRY(read_experts(c, root));
    TRY(read_q_lora_rank(c, root));
    TRY(check_repeated(c, root));
    TRY(json_may_int(root, "num_nextn_predict_layers", 0, 8, &c->num_nextn_predict_layers));
    TRY(read_routing(c, root));
    c->rms_norm_eps = family_rules(c->family)->rms_norm_eps;
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

Err *model_config_end_tokens(ModelConfig *config, const char *directory)
{
    char path[PATH_BYTES];
    Json *card;
    TRY(file_join(path, directory, "generation_config.json"));
    if (!file_exists(path)) return NULL;
    TRY(json_read_file(&card, path));
    Err *err = read_eos(config, card);
    json_free(card);
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
