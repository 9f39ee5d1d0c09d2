#include "model/config.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#define FIXTURES "tests/fixtures/configs/"

/* ---- reading a fixture with some keys changed ----------------------------------------------------------------- */

/* A copy of a fixture whose members are those of `changes`, where it has them; a member "-key" removes key. */
static Err *read_changed(void **state, ModelConfig *config, const char *fixture, const char *changes)
{
    Json *old, *set, *new = json_new_object();
    char path[PATH_BYTES], removed[64], *text;
    assert_ok(json_read_file(&old, fixture));
    assert_ok(json_parse(&set, changes, strlen(changes)));
    for (const Json *member = json_first(old); member; member = json_next(member)) {
        snprintf(removed, sizeof removed, "-%s", json_key(member));
        if (!json_find(set, removed)) json_add(new, json_key(member), json_duplicate(member));
    }
    for (const Json *member = json_first(set); member; member = json_next(member))
        if (json_key(member)[0] != '-') json_set(new, json_key(member), json_duplicate(member));
    assert_ok(json_print(new, true, &text));
    assert_ok(file_write(scratch_path(state, "config.json", path), text, strlen(text)));
    free(text);
    json_free(old), json_free(set), json_free(new);
    return model_config_read(config, path);
}

static void refuses(void **state, const char *fixture, const char *changes, const char *message)
{
    ModelConfig config;
    assert_fails(read_changed(state, &config, fixture, changes), ERR_FORMAT, message);
}

static ModelConfig reads(void **state, const char *fixture, const char *changes)
{
    ModelConfig config;
    assert_ok(read_changed(state, &config, fixture, changes));
    return config;
}

#define GLM5      FIXTURES "glm-5.config.json"
#define GLM52     FIXTURES "glm-5.2.config.json"
#define FLASH     FIXTURES "glm-4.7-flash.config.json"
#define V3        FIXTURES "deepseek-v3.config.json"
#define V32       FIXTURES "deepseek-v3.2.config.json"
#define MOONLIGHT FIXTURES "moonlight-16b-a3b.config.json"
#define KIMI      FIXTURES "kimi-k2-instruct.config.json"
#define TINY_LITE FIXTURES "tiny-random-glm4-moe-lite.config.json"

/* ---- sizes of published models -------------------------------------------------------------------------------- */

typedef struct {
    int64_t tensors, elements, mtp_tensors, mtp_elements, biases, scale_tensors, scales, expert_tensors, sparse_layers;
} Counts;

static Err *count(void *context, const char *name, const TensorSpec *spec)
{
    Counts *c = context;
    int64_t n = (int64_t)(spec->rows * spec->cols);
    c->mtp_tensors += spec->mtp;
    c->mtp_elements += spec->mtp ? n : 0;
    c->tensors += !spec->mtp;
    c->elements += spec->mtp ? 0 : n;
    if (!spec->mtp && spec->must_f32) c->biases += n;
    if (!spec->mtp && spec->must_f32) c->sparse_layers++;
    if (strcmp(spec->part, "experts") == 0) c->expert_tensors++;
    if (spec->may_fp8) {
        c->scale_tensors++;
        c->scales += (int64_t)((spec->rows + 127) / 128 * ((spec->cols + 127) / 128));
    }
    return name[0] ? NULL : err_new(ERR_FORMAT, "a tensor without a name");
}

/* Published or measured: parameters and state-dict entries as transformers 5.23.0 counts them (it keeps the experts of
 * a layer in two tensors), tensors and elements of the files, scales of the FP8 repositories. */
