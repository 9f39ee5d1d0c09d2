/* What an adapter is made of: names, order, shared A's, first values, and what it does to the model. */
#include "model/adapter.h"

#include "base/rng.h"
#include "model/lora_sites.h"
#include "tests/support/tiny.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { T = 24 };

static Model *dense;

static int open_model(void **state)
{
    (void)state;
    dense = tiny_model("dense");
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    model_close(dense);
    return 0;
}

static Adapter *adapter_of(const char *targets, const char *experts)
{
    Adapter *adapter;
    assert_ok(tiny_adapter(&adapter, dense, 3, targets, NULL, experts));
    return adapter;
}

static Adapter *with_router(const char *targets)
{
    Adapter *adapter = NULL;
    Json *json = targets ? tiny_json(targets) : NULL;
    assert_ok(adapter_new(&adapter, dense,
                          &(LoraConfig){.r = 2, .lora_alpha = 4, .target_modules = json, .train_router = true}, 7));
    json_free(json);
    return adapter;
}

static const Param *param_named(const Adapter *adapter, const char *name)
{
    for (size_t l = 0; l < adapter->n_layers; l++)
        for (size_t i = 0; i < adapter->layers[l].n_params; i++)
            if (strcmp(adapter->layers[l].params[i].name, name) == 0) return &adapter->layers[l].params[i];
    return NULL;
}

static void gate_and_up_share_one_A(void **state)
{
    (void)state;
    Adapter *adapter = adapter_of("['gate_proj', 'up_proj']", NULL);
    size_t D = (size_t)dense->config.hidden_size, F = (size_t)dense->config.moe_intermediate_size;
    const Lora *in = adapter->layers[1].experts[5].lora_gate_up;
    assert_non_null(in);
    assert_null(adapter->layers[1].experts[5].lora_down);
    assert_int_equal(in->col, 0);
    assert_int_equal(in->A->rows, 3);
    assert_int_equal(in->A->cols, D);
    assert_int_equal(in->B->rows, 2 * F);
    assert_string_equal(in->A->name, "model.layers.1.mlp.experts.5.gate_up_proj.lora_A");
    assert_null(adapter->layers[1].places_up[LORA_SHARED_IN]);
    assert_non_null(adapter->layers[1].places[LORA_SHARED_IN]);
    adapter_free(adapter);
}

static void one_half_alone_adds_to_its_own_columns(void **state)
{
    (void)state;
    size_t F = (size_t)dense->config.moe_intermediate_size;
    Adapter *gate = adapter_of("['experts.5.gate_proj']", NULL), *up = adapter_of("['experts.5.up_proj']", NULL),
            *down = adapter_of("['experts.5.down_proj']", NULL);
    assert_int_equal(gate->layers[1].experts[5].lora_gate_up->col, 0);
    assert_int_equal(gate->layers[1].experts[5].lora_gate_up->B->rows, F);
    assert_int_equal(up->layers[1].experts[5].lora_gate_up->col, F);
    assert_int_equal(up->layers[1].experts[5].lora_gate_up->B->rows, F);
    assert_null(down->layers[1].experts[5].lora_gate_up);
    assert_int_equal(down->layers[1].experts[5].lora_down->A->cols, F);
    adapter_free(gate);
    adapter_free(up);
    adapter_free(down);
}

/* The same numbers as halves of one pair, and as pairs alone: their changes to the model add up where it is linear, so
 * compare a pair of both whose B has zeros in one half with the other half alone. */
static void a_half_alone_equals_the_whole_lora_with_zeros(void **state)
{
    (void)state;
    Document doc = tiny_document(T, 256, 3);
    size_t V = (size_t)dense->config.vocab_size;
    for (int half = 0; half < 2; half++) {
        Adapter *both = adapter_of("['gate_proj', 'up_proj']", NULL),
                *one = adapter_of(half ? "['up_proj']" : "['gate_proj']", NULL);
        tiny_fill(one, 11, 0.3);
        memset(both->values, 0, both->n * sizeof(float));
        for (size_t l = 0; l < one->n_layers; l++)
            for (size_t i = 0; i < one->layers[l].n_lora; i++) {
                const Lora *from = &one->layers[l].loras[i];
                Lora *to = &both->layers[l].loras[i];
                memcpy(to->A->data, from->A->data, param_count(from->A) * sizeof(float));
                memcpy(to->B->data + from->col * from->B->cols, from->B->data, param_count(from->B) * sizeof(float));
            }
        float *a = tiny_logits(dense, both, doc.ids, T), *b = tiny_logits(dense, one, doc.ids, T),
              *base = tiny_logits(dense, NULL, doc.ids, T);
        assert_true(tiny_distance(T * V, a, b) < 1e-5);
        assert_true(tiny_distance(T * V, a, base) > 1e-2);
        free(a);
        free(b);
        free(base);
        adapter_free(both);
        adapter_free(one);
    }
    tiny_document_free(&doc);
}

