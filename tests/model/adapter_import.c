/* Adapters to single LoRA modules and back. */
#include "base/rng.h"
#include "model/lora_sites.h"
#include "tests/support/tiny.h"

#include <stdlib.h>
#include <string.h>

enum { T = 20, D = 64, F = 32 };

static Model *dense;
static Document doc;

static int open_model(void **state)
{
    (void)state;
    dense = tiny_model("dense");
    doc = tiny_document(T, 256, 1);
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    tiny_document_free(&doc);
    model_close(dense);
    return 0;
}

static float *numbers(size_t n, uint64_t seed)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = (2 * rng_uniform(seed, i) - 1) * 0.3f;
    return x;
}

static LoraModule module_of(const char *module, size_t r, size_t in, size_t out, uint64_t seed)
{
    return (LoraModule){module, r, in, out, 2, numbers(r * in, seed), numbers(out * r, seed + 1000)};
}

static void drop(LoraModule *modules, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(modules[i].A);
        free(modules[i].B);
    }
}

static void refused(size_t n, LoraModule *modules, const char *part)
{
    Adapter *adapter;
    assert_fails(adapter_from_modules(&adapter, dense, n, modules), ERR_FORMAT, part);
    drop(modules, n);
}

static void same_logits(Model *model, const Adapter *a, const Adapter *b)
{
    float *x = tiny_logits(model, a, doc.ids, T), *y = tiny_logits(model, b, doc.ids, T);
    size_t n = T * (size_t)model->config.vocab_size;
    for (size_t i = 0; i < n; i++)
        if (x[i] != y[i]) fail_msg("logit %zu: %a and %a", i, (double)x[i], (double)y[i]);
    free(x);
    free(y);
}