static void counts_are_those_of_the_published_models(void **state)
{
    static const struct {
        const char *path;
        int64_t parameters, elements, tensors, all_elements, all_tensors, entries, scales, scale_tensors;
    } models[] = {
        {GLM5, 743911199232, 743911218432, 59079, 753864139008, 59870, 1629, 45885024, 59158},
        {FIXTURES "glm-5.1.config.json", 743911199232, 743911218432, 59079, 753864139008, 59870, 1629, 45885024, 59158},
        {GLM52, 743377000704, 743377019904, 58794, 753329940480, 59585, 1344, 45853104, 59044},
        {FLASH, 29943390976, 29943393920, 9491, 31221488576, 9703, 751, 0, 0},
        {V3, 671026404352, 671026419200, 45395, 684489845504, 46183, 967, 41540496, 45808},
        {V32, 671877929216, 671877944064, 45700, 685355329792, 46493, 1272, 41591584, 45932},
        {MOONLIGHT, 15960108544, 15960110208, 5317, 15960110208, 5317, 377, 0, 0},
        {KIMI, 1026408209408, 1026408232448, 69975, 1026408232448, 69975, 975, 62495192, 69608},
    };
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        ModelConfig config;
        Counts c = {0}, without = {0};
        assert_ok(model_config_read(&config, models[i].path));
        assert_ok(model_config_tensors(&config, true, count, &c));
        assert_ok(model_config_tensors(&config, false, count, &without));
        assert_int_equal(c.elements, models[i].elements);
        assert_int_equal(c.tensors, models[i].tensors);
        assert_int_equal(c.elements + c.mtp_elements, models[i].all_elements);
        assert_int_equal(c.tensors + c.mtp_tensors, models[i].all_tensors);
        assert_int_equal(c.elements - c.biases, models[i].parameters);
        assert_int_equal(c.tensors - c.expert_tensors + 2 * c.sparse_layers, models[i].entries);
        if (models[i].scales) assert_int_equal(c.scales, models[i].scales);
        if (models[i].scales) assert_int_equal(c.scale_tensors, models[i].scale_tensors);
        assert_int_equal(without.tensors, c.tensors);
        assert_int_equal(without.elements, c.elements);
        assert_int_equal(without.mtp_tensors, 0);
        model_config_free(&config);
    }
}

typedef struct {
    const char *name;
    size_t rows, cols;
    int found;
} Wanted;

static Err *look_for(void *context, const char *name, const TensorSpec *spec)
{
    for (Wanted *w = context; w->name; w++)
        if (strcmp(w->name, name) == 0) w->found += spec->rows == w->rows && spec->cols == w->cols ? 1 : 100;
    return NULL;
}

static void names_and_shapes_are_the_published_ones(void **state)
{
    Wanted glm52[] = {{"model.embed_tokens.weight", 154880, 6144, 0},
                      {"model.layers.0.self_attn.q_b_proj.weight", 16384, 2048, 0},
                      {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 576, 6144, 0},
                      {"model.layers.3.self_attn.kv_b_proj.weight", 28672, 512, 0},
                      {"model.layers.3.self_attn.o_proj.weight", 6144, 16384, 0},
                      {"model.layers.6.self_attn.indexer.wq_b.weight", 4096, 2048, 0},
                      {"model.layers.6.self_attn.indexer.k_norm.bias", 1, 128, 0},
                      {"model.layers.2.mlp.down_proj.weight", 6144, 12288, 0},
                      {"model.layers.77.mlp.experts.255.down_proj.weight", 6144, 2048, 0},
                      {"model.layers.3.mlp.gate.e_score_correction_bias", 1, 256, 0},
                      {"model.layers.78.eh_proj.weight", 6144, 12288, 0},
                      {"model.layers.78.self_attn.indexer.wk.weight", 128, 6144, 0},
                      {"model.layers.78.shared_head.norm.weight", 1, 6144, 0},
                      {"lm_head.weight", 154880, 6144, 0},
                      {0}};
    Wanted absent[] = {{"model.layers.3.self_attn.indexer.wk.weight", 1, 1, 0}, /* shared */
                       {"model.layers.78.embed_tokens.weight", 1, 1, 0},
                       {"model.layers.78.shared_head.head.weight", 1, 1, 0},
                       {0}};
    ModelConfig config;
    (void)state;
    assert_ok(model_config_read(&config, GLM52));
    assert_ok(model_config_tensors(&config, true, look_for, glm52));
    assert_ok(model_config_tensors(&config, true, look_for, absent));
    for (Wanted *w = glm52; w->name; w++) assert_int_equal(w->found, 1);
    for (Wanted *w = absent; w->name; w++) assert_int_equal(w->found, 0);
    model_config_free(&config);
}

