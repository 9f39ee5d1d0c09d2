/* A model from its files: shapes, names, and the digest. */
#include "model/model.h"

#include "base/memory.h"
#include "tests/support/tiny.h"

#include <stdlib.h>
#include <string.h>

static void every_fixture_opens(void **state)
{
    (void)state;
    static const char *const names[] = {"dense",        "sparse",         "indexshare", "lite",
                                        "lite_noqlora", "v3_groups_yarn", "v32",        "fp8"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        Model *model = tiny_model(names[i]);
        assert_int_equal(model->n_layers, model->config.num_hidden_layers);
        for (size_t l = 0; l < model->n_layers; l++) {
            const Layer *layer = &model->layers[l];
            assert_int_equal(layer->dense, layer->router.rows == 0);
            assert_int_equal(layer->dense, layer->experts == NULL);
            assert_int_equal(layer->indexer, layer->index_q.rows != 0);
            assert_int_equal(layer->q_proj.rows == 0, model->config.q_lora_rank != 0);
            assert_ok(layer_acquire(model, l));
            layer_release(model, l);
        }
        model_close(model);
    }
}

static void a_layers_weights_have_their_published_names(void **state)
{
    (void)state;
    Model *model = tiny_model("sparse");
    const Layer *layer = &model->layers[1];
    assert_string_equal(layer->q_down.name, "model.layers.1.self_attn.q_a_proj.weight");
    assert_string_equal(layer->kv_up.name, "model.layers.1.self_attn.kv_b_proj.weight");
    assert_string_equal(layer->index_heads.name, "model.layers.1.self_attn.indexer.weights_proj.weight");
    assert_string_equal(layer->router.name, "model.layers.1.mlp.gate.weight");
    assert_string_equal(layer->gate.name, "model.layers.1.mlp.shared_experts.gate_proj.weight");
    assert_string_equal(layer->experts[3].up->name, "model.layers.1.mlp.experts.3.up_proj.weight");
    assert_string_equal(layer->experts[15].down->name, "model.layers.1.mlp.experts.15.down_proj.weight");
    assert_string_equal(model->layers[0].down.name, "model.layers.0.mlp.down_proj.weight");
    model_close(model);
}

static void the_rotary_table_grows_and_keeps_its_values(void **state)
{
    (void)state;
    Model *model = tiny_model("dense");
    size_t half = model->rope.dim / 2, n = model->rope.n;
    float *before = malloc(n * half * sizeof *before);
    assert_non_null(before);
    memcpy(before, model->rope.cos, n * half * sizeof *before);
    assert_ok(model_reserve_positions(model, 4096));
    assert_true(model->rope.n >= 4096);
    assert_memory_equal(before, model->rope.cos, n * half * sizeof *before);
    free(before);
    model_close(model);
}

static void positions_end_where_the_config_says(void **state)
{
    (void)state;
    Model *model = tiny_model("v3_groups_yarn"); /* max_position_embeddings 512 */
    assert_ok(model_reserve_positions(model, 512));
    assert_fails(model_reserve_positions(model, 513), ERR_DATA, "max_position_embeddings is 512");
    model_close(model);
}

static void a_directory_that_is_none_is_named(void **state)
{
    (void)state;
    Model *model;
    assert_fails(model_open(&model, "tests/fixtures/model/nowhere"), ERR_IO, "tests/fixtures/model/nowhere");
    assert_null(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fixture_opens),
        cmocka_unit_test(a_layers_weights_have_their_published_names),
        cmocka_unit_test(the_rotary_table_grows_and_keeps_its_values),
        cmocka_unit_test(positions_end_where_the_config_says),
        cmocka_unit_test(a_directory_that_is_none_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
