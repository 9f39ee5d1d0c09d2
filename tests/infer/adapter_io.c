/* An adapter written as a PEFT directory and read back does the same. */
#include "infer/adapter_io.h"

#include "ckpt/adapter_file.h"
#include "model/lora_sites.h"
#include "tests/support/tiny.h"

#include <stdlib.h>
#include <string.h>

enum { T = 20 };

static void same_logits(Model *model, const Adapter *a, const Adapter *b)
{
    Document doc = tiny_document(T, 256, 1);
    float *x = tiny_logits(model, a, doc.ids, T), *y = tiny_logits(model, b, doc.ids, T);
    for (size_t i = 0; i < T * (size_t)model->config.vocab_size; i++)
        if (x[i] != y[i]) fail_msg("logit %zu: %a and %a", i, (double)x[i], (double)y[i]);
    free(x);
    free(y);
    tiny_document_free(&doc);
}

static void export_then_open_gives_the_same_logits(void **state)
{
    static const struct {
        const char *model, *targets, *experts;
    } cases[] = {
        {"dense", "'all-linear'", NULL},
        {"dense", "['o_proj', 'kv_b_proj']", "'none'"},
        {"dense", "['gate', 'o_proj']", "'none'"},
        {"sparse", "['q_a_proj', 'gate_proj', 'up_proj', 'down_proj']", NULL},
        {"lite_noqlora", "'all-linear'", NULL},
        {"fp8", "'all-linear'", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[PATH_BYTES], name[] = "adapter0";
        name[7] = (char)('0' + i);
        scratch_path(state, name, path);
        Model *model = tiny_model(cases[i].model);
        Adapter *a, *b;
        assert_ok(tiny_adapter(&a, model, 3, cases[i].targets, NULL, cases[i].experts));
        tiny_fill(a, 9, 0.2);
        assert_ok(adapter_export(a, path, "base", false));
        assert_ok(adapter_open(&b, model, path));
        assert_int_equal(a->n, b->n);
        same_logits(model, a, b);
        adapter_free(a);
        adapter_free(b);
        model_close(model);
    }
}

static void experts_without_LoRA_are_exported_as_zeros(void **state)
{
    char path[PATH_BYTES];
    scratch_path(state, "adapter", path);
    Model *model = tiny_model("dense");
    Adapter *a, *b;
    AdapterFile *file;
    assert_ok(tiny_adapter(&a, model, 2, "['o_proj']", NULL, "{'1': [3, 12]}"));
    tiny_fill(a, 9, 0.2);
    assert_ok(adapter_export(a, path, "base", false));
    assert_ok(adapter_file_open(&file, path));
    assert_int_equal(file->n_loras, 3 + 16 * 3); /* layer 2 has no LoRA and needs no zeros */
    float *A = calloc(2 * 64, sizeof *A), *B = calloc(2 * 64, sizeof *B);
    assert_true(A && B);
    for (size_t e = 0; e < 16; e++) {
        char module[MODULE_BYTES];
        bool zero = true;
        lora_site_module(&(LoraSite){.kind = SITE_EXPERT_OUT, .l = 1, .expert = e}, module);
        const AdapterLora *lora = adapter_file_find(file, module);
        assert_non_null(lora);
        adapter_file_read_lora(lora, A, B);
        for (size_t i = 0; i < 2 * 64; i++) zero = zero && B[i] == 0;
        assert_int_equal(zero, e != 3 && e != 12);
    }
    free(A);
    free(B);
    adapter_file_close(file);
    assert_ok(adapter_open(&b, model, path));
    same_logits(model, a, b);
    adapter_free(a);
    adapter_free(b);
    model_close(model);
}

static void one_half_of_an_expert_is_exported_with_zeros_for_the_other(void **state)
{
    static const char *const targets[] = {"['experts.3.up_proj']", "['experts.3.gate_proj']",
                                          "['experts.3.down_proj']"};
    Model *model = tiny_model("dense");
    for (size_t i = 0; i < 3; i++) {
        char path[PATH_BYTES], name[] = "adapter0";
        Adapter *a, *b;
        name[7] = (char)('0' + i);
        scratch_path(state, name, path);
        assert_ok(tiny_adapter(&a, model, 2, targets[i], NULL, NULL));
        tiny_fill(a, 9, 0.5);
        assert_ok(adapter_export(a, path, "base", false));
        assert_ok(adapter_open(&b, model, path));
        Document doc = tiny_document(T, 256, 1);
        float *x = tiny_logits(model, b, doc.ids, T), *y = tiny_logits(model, a, doc.ids, T);
        assert_true(tiny_distance(T * 256, x, y) < 1e-5); /* gate and up may be one longer sum now */
        free(x);
        free(y);
        tiny_document_free(&doc);
        adapter_free(a);
        adapter_free(b);
    }
    model_close(model);
}

static void a_trained_router_is_exported_and_read_back(void **state)
{
    char path[PATH_BYTES];
    scratch_path(state, "adapter", path);
    Model *model = tiny_model("dense");
    Adapter *a = NULL, *b;
    Json *targets = tiny_json("['o_proj']");
    assert_ok(adapter_new(&a, model,
                          &(LoraConfig){.r = 2, .lora_alpha = 4, .target_modules = targets, .train_router = true}, 1));
    tiny_fill(a, 9, 0.2);
    assert_ok(adapter_export(a, path, "base", false));
    assert_ok(adapter_open(&b, model, path));
    for (size_t l = 1; l < 3; l++) {
        assert_non_null(b->layers[l].router);
        assert_memory_equal(a->layers[l].router->data, b->layers[l].router->data, 16 * 64 * sizeof(float));
    }
    same_logits(model, a, b);
    json_free(targets);
    adapter_free(a);
    adapter_free(b);
    model_close(model);
}

static void the_adapters_of_the_fixtures_open_and_change_logits(void **state)
{
    (void)state;
    static const char *const names[] = {"dense",        "sparse",         "indexshare", "lite",
                                        "lite_noqlora", "v3_groups_yarn", "v32",        "fp8"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[PATH_BYTES];
        Model *model = tiny_model(names[i]);
        Adapter *adapter;
        Document doc = tiny_document(T, 256, 1);
        snprintf(path, sizeof path, "tests/fixtures/model/%s/adapter", names[i]);
        assert_ok(adapter_open(&adapter, model, path));
        float *x = tiny_logits(model, adapter, doc.ids, T), *y = tiny_logits(model, NULL, doc.ids, T);
        assert_true(tiny_distance(T * 256, x, y) > 1e-3);
        free(x);
        free(y);
        tiny_document_free(&doc);
        adapter_free(adapter);
        model_close(model);
    }
}

static void an_adapter_of_another_model_is_refused_with_its_module(void **state)
{
    (void)state;
    Model *model = tiny_model("lite_noqlora");
    Adapter *adapter;
    assert_fails(adapter_open(&adapter, model, "tests/fixtures/model/dense/adapter"), ERR_FORMAT,
                 "this model has no module model.layers.");
    assert_fails(adapter_open(&adapter, model, "tests/fixtures/model/fp8/adapter"), ERR_FORMAT, "adapter");
    assert_fails(adapter_open(&adapter, model, "nowhere"), ERR_IO, "nowhere");
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(export_then_open_gives_the_same_logits),
        scratch_test(experts_without_LoRA_are_exported_as_zeros),
        scratch_test(one_half_of_an_expert_is_exported_with_zeros_for_the_other),
        scratch_test(a_trained_router_is_exported_and_read_back),
        cmocka_unit_test(the_adapters_of_the_fixtures_open_and_change_logits),
        cmocka_unit_test(an_adapter_of_another_model_is_refused_with_its_module),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
