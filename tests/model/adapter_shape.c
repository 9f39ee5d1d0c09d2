/* An adapter made of another one's shape has the same arrays and scales, whatever the other was made of. */
#include "model/adapter_shape.h"

#include "infer/adapter_io.h"
#include "model/model.h"
#include "tests/support/tiny.h"

#include <stdlib.h>
#include <string.h>

static void assert_same_shape(const Adapter *a, const Adapter *b)
{
    AdapterArray *one, *two;
    size_t n, m;
    assert_ok(adapter_arrays(a, &one, &n));
    assert_ok(adapter_arrays(b, &two, &m));
    assert_int_equal(n, m);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(one[i].name, two[i].name);
        assert_int_equal(one[i].offset, two[i].offset);
        assert_memory_equal(one[i].dims, two[i].dims, sizeof one[i].dims);
        assert_int_equal(!one[i].ids, !two[i].ids);
        if (one[i].ids) assert_memory_equal(one[i].ids, two[i].ids, one[i].dims[0] * sizeof *one[i].ids);
    }
    for (size_t l = 0; l < a->n_layers; l++) {
        assert_int_equal(a->layers[l].n_lora, b->layers[l].n_lora);
        assert_int_equal(!a->layers[l].router_bias, !b->layers[l].router_bias);
        for (size_t i = 0; i < a->layers[l].n_lora; i++) {
            const Lora *x = &a->layers[l].loras[i], *y = &b->layers[l].loras[i];
            assert_true(x->scale == y->scale && x->dropout == y->dropout && x->key == y->key && x->col == y->col);
        }
    }
    arrays_free(one, n);
    arrays_free(two, m);
}

/* Write the shape, read it and build. Frees a. */
static void check_and_free(Adapter *a)
{
    Adapter *b;
    Json *shape, *read;
    char *text;
    assert_ok(adapter_shape_json(a, &shape));
    assert_ok(json_print(shape, false, &text));
    assert_ok(json_parse(&read, text, strlen(text)));
    assert_ok(adapter_from_shape(&b, a->model, read));
    assert_same_shape(a, b);
    json_free(shape);
    json_free(read);
    free(text);
    adapter_free(a);
    adapter_free(b);
}

static void a_new_adapters_shape_gives_its_arrays(void **state)
{
    (void)state;
    static const struct {
        const char *model, *targets, *experts;
    } cases[] = {
        {"dense", "'all-linear'", NULL},
        {"dense", "['gate', 'o_proj', 'kv_b_proj']", "{'experts': {'1': [3, 12]}}"},
        {"dense", "['experts.3.up_proj', 'up_proj']", NULL},
        {"sparse", "['q_a_proj', 'gate_proj', 'down_proj']", NULL},
        {"lite_noqlora", "'all-linear'", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Model *model = tiny_model(cases[i].model);
        Adapter *a;
        assert_ok(tiny_adapter(&a, model, 3, cases[i].targets, NULL, cases[i].experts));
        check_and_free(a);
        model_close(model);
    }
}

static void a_trained_router_and_biases_of_its_own_belong_to_the_shape(void **state)
{
    (void)state;
    Model *model = tiny_model("dense");
    Adapter *a;
    assert_ok(adapter_new(&a, model, &(LoraConfig){.r = 2, .lora_alpha = 4, .experts = NULL, .train_router = true}, 1));
    assert_ok(adapter_own_biases(a));
    check_and_free(a);
    model_close(model);
}

/* Theirs have gate and up with a LoRA each, and other scales. */
static void the_shapes_of_the_fixtures_adapters_give_their_arrays(void **state)
{
    (void)state;
    static const char *const names[] = {"dense", "sparse", "lite_noqlora", "v3_groups_yarn"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[PATH_BYTES];
        Model *model = tiny_model(names[i]);
        Adapter *a;
        snprintf(path, sizeof path, "tests/fixtures/model/%s/adapter", names[i]);
        assert_ok(adapter_open(&a, model, path));
        check_and_free(a);
        model_close(model);
    }
}

static void a_shape_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *shape, *part;
    } cases[] = {
        {"{}", "the shape is an object; expected an array"},
        {"[3]", "a group is a number; expected an object"},
        {"[{'r': 2, 'scale': 1}]", "modules"},
        {"[{'modules': [7], 'r': 2, 'scale': 1}]", "a module is a number"},
        {"[{'modules': ['model.layers.0.self_attn.o_proj'], 'r': 0, 'scale': 1}]", "r "},
        {"[{'modules': ['model.layers.0.self_attn.o_proj'], 'r': 2}]", "scale"},
        {"[{'modules': ['model.layers.99.self_attn.o_proj'], 'r': 2, 'scale': 1}]", "this model has no module"},
        {"[{'modules': ['model.layers.0.self_attn.o_proj', 'model.layers.0.self_attn.o_proj'], 'r': 2, 'scale': 1}]",
         "is there twice"},
        {"[{'modules': ['model.layers.0.self_attn.o_proj']}]", "only a router is trained in full"},
        {"[{'modules': ['model.layers.1.mlp.gate']}, {'modules': ['model.layers.1.mlp.gate'], 'r': 2, 'scale': 1}]",
         "both by LoRA and in full"},
    };
    Model *model = tiny_model("dense");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Adapter *a;
        Json *shape = tiny_json(cases[i].shape);
        assert_fails(adapter_from_shape(&a, model, shape), ERR_FORMAT, cases[i].part);
        json_free(shape);
    }
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_adapters_shape_gives_its_arrays),
        cmocka_unit_test(a_trained_router_and_biases_of_its_own_belong_to_the_shape),
        cmocka_unit_test(the_shapes_of_the_fixtures_adapters_give_their_arrays),
        cmocka_unit_test(a_shape_that_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