static void the_mtp_layer_of_flash_has_its_own_embedding(void **state)
{
    Wanted wanted[] = {{"model.layers.47.embed_tokens.weight", 154880, 2048, 0},
                       {"model.layers.47.shared_head.head.weight", 154880, 2048, 0},
                       {0}};
    ModelConfig config;
    (void)state;
    assert_ok(model_config_read(&config, FLASH));
    assert_ok(model_config_tensors(&config, true, look_for, wanted));
    for (Wanted *w = wanted; w->name; w++) assert_int_equal(w->found, 1);
    model_config_free(&config);
}

static Err *stop_at_third(void *context, const char *name, const TensorSpec *spec)
{
    (void)spec;
    return ++*(int *)context == 3 ? err_new(ERR_DATA, "enough: %s", name) : NULL;
}

static void a_visitor_can_stop_the_walk(void **state)
{
    ModelConfig config;
    int visits = 0;
    (void)state;
    assert_ok(model_config_read(&config, GLM5));
    assert_fails(model_config_tensors(&config, true, stop_at_third, &visits), ERR_DATA, "enough: model.layers.0");
    assert_int_equal(visits, 3);
    model_config_free(&config);
}

/* ---- values --------------------------------------------------------------------------------------------------- */

static void every_fixture_is_read(void **state)
{
    static const char *const names[] = {"dense",        "sparse",         "indexshare", "lite",
                                        "lite_noqlora", "v3_groups_yarn", "v32",        "fp8"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[PATH_BYTES];
        ModelConfig config;
        snprintf(path, sizeof path, "tests/fixtures/model/%s/config.json", names[i]);
        assert_ok(model_config_read(&config, path));
        assert_int_equal(config.fp8, strcmp(names[i], "fp8") == 0);
        model_config_free(&config);
    }
}

static void glm_52_is_read_as_it_is(void **state)
{
    ModelConfig c;
    (void)state;
    assert_ok(model_config_read(&c, GLM52));
    assert_int_equal(c.family, FAMILY_GLM_MOE_DSA);
    assert_string_equal(c.model_type, "glm_moe_dsa");
    assert_int_equal(c.qk_head_dim, 256);
    assert_true(c.rope.rope_theta == 8e6 && !c.rope.yarn && c.rms_norm_eps == 1e-5 && c.latent_norm_eps == 1e-6);
    assert_true(c.rope_interleave && c.indexer_rope_interleave && c.norm_topk_prob && !c.fp8);
    assert_int_equal(c.n_eos, 3);
    assert_int_equal(c.eos_token_id[2], 154829);
    size_t full = 0;
    for (int l = 0; l < 78; l++) {
        assert_int_equal(c.dense[l], l < 3);
        assert_int_equal(c.indexer[l], l < 3 || l % 4 == 2);
        full += c.indexer[l];
    }
    assert_int_equal(full, 21);
    model_config_free(&c);
}

static void indexer_types_can_be_derived(void **state)
{
    ModelConfig list = reads(state, GLM52, "{}");
    ModelConfig freq = reads(state, GLM52, "{\"-indexer_types\":0}"); /* frequency 4, offset 3 */
    assert_memory_equal(list.indexer, freq.indexer, 78);
    model_config_free(&freq);
    freq = reads(state, GLM5, "{}");
    for (int l = 0; l < 78; l++) assert_true(freq.indexer[l]);
    model_config_free(&freq);
    freq =
        reads(state, GLM52,
              "{\"-indexer_types\":0,\"num_hidden_layers\":4,\"-mlp_layer_types\":0,\"index_topk_pattern\":\"FSSF\"}");
    assert_true(freq.indexer[0] && !freq.indexer[1] && !freq.indexer[2] && freq.indexer[3]);
    model_config_free(&freq);
    freq = reads(
        state, GLM52,
        "{\"-indexer_types\":0,\"num_hidden_layers\":2,\"-mlp_layer_types\":0,\"index_topk_pattern\":[\"F\",\"S\"]}");
    assert_true(freq.indexer[0] && !freq.indexer[1]);
    model_config_free(&freq);
    model_config_free(&list);
}

