/* config.json: what is read, and what is refused by name. */
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
    c = reads(state, V3,
              "{\"num_hidden_layers\":2,\"first_k_dense_replace\":1,\"mlp_layer_types\":[\"sparse\",\"dense\"]}");
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

static void the_generation_config_decides_the_end_tokens(void **state)
{
    ModelConfig c;
    char path[PATH_BYTES];
    static const char *const cards[][2] = {{"{\"eos_token_id\": [7, 8]}", NULL},
                                           {"{\"eos_token_id\": null}", NULL},
                                           {"{\"eos_token_id\": \"7\"}", "generation_config.json: key eos_token_id"}};
    scratch_path(state, "generation_config.json", path);
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++) {
        assert_ok(model_config_read(&c, "tests/fixtures/configs/glm-5.2.config.json"));
        assert_ok(model_config_end_tokens(&c, "tests/fixtures/configs")); /* it has none */
        assert_int_equal(c.n_eos, 3);
        assert_ok(file_write(path, cards[i][0], strlen(cards[i][0])));
        Err *err = model_config_end_tokens(&c, *state);
        if (cards[i][1])
            assert_fails(err, ERR_FORMAT, cards[i][1]);
        else
            assert_ok(err);
        if (i == 0) assert_true(c.n_eos == 2 && c.eos_token_id[0] == 7 && c.eos_token_id[1] == 8);
        if (i == 1) assert_int_equal(c.n_eos, 3);
        model_config_free(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
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
        scratch_test(the_generation_config_decides_the_end_tokens),
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