static void a_fresh_adapter_changes_no_logit(void **state)
{
    (void)state;
    static const char *const names[] = {"dense",          "sparse", "lite",       "lite_noqlora",
                                        "v3_groups_yarn", "fp8",    "indexshare", "v32"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        Model *model = tiny_model(names[i]);
        Adapter *adapter = NULL;
        Json *all = tiny_json("'all-linear'");
        assert_ok(adapter_new(&adapter, model,
                              &(LoraConfig){.r = 2, .lora_alpha = 4, .target_modules = all, .train_router = true}, 3));
        Document doc = tiny_document(T, 256, 5);
        float *base = tiny_logits(model, NULL, doc.ids, T), *fresh = tiny_logits(model, adapter, doc.ids, T);
        for (size_t j = 0; j < T * (size_t)model->config.vocab_size; j++)
            if (base[j] != fresh[j])
                fail_msg("%s: logit %zu is %a, the base's %a", names[i], j, (double)fresh[j], (double)base[j]);
        free(base);
        free(fresh);
        tiny_document_free(&doc);
        json_free(all);
        adapter_free(adapter);
        model_close(model);
    }
}

static void first_values_lie_within_pefts_bounds(void **state)
{
    (void)state;
    Adapter *adapter = adapter_of("'all-linear'", NULL);
    for (size_t l = 0; l < adapter->n_layers; l++)
        for (size_t i = 0; i < adapter->layers[l].n_lora; i++) {
            const Param *A = adapter->layers[l].loras[i].A, *B = adapter->layers[l].loras[i].B;
            double bound = 1 / sqrt((double)A->cols), sum = 0, square = 0, max_value = 0, n = (double)param_count(A);
            for (size_t j = 0; j < param_count(A); j++) {
                double x = (double)A->data[j];
                sum += x;
                square += x * x;
                max_value = fmax(max_value, fabs(x));
            }
            assert_true(max_value <= bound * (1 + 1e-7));
            assert_true(max_value > 0.8 * bound);                 /* 48 numbers or more: 0.8^48 is 2e-5 */
            assert_true(fabs(sum / n) < 5 * bound / sqrt(3 * n)); /* five deviations of the mean */
            assert_true(fabs(3 * square / n / (bound * bound) - 1) < 5 * sqrt(0.8 / n));
            for (size_t j = 0; j < param_count(B); j++) assert_true(B->data[j] == 0);
        }
    adapter_free(adapter);
}

static void first_values_are_a_function_of_the_seed(void **state)
{
    (void)state;
    Json *targets = tiny_json("['o_proj', 'gate_proj', 'up_proj']");
    LoraConfig config = {.r = 2, .lora_alpha = 4, .target_modules = targets};
    Adapter *a = NULL, *b = NULL, *c = NULL;
    assert_ok(adapter_new(&a, dense, &config, 1));
    assert_ok(adapter_new(&b, dense, &config, 1));
    assert_ok(adapter_new(&c, dense, &config, 2));
    assert_memory_equal(a->values, b->values, a->n * sizeof(float));
    for (size_t l = 0; l < a->n_layers; l++)
        for (size_t i = 0; i < a->layers[l].n_lora; i++)
            assert_memory_not_equal(a->layers[l].loras[i].A->data, c->layers[l].loras[i].A->data,
                                    param_count(a->layers[l].loras[i].A) * sizeof(float));
    json_free(targets);
    adapter_free(a);
    adapter_free(b);
    adapter_free(c);
}

static void first_values_do_not_depend_on_other_targets(void **state)
{
    (void)state;
    Adapter *few = adapter_of("['o_proj']", NULL), *many = adapter_of("'all-linear'", NULL);
    const char *name = "model.layers.2.self_attn.o_proj.lora_A";
    const Param *a = param_named(few, name), *b = param_named(many, name);
    assert_non_null(a);
    assert_non_null(b);
    assert_memory_equal(a->data, b->data, param_count(a) * sizeof(float));
    adapter_free(few);
    adapter_free(many);
}

static void no_two_loras_begin_alike(void **state)
{
    (void)state;
    Adapter *adapter = adapter_of("'all-linear'", NULL);
    size_t n = 0;
    const float *first[512];
    for (size_t l = 0; l < adapter->n_layers; l++)
        for (size_t i = 0; i < adapter->layers[l].n_lora; i++) first[n++] = adapter->layers[l].loras[i].A->data;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) assert_true(first[i][0] != first[j][0] || first[i][1] != first[j][1]);
    adapter_free(adapter);
}