static void indexer_types_that_make_no_sense_are_refused(void **state)
{
    refuses(state, GLM52, "{\"indexer_types\":[\"full\"]}",
            "key indexer_types has 1 entries; expected num_hidden_layers, 78");
    refuses(state, GLM5, "{\"num_hidden_layers\":2,\"indexer_types\":[\"shared\",\"full\"]}",
            "layer 0 shares an indexer");
    refuses(state, GLM5, "{\"num_hidden_layers\":2,\"indexer_types\":[\"full\",\"half\"]}",
            "indexer_types[1] is half; expected full or shared");
    refuses(state, GLM5, "{\"num_hidden_layers\":2,\"index_topk_pattern\":\"FX\"}", "index_topk_pattern is \"FX\"");
    refuses(state, GLM5, "{\"num_hidden_layers\":2,\"index_topk_pattern\":\"SF\"}", "layer 0 shares an indexer");
    refuses(state, GLM5, "{\"num_hidden_layers\":2,\"index_topk_pattern\":7}", "index_topk_pattern is a number");
}

static void v32_has_an_indexer_in_every_layer(void **state)
{
    ModelConfig c = reads(state, V32, "{\"index_topk_freq\":4}"); /* its class knows no sharing */
    for (int l = 0; l < 61; l++) assert_true(c.indexer[l]);
    assert_true(c.rope_interleave && !c.indexer_rope_interleave);
    model_config_free(&c);
    refuses(state, V32, "{\"indexer_rope_interleave\":true}", "deepseek_v32 never interleaves there");
    refuses(state, V32, "{\"-index_n_heads\":0}", "key index_n_heads is missing");
}

static void families_without_an_indexer_have_none(void **state)
{
    ModelConfig c = reads(state, FLASH, "{\"index_topk\":2048}");
    assert_int_equal(c.index_topk, 0);
    for (int l = 0; l < 47; l++) assert_false(c.indexer[l]);
    model_config_free(&c);
}

static void each_family_decides_what_makes_a_layer_dense(void **state)
{
    ModelConfig c = reads(state, FLASH, "{\"first_k_dense_replace\":5}"); /* lite ignores the count */
    assert_true(c.dense[0] && !c.dense[1]);
    model_config_free(&c);
    c = reads(state, TINY_LITE, "{\"mlp_layer_types\":[\"sparse\",\"dense\"]}");
    assert_true(!c.dense[0] && c.dense[1]);
    model_config_free(&c);
    c = reads(
        state, V3,
        "{\"num_hidden_layers\":2,\"first_k_dense_replace\":1,\"mlp_layer_types\":[\"sparse\",\"dense\"]}"); /* v3 the list */
    assert_true(c.dense[0] && !c.dense[1]);
    model_config_free(&c);
    c = reads(state, GLM5, "{\"num_hidden_layers\":2,\"mlp_layer_types\":[\"sparse\",\"dense\"]}"); /* the list wins */
    assert_true(!c.dense[0] && c.dense[1]);
    model_config_free(&c);
    refuses(state, GLM5, "{\"-first_k_dense_replace\":0}", "key first_k_dense_replace is missing");
    refuses(state, GLM5, "{\"mlp_layer_types\":[\"dense\"]}", "key mlp_layer_types has 1 entries");
}