static void adapters_survive_modules_and_back(void **state)
{
    (void)state;
    static const struct {
        const char *model, *targets, *experts;
    } cases[] = {
        {"dense", "'all-linear'", NULL},
        {"dense", "['gate_proj']", NULL},
        {"dense", "['gate', 'o_proj']", NULL},
        {"dense", "['up_proj']", NULL},
        {"dense", "['down_proj']", NULL},
        {"sparse", "['o_proj']", "{'2': [1, 15]}"},
        {"lite_noqlora", "'all-linear'", NULL},
        {"v3_groups_yarn", "'all-linear'", "'all'"},
        {"fp8", "'all-linear'", "'none'"},
        {"dense", "['experts.3.up_proj', 'experts.3.gate_proj', 'experts.4.gate_proj', 'experts.5.up_proj']", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Model *model = tiny_model(cases[i].model);
        Adapter *a, *b;
        LoraModule *modules;
        size_t n;
        assert_ok(tiny_adapter(&a, model, 3, cases[i].targets, NULL, cases[i].experts));
        tiny_fill(a, 5, 0.2);
        assert_ok(adapter_modules(a, &modules, &n));
        assert_ok(adapter_from_modules(&b, model, n, modules));
        assert_int_equal(a->n, b->n);
        assert_memory_equal(a->values, b->values, a->n * sizeof(float));
        same_logits(model, a, b);
        lora_modules_free(modules);
        adapter_free(a);
        adapter_free(b);
        model_close(model);
    }
}

static void a_trained_router_survives_modules_and_back(void **state)
{
    (void)state;
    Adapter *a = NULL, *b;
    LoraModule *modules;
    size_t n;
    assert_ok(adapter_new(&a, dense, &(LoraConfig){.r = 1, .lora_alpha = 1, .train_router = true}, 0));
    tiny_fill(a, 2, 1);
    assert_ok(adapter_modules(a, &modules, &n));
    assert_int_equal(n, 2);
    assert_string_equal(modules[0].module, "model.layers.1.mlp.gate");
    assert_null(modules[0].A);
    assert_ok(adapter_from_modules(&b, dense, n, modules));
    assert_memory_equal(a->values, b->values, a->n * sizeof(float));
    same_logits(dense, a, b);
    lora_modules_free(modules);
    adapter_free(a);
    adapter_free(b);
}

static void the_order_of_modules_does_not_matter(void **state)
{
    (void)state;
    Adapter *a, *b;
    LoraModule *modules;
    size_t n;
    assert_ok(tiny_adapter(&a, dense, 2, "'all-linear'", NULL, NULL));
    tiny_fill(a, 5, 0.2);
    assert_ok(adapter_modules(a, &modules, &n));
    for (size_t i = 0; i < n / 2; i++) {
        LoraModule held = modules[i];
        modules[i] = modules[n - 1 - i];
        modules[n - 1 - i] = held;
    }
    assert_ok(adapter_from_modules(&b, dense, n, modules));
    assert_memory_equal(a->values, b->values, a->n * sizeof(float));
    lora_modules_free(modules);
    adapter_free(a);
    adapter_free(b);
}

/* What gate and up alone do, each as an adapter of its own, must be what both do together: compare the pair's share of
 * gate|up for one row, y = scale B (A x), with the two given pairs. */
static void check_share(const Lora *lora, const LoraModule *given, size_t row)
{
    float *x = numbers(D, 77);
    for (size_t o = 0; o < given->out; o++) {
        double want = 0, have = 0;
        for (size_t j = 0; j < given->r; j++) {
            double u = 0;
            for (size_t i = 0; i < D; i++) u += (double)given->A[j * D + i] * (double)x[i];
            want += given->scale * (double)given->B[o * given->r + j] * u;
        }
        const float *B = lora->B->data + (row + o - lora->col) * lora->B->cols;
        for (size_t j = 0; j < lora->A->rows; j++) {
            double u = 0;
            for (size_t i = 0; i < D; i++) u += (double)lora->A->data[j * D + i] * (double)x[i];
            have += (double)lora->scale * (double)B[j] * u;
        }
        assert_true(have - want < 1e-6 && want - have < 1e-6);
    }
    free(x);
}

static void unequal_As_remain_two_loras_in_an_mlp(void **state)
{
    (void)state;
    LoraModule modules[] = {module_of("model.layers.1.mlp.shared_experts.gate_proj", 2, D, F, 1),
                            module_of("model.layers.1.mlp.shared_experts.up_proj", 5, D, F, 2)};
    Adapter *a;
    modules[1].scale = 0.5;
    assert_ok(adapter_from_modules(&a, dense, 2, modules));
    const Lora *gate = a->layers[1].places[LORA_SHARED_IN], *up = a->layers[1].places_up[LORA_SHARED_IN];
    assert_non_null(gate);
    assert_non_null(up);
    assert_int_equal(gate->A->rows, 2);
    assert_int_equal(up->A->rows, 5);
    assert_int_equal(up->col, F);
    check_share(gate, &modules[0], 0);
    check_share(up, &modules[1], F);
    LoraModule *back;
    size_t n;
    assert_ok(adapter_modules(a, &back, &n));
    assert_int_equal(n, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(back[i].module, modules[i].module);
        assert_int_equal(back[i].r, modules[i].r);
        assert_true(back[i].scale == modules[i].scale);
        assert_memory_equal(back[i].A, modules[i].A, modules[i].r * D * sizeof(float));
        assert_memory_equal(back[i].B, modules[i].B, modules[i].r * F * sizeof(float));
    }
    lora_modules_free(back);
    adapter_free(a);
    drop(modules, 2);
}

static void unequal_As_become_one_lora_of_both_r_in_an_expert(void **state)
{
    (void)state;
    LoraModule modules[] = {module_of("model.layers.1.mlp.experts.7.gate_proj", 2, D, F, 1),
                            module_of("model.layers.1.mlp.experts.7.up_proj", 2, D, F, 2)};
    Adapter *a;
    modules[1].scale = 3;
    assert_ok(adapter_from_modules(&a, dense, 2, modules));
    const Lora *in = a->layers[1].experts[7].lora_gate_up;
    assert_int_equal(in->A->rows, 4);
    assert_int_equal(in->B->rows, 2 * F);
    check_share(in, &modules[0], 0);
    check_share(in, &modules[1], F);
    adapter_free(a);
    drop(modules, 2);
}

/* The same pairs in an MLP and one by one must give the logits that their exact sum gives: an MLP's two pairs against
 * two adapters of one half each, in the other half zeros. */
static void two_loras_of_an_mlp_do_what_each_does(void **state)
{
    (void)state;
    LoraModule modules[] = {module_of("model.layers.0.mlp.gate_proj", 2, D, 128, 1),
                            module_of("model.layers.0.mlp.up_proj", 2, D, 128, 2)};
    LoraModule one[] = {module_of("model.layers.0.mlp.gate_proj", 4, D, 128, 1),
                        module_of("model.layers.0.mlp.up_proj", 4, D, 128, 1)};
    for (size_t h = 0; h < 2; h++) { /* one A of rank 4: gate's rows first, then up's; zeros where the other's belong */
        memcpy(one[h].A, modules[0].A, 2 * D * sizeof(float));
        memcpy(one[h].A + 2 * D, modules[1].A, 2 * D * sizeof(float));
        memset(one[h].B, 0, 4 * 128 * sizeof(float));
        for (size_t o = 0; o < 128; o++) memcpy(one[h].B + o * 4 + 2 * h, modules[h].B + 2 * o, 2 * sizeof(float));
    }
    Adapter *two, *joint;
    assert_ok(adapter_from_modules(&two, dense, 2, modules));
    assert_ok(adapter_from_modules(&joint, dense, 2, one));
    assert_non_null(two->layers[0].places_up[LORA_MLP_IN]);
    assert_null(joint->layers[0].places_up[LORA_MLP_IN]);
    float *x = tiny_logits(dense, two, doc.ids, T), *y = tiny_logits(dense, joint, doc.ids, T),
          *base = tiny_logits(dense, NULL, doc.ids, T);
    assert_true(tiny_distance(T * 256, x, y) < 1e-5);
    assert_true(tiny_distance(T * 256, x, base) > 1e-2);
    free(x);
    free(y);
    free(base);
    adapter_free(two);
    adapter_free(joint);
    drop(modules, 2);
    drop(one, 2);
}

static void a_module_that_is_not_there_is_named(void **state)
{
    (void)state;
    static const char *const names[] = {"model.layers.3.self_attn.o_proj",
                                        "model.layers.0.mlp.experts.0.up_proj",
                                        "model.layers.1.mlp.up_proj",
                                        "model.layers.1.mlp.experts.16.up_proj",
                                        "model.layers.0.self_attn.q_proj",
                                        "model.layers.0.mlp.gate",
                                        "lm_head",
                                        "model.layers.-1.self_attn.o_proj",
                                        "model.layers.1.mlp.experts.-1.up_proj",
                                        "model.layers.1.self_attn.o_projx",
                                        "model.layers.1 .self_attn.o_proj",
                                        "model.layers. 1.self_attn.o_proj",
                                        "model.layers.01.self_attn.o_proj",
                                        "model.layers.1.mlp.experts.+3.up_proj",
                                        "",
                                        "model.layers.18446744073709551617.self_attn.o_proj"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        LoraModule given = module_of(names[i], 2, D, 128, 1);
        char part[160];
        snprintf(part, sizeof part, "no module %s", names[i]);
        refused(1, &given, part);
    }
}

static void a_wrong_shape_is_told_with_both(void **state)
{
    (void)state;
    LoraModule a = module_of("model.layers.1.self_attn.o_proj", 2, D, 128, 1),
               b = module_of("model.layers.1.mlp.experts.3.up_proj", 2, F, D, 1);
    refused(1, &a, "model.layers.1.self_attn.o_proj is for a weight [128][64]; the model's is [64][128]");
    refused(1, &b, "model.layers.1.mlp.experts.3.up_proj");
}

static void a_module_that_is_there_twice_is_refused(void **state)
{
    (void)state;
    LoraModule modules[] = {module_of("model.layers.1.self_attn.o_proj", 2, 128, D, 1),
                            module_of("model.layers.1.self_attn.o_proj", 2, 128, D, 2)};
    refused(2, modules, "model.layers.1.self_attn.o_proj is there twice");
    LoraModule up[] = {module_of("model.layers.1.mlp.experts.3.up_proj", 2, D, F, 1),
                       module_of("model.layers.1.mlp.experts.3.up_proj", 2, D, F, 1)};
    refused(2, up, "there twice");
    LoraModule routers[] = {
        {.module = "model.layers.1.mlp.gate", .in = D, .out = 16, .scale = 1, .B = numbers(D * 16, 1)},
        {.module = "model.layers.1.mlp.gate", .in = D, .out = 16, .scale = 1, .B = numbers(D * 16, 2)}};
    refused(2, routers, "model.layers.1.mlp.gate is there twice");
}

static void a_router_trains_by_lora_or_in_full_and_a_projection_only_by_lora(void **state)
{
    (void)state;
    LoraModule whole = {
        .module = "model.layers.1.self_attn.o_proj", .in = 128, .out = D, .scale = 1, .B = numbers(D * 128, 1)};
    refused(1, &whole, "only a router is trained in full");
    LoraModule both[] = {
        module_of("model.layers.1.mlp.gate", 2, D, 16, 1),
        {.module = "model.layers.1.mlp.gate", .in = D, .out = 16, .scale = 1, .B = numbers(D * 16, 1)}};
    refused(2, both, "is trained both by LoRA and in full");
}

static void no_modules_at_all_are_refused(void **state)
{
    (void)state;
    Adapter *adapter;
    assert_fails(adapter_from_modules(&adapter, dense, 0, NULL), ERR_USAGE, "nothing to train");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adapters_survive_modules_and_back),
        cmocka_unit_test(a_trained_router_survives_modules_and_back),
        cmocka_unit_test(the_order_of_modules_does_not_matter),
        cmocka_unit_test(unequal_As_remain_two_loras_in_an_mlp),
        cmocka_unit_test(unequal_As_become_one_lora_of_both_r_in_an_expert),
        cmocka_unit_test(two_loras_of_an_mlp_do_what_each_does),
        cmocka_unit_test(a_module_that_is_not_there_is_named),
        cmocka_unit_test(a_wrong_shape_is_told_with_both),
        cmocka_unit_test(a_module_that_is_there_twice_is_refused),
        cmocka_unit_test(a_router_trains_by_lora_or_in_full_and_a_projection_only_by_lora),
        cmocka_unit_test(no_modules_at_all_are_refused),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
