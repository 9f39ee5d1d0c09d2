/* The tensors that a config asks for: their number, names and shapes against the published models. */
#include "model/config.h"
#include "tests/support/check.h"

#include <string.h>

#define FIXTURES  "tests/fixtures/configs/"
#define GLM5      FIXTURES "glm-5.config.json"
#define GLM52     FIXTURES "glm-5.2.config.json"
#define FLASH     FIXTURES "glm-4.7-flash.config.json"
#define V3        FIXTURES "deepseek-v3.config.json"
#define V32       FIXTURES "deepseek-v3.2.config.json"
#define MOONLIGHT FIXTURES "moonlight-16b-a3b.config.json"
#define KIMI      FIXTURES "kimi-k2-instruct.config.json"

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

static void a_visitor_can_stop_the_listing(void **state)
{
    ModelConfig config;
    int visits = 0;
    (void)state;
    assert_ok(model_config_read(&config, GLM5));
    assert_fails(model_config_tensors(&config, true, stop_at_third, &visits), ERR_DATA, "enough: model.layers.0");
    assert_int_equal(visits, 3);
    model_config_free(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_those_of_the_published_models),
        cmocka_unit_test(names_and_shapes_are_the_published_ones),
        cmocka_unit_test(the_mtp_layer_of_flash_has_its_own_embedding),
        cmocka_unit_test(a_visitor_can_stop_the_listing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