static void rope_keys_are_read_in_every_spelling(void **state)
{
    ModelConfig c = reads(state, V3, "{}"); /* rope_scaling, type, theta beside it */
    assert_true(c.rope.yarn && c.rope.truncate && c.rope.rope_theta == 10000 && c.rope.factor == 40);
    assert_true(c.rope.beta_fast == 32 && c.rope.beta_slow == 1 && c.rope.mscale == 1 && c.rope.mscale_all_dim == 1);
    assert_int_equal(c.rope.original_max_position_embeddings, 4096);
    model_config_free(&c);
    c = reads(state, FLASH, "{}"); /* rope_scaling null, theta on top */
    assert_true(!c.rope.yarn && c.rope.rope_theta == 1e6);
    model_config_free(&c);
    c = reads(state, GLM5, "{\"rope_parameters\":null}");
    assert_true(!c.rope.yarn && c.rope.rope_theta == 10000);
    model_config_free(&c);
    c = reads(state, GLM5,
              "{\"rope_scaling\":{\"rope_type\":\"yarn\",\"type\":\"linear\",\"factor\":2},\"rope_theta\":5e4}");
    assert_true(c.rope.yarn &&
                c.rope.rope_theta == 5e4); /* rope_scaling wins over rope_parameters, rope_type over type */
    assert_int_equal(c.rope.original_max_position_embeddings, c.max_position_embeddings);
    model_config_free(&c);
    refuses(state, GLM5, "{\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2}}",
            "rope_type is linear; graft computes only default and yarn");
    refuses(state, GLM5, "{\"rope_parameters\":{\"rope_type\":\"yarn\"}}", "rope_parameters: key factor is missing");
    refuses(state, GLM5, "{\"rope_parameters\":{\"partial_rotary_factor\":0.5}}", "partial_rotary_factor is 0.5");
    refuses(state, GLM5, "{\"rope_parameters\":[]}", "key rope_parameters is an array; expected an object");
    refuses(state, GLM5, "{\"rope_parameters\":{\"rope_theta\":1}}", "key rope_theta is 1");
}

static void rope_may_be_half_split_only_where_the_class_can(void **state)
{
    ModelConfig c = reads(state, V3, "{\"rope_interleave\":false}");
    assert_false(c.rope_interleave);
    model_config_free(&c);
    refuses(state, GLM5, "{\"rope_interleave\":false}", "glm_moe_dsa always interleaves");
    refuses(state, GLM5, "{\"indexer_rope_interleave\":false}", "glm_moe_dsa always interleaves there");
}

static void q_lora_rank_may_be_null_only_where_the_class_can(void **state)
{
    ModelConfig c = reads(state, MOONLIGHT, "{}");
    assert_int_equal(c.q_lora_rank, 0);
    model_config_free(&c);
    c = reads(state, FLASH, "{\"q_lora_rank\":null}");
    assert_int_equal(c.q_lora_rank, 0);
    model_config_free(&c);
    refuses(state, GLM5, "{\"q_lora_rank\":null}", "key q_lora_rank is null; expected an integer");
    refuses(state, V32, "{\"q_lora_rank\":null}", "key q_lora_rank is null");
    refuses(state, FLASH, "{\"-q_lora_rank\":0}", "key q_lora_rank is missing");
}

static void defaults_are_those_of_the_class(void **state)
{
    const char *less = "{\"-routed_scaling_factor\":0,\"-n_group\":0,\"-topk_group\":0,\"-rms_norm_eps\":0,\"-norm_"
                       "topk_prob\":0,\"-eos_token_id\":0}";
    ModelConfig c = reads(state, GLM5, less);
    assert_true(c.routed_scaling_factor == 2.5 && c.n_group == 1 && c.topk_group == 1 && c.rms_norm_eps == 1e-5 &&
                c.norm_topk_prob);
    assert_int_equal(c.n_eos, 0);
    model_config_free(&c);
    c = reads(state, FLASH, less);
    assert_true(c.routed_scaling_factor == 1.8 && c.n_group == 1 && c.topk_group == 1 && c.rms_norm_eps == 1e-5);
    model_config_free(&c);
    c = reads(state, V3, less);
    assert_true(c.routed_scaling_factor == 2.5 && c.n_group == 8 && c.topk_group == 4 && c.rms_norm_eps == 1e-6);
    model_config_free(&c);
}

static void experts_are_read_under_their_aliases(void **state)
{
    ModelConfig c = reads(state, GLM5, "{\"-n_routed_experts\":0,\"num_local_experts\":32}");
    assert_int_equal(c.n_routed_experts, 32);
    model_config_free(&c);
    refuses(state, GLM5, "{\"num_experts\":32}", "key num_experts is 32, but n_routed_experts is 256");
    refuses(state, GLM5, "{\"-n_routed_experts\":0}", "key n_routed_experts is missing");
}