static void rslora_scales_by_the_root_of_r(void **state)
{
    (void)state;
    Json *targets = tiny_json("['o_proj']");
    LoraConfig config = {.r = 9, .lora_alpha = 6, .target_modules = targets};
    for (int i = 0; i < 2; i++) {
        Adapter *adapter = NULL;
        config.use_rslora = i;
        assert_ok(adapter_new(&adapter, dense, &config, 1));
        assert_true(adapter->layers[0].places[LORA_O]->scale == (i ? 6.0f / 3 : 6.0f / 9));
        adapter_free(adapter);
    }
    json_free(targets);
}

static void a_trained_router_begins_as_the_base_has_it(void **state)
{
    (void)state;
    Adapter *adapter = with_router(NULL);
    float row[64];
    assert_null(adapter->layers[0].router);
    for (size_t l = 1; l < 3; l++) {
        const Param *p = adapter->layers[l].router;
        const Weight *w = &dense->layers[l].router;
        assert_int_equal(p->rows, 16);
        assert_int_equal(p->cols, 64);
        for (size_t e = 0; e < 16; e++) {
            weight_read(w, e, 0, 64, row);
            assert_memory_equal(row, p->data + e * 64, sizeof row);
        }
    }
    assert_int_equal(adapter_lowest_layer(adapter), 1);
    adapter_free(adapter);
}

static void dropout_is_for_all_but_routed_experts(void **state)
{
    (void)state;
    Adapter *adapter = adapter_of("'all-linear'", NULL);
    for (size_t l = 0; l < adapter->n_layers; l++)
        for (size_t i = 0; i < adapter->layers[l].n_lora; i++) {
            const Lora *lora = &adapter->layers[l].loras[i];
            assert_int_equal(lora->dropout, strstr(lora->A->name, ".experts.") == NULL);
        }
    adapter_free(adapter);
}

/* ---- the block and its table of contents ----------------------------------------------------------------------- */

static void parameters_fill_their_layers_block_exactly_once(void **state)
{
    (void)state;
    Adapter *adapter = with_router("'all-linear'");
    char *seen = calloc(adapter->n, 1);
    size_t offset = 0;
    assert_non_null(seen);
    for (size_t l = 0; l < adapter->n_layers; l++) {
        const LayerAdapter *layer = &adapter->layers[l];
        assert_int_equal(layer->offset, offset);
        offset += layer->n;
        for (size_t i = 0; i < layer->n_params; i++) {
            const Param *p = &layer->params[i];
            assert_ptr_equal(p->data, adapter->values + layer->offset + p->offset);
            for (size_t j = 0; j < param_count(p); j++) assert_int_equal(seen[layer->offset + p->offset + j]++, 0);
        }
    }
    assert_int_equal(offset, adapter->n);
    for (size_t j = 0; j < adapter->n; j++) assert_int_equal(seen[j], 1);
    free(seen);
    adapter_free(adapter);
}

/* Names are unique, every value is in exactly one array. */
static void check_arrays(const Adapter *adapter)
{
    AdapterArray *arrays;
    size_t n;
    char *seen = calloc(adapter->n, 1);
    assert_non_null(seen);
    assert_ok(adapter_arrays(adapter, &arrays, &n));
    for (size_t i = 0; i < n; i++) {
        size_t count = 1;
        for (size_t j = 0; j < i; j++) assert_string_not_equal(arrays[i].name, arrays[j].name);
        for (size_t d = 0; d < arrays[i].n_dims; d++) count *= arrays[i].dims[d];
        assert_true(arrays[i].offset + count <= adapter->n);
        for (size_t j = 0; j < count; j++) assert_int_equal(seen[arrays[i].offset + j]++, 0);
    }
    for (size_t j = 0; j < adapter->n; j++) assert_int_equal(seen[j], 1);
    arrays_free(arrays, n);
    free(seen);
}

static void arrays_have_names_of_their_own_and_hold_every_value_once(void **state)
{
    (void)state;
    static const char *const targets[] = {
        "'all-linear'", "['o_proj', 'experts.3.gate_proj', 'experts.7.down_proj']",
        "['experts.3.gate_proj', 'experts.4.up_proj', 'experts.5.gate_proj', 'experts.5.up_proj']",
        "['mlp.gate_proj', 'shared_experts.up_proj']"};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        Adapter *adapter = with_router(targets[i]);
        check_arrays(adapter);
        adapter_free(adapter);
    }
}

static bool has_array(const Adapter *adapter, const char *name, size_t *dims, const int32_t *ids)
{
    AdapterArray *arrays;
    size_t n;
    bool found = false;
    assert_ok(adapter_arrays(adapter, &arrays, &n));
    for (size_t i = 0; i < n; i++) {
        if (strcmp(arrays[i].name, name) != 0) continue;
        found = true;
        if (dims) assert_memory_equal(arrays[i].dims, dims, arrays[i].n_dims * sizeof *dims);
        if (ids) assert_memory_equal(arrays[i].ids, ids, arrays[i].dims[0] * sizeof *ids);
    }
    arrays_free(arrays, n);
    return found;
}

static void experts_of_a_kind_are_stacked_beside_their_ids(void **state)
{
    (void)state;
    Adapter *adapter = adapter_of("['o_proj']", "{'1': [9, 2], '2': [15]}");
    assert_true(
        has_array(adapter, "layers/001/mlp.experts.gate_up_proj/lora_A", (size_t[]){2, 3, 64}, (int32_t[]){2, 9}));
    assert_true(
        has_array(adapter, "layers/001/mlp.experts.gate_up_proj/lora_B", (size_t[]){2, 64, 3}, (int32_t[]){2, 9}));
    assert_true(has_array(adapter, "layers/002/mlp.experts.down_proj/lora_A", (size_t[]){1, 3, 32}, (int32_t[]){15}));
    assert_true(has_array(adapter, "layers/000/self_attn.o_proj/lora_B", (size_t[]){64, 3}, NULL));
    adapter_free(adapter);
}

/* A checkpoint of one must not be taken for the other's: names, shapes and ids are all that it compares. */
static void gates_of_experts_are_not_named_like_their_ups(void **state)
{
    (void)state;
    Adapter *gates = adapter_of("['experts.3.gate_proj']", NULL), *ups = adapter_of("['experts.3.up_proj']", NULL);
    Adapter *mixed = adapter_of("['experts.3.gate_proj', 'experts.4.up_proj']", NULL);
    assert_true(has_array(gates, "layers/001/mlp.experts.gate_proj/lora_A", (size_t[]){1, 3, 64}, (int32_t[]){3}));
    assert_true(has_array(ups, "layers/001/mlp.experts.up_proj/lora_B", (size_t[]){1, 32, 3}, (int32_t[]){3}));
    assert_false(has_array(ups, "layers/001/mlp.experts.gate_proj/lora_A", NULL, NULL));
    assert_true(has_array(mixed, "layers/001/mlp.experts.3.gate_proj/lora_A", (size_t[]){3, 64}, NULL));
    assert_true(has_array(mixed, "layers/001/mlp.experts.4.up_proj/lora_A", (size_t[]){3, 64}, NULL));
    adapter_free(gates);
    adapter_free(ups);
    adapter_free(mixed);
}

static void the_lowest_layer_is_the_first_with_a_parameter(void **state)
{
    (void)state;
    Adapter *adapter;
    assert_ok(tiny_adapter(&adapter, dense, 2, "['o_proj']", "2", NULL));
    assert_int_equal(adapter_lowest_layer(adapter), 2);
    adapter_free(adapter);
    assert_ok(tiny_adapter(&adapter, dense, 2, NULL, NULL, "'all'"));
    assert_int_equal(adapter_lowest_layer(adapter), 1);
    adapter_free(adapter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gate_and_up_share_one_A),
        cmocka_unit_test(one_half_alone_adds_to_its_own_columns),
        cmocka_unit_test(a_half_alone_equals_the_whole_lora_with_zeros),
        cmocka_unit_test(a_fresh_adapter_changes_no_logit),
        cmocka_unit_test(first_values_lie_within_pefts_bounds),
        cmocka_unit_test(first_values_are_a_function_of_the_seed),
        cmocka_unit_test(first_values_do_not_depend_on_other_targets),
        cmocka_unit_test(no_two_loras_begin_alike),
        cmocka_unit_test(rslora_scales_by_the_root_of_r),
        cmocka_unit_test(a_trained_router_begins_as_the_base_has_it),
        cmocka_unit_test(dropout_is_for_all_but_routed_experts),
        cmocka_unit_test(parameters_fill_their_layers_block_exactly_once),
        cmocka_unit_test(arrays_have_names_of_their_own_and_hold_every_value_once),
        cmocka_unit_test(experts_of_a_kind_are_stacked_beside_their_ids),
        cmocka_unit_test(gates_of_experts_are_not_named_like_their_ups),
        cmocka_unit_test(the_lowest_layer_is_the_first_with_a_parameter),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