static void eos_is_a_number_or_a_list(void **state)
{
    ModelConfig c = reads(state, V3, "{}");
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos_token_id[0], 1);
    model_config_free(&c);
    refuses(state, V3, "{\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", "eos_token_id has more than 8 entries");
    refuses(state, V3, "{\"eos_token_id\":[1,\"2\"]}", "key eos_token_id is a string");
}

/* ---- what is refused ------------------------------------------------------------------------------------------ */

static void unknown_model_types_are_refused_by_name(void **state)
{
    refuses(state, GLM5, "{\"model_type\":\"llama\"}",
            "model_type llama is not supported: graft does not know it; supported: glm_moe_dsa,");
    refuses(state, GLM5, "{\"model_type\":\"glm5_next\"}",
            "model_type glm5_next is not supported: GLM-5.3-Flash has linear attention");
    refuses(state, GLM5, "{\"model_type\":\"glm4_moe\"}", "grouped-query attention");
    refuses(state, GLM5, "{\"-model_type\":0}", "key model_type is missing");
}

static void each_missing_size_is_named(void **state)
{
    static const char *const keys[] = {
        "vocab_size",          "hidden_size",      "intermediate_size", "moe_intermediate_size",   "num_hidden_layers",
        "num_attention_heads", "n_shared_experts", "n_routed_experts",  "num_experts_per_tok",     "kv_lora_rank",
        "qk_nope_head_dim",    "qk_rope_head_dim", "v_head_dim",        "max_position_embeddings", "index_topk",
        "index_head_dim",      "index_n_heads",    "q_lora_rank",       "first_k_dense_replace"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char change[64], message[64];
        snprintf(change, sizeof change, "{\"-%s\":0}", keys[i]);
        snprintf(message, sizeof message, "key %s is missing", keys[i]);
        refuses(state, GLM5, change, message);
    }
}

static void sizes_that_make_no_sense_are_refused(void **state)
{
    refuses(state, GLM5, "{\"hidden_size\":0}", "key hidden_size is 0; expected 1 to");
    refuses(state, GLM5, "{\"hidden_size\":6144.5}", "key hidden_size is 6144.5; expected an integer");
    refuses(state, GLM5, "{\"hidden_size\":\"6144\"}", "key hidden_size is a string; expected an integer");
    refuses(state, GLM5, "{\"num_hidden_layers\":1e9}", "key num_hidden_layers is 1000000000");
    refuses(state, GLM5, "{\"qk_head_dim\":192}",
            "key qk_head_dim is 192; expected qk_nope_head_dim + qk_rope_head_dim = 256");
    refuses(state, GLM5, "{\"num_key_value_heads\":8}",
            "key num_key_value_heads is 8; expected num_attention_heads, 64");
    refuses(state, FLASH, "{\"qk_rope_head_dim\":63}", "key qk_rope_head_dim is 63; expected an even number");
    refuses(state, GLM5, "{\"index_head_dim\":32}", "key index_head_dim is 32; expected at least qk_rope_head_dim, 64");
    refuses(state, GLM5, "{\"rms_norm_eps\":0}", "key rms_norm_eps is 0");
}

static void groups_that_do_not_divide_are_refused(void **state)
{
    refuses(state, V3, "{\"n_group\":7}", "key n_group is 7; expected a divisor of n_routed_experts, 256");
    refuses(state, V3, "{\"topk_group\":9}", "key topk_group is 9; expected at most n_group, 8");
    refuses(state, V3, "{\"n_group\":256,\"topk_group\":256}", "key n_group is 256; expected 1 to 64");
    refuses(state, V3, "{\"n_group\":64,\"topk_group\":64,\"n_routed_experts\":64,\"num_experts_per_tok\":8}",
            "two experts or more in each group");
    refuses(state, V3, "{\"num_experts_per_tok\":129}", "key num_experts_per_tok is 129; expected at most 128");
    refuses(state, GLM5, "{\"num_experts_per_tok\":257}", "key num_experts_per_tok is 257; expected at most 256");
}

static void what_graft_does_not_compute_is_refused_by_name(void **state)
{
    refuses(state, GLM5, "{\"scoring_func\":\"softmax\"}", "key scoring_func is softmax; graft computes only sigmoid");
    refuses(state, GLM5, "{\"topk_method\":\"greedy\"}", "key topk_method is greedy; graft computes only noaux_tc");
    refuses(state, GLM5, "{\"hidden_act\":\"gelu\"}", "key hidden_act is gelu; graft computes only silu");
    refuses(state, GLM5, "{\"attention_bias\":true}", "key attention_bias is true");
    refuses(state, GLM5, "{\"mlp_bias\":true}", "key mlp_bias is true");
    refuses(state, GLM5, "{\"tie_word_embeddings\":true}", "key tie_word_embeddings is true");
    refuses(state, GLM5, "{\"moe_layer_freq\":2}", "key moe_layer_freq is 2; graft computes only 1");
    refuses(state, FLASH, "{\"partial_rotary_factor\":0.5}", "key partial_rotary_factor is 0.5");
    refuses(state, GLM5, "{\"attention_dropout\":0.1}", "key attention_dropout is 0.1");
}

static void only_block_fp8_is_read(void **state)
{
    ModelConfig c = reads(state, V3, "{}");
    assert_true(c.fp8);
    model_config_free(&c);
    refuses(state, GLM5, "{\"quantization_config\":{\"quant_method\":\"gptq\"}}",
            "key quant_method is gptq; graft reads only fp8");
    refuses(state, GLM5, "{\"quantization_config\":{\"quant_method\":\"fp8\"}}", "key weight_block_size is missing");
    refuses(state, GLM5,
            "{\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\",\"weight_block_size\":[128,128]}}",
            "fmt is e5m2");
    refuses(state, GLM5, "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128,64]}}",
            "only [128, 128]");
    refuses(state, GLM5, "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128]}}",
            "only [128, 128]");
    refuses(state, GLM5,
            "{\"quantization_config\":{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\",\"weight_block_size\":"
            "[128,128]}}",
            "activation_scheme is static");
}

static void a_file_that_is_no_object_is_refused(void **state)
{
    char path[PATH_BYTES];
    ModelConfig c;
    scratch_path(state, "config.json", path);
    assert_ok(file_write(path, "[1]", 3));
    assert_fails(model_config_read(&c, path), ERR_FORMAT, "config.json: the file holds an array; expected an object");
    assert_ok(file_write(path, "{\"a\":", 5));
    assert_fails(model_config_read(&c, path), ERR_FORMAT, "config.json: not valid JSON");
    assert_fails(model_config_read(&c, "nowhere/config.json"), ERR_IO, "nowhere/config.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(counts_are_those_of_the_published_models),
        scratch_test(names_and_shapes_are_the_published_ones),
        scratch_test(the_mtp_layer_of_flash_has_its_own_embedding),
        scratch_test(a_visitor_can_stop_the_walk),
        scratch_test(every_fixture_is_read),
        scratch_test(glm_52_is_read_as_it_is),
        scratch_test(indexer_types_can_be_derived),
        scratch_test(indexer_types_that_make_no_sense_are_refused),
        scratch_test(v32_has_an_indexer_in_every_layer),
        scratch_test(families_without_an_indexer_have_none),
        scratch_test(each_family_decides_what_makes_a_layer_dense),
        scratch_test(rope_keys_are_read_in_every_spelling),
        scratch_test(rope_may_be_half_split_only_where_the_class_can),
        scratch_test(q_lora_rank_may_be_null_only_where_the_class_can),
        scratch_test(defaults_are_those_of_the_class),
        scratch_test(experts_are_read_under_their_aliases),
        scratch_test(eos_is_a_number_or_a_list),
        scratch_test(unknown_model_types_are_refused_by_name),
        scratch_test(each_missing_size_is_named),
        scratch_test(sizes_that_make_no_sense_are_refused),
        scratch_test(groups_that_do_not_divide_are_refused),
        scratch_test(what_graft_does_not_compute_is_refused_by_name),
        scratch_test(only_block_fp8_is_read),
        scratch_test(a_file_that_is_no_object_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
