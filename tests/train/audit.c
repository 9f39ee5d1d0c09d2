/* Faults that the audit must catch by name: a missing gradient, and exported files with a module renamed, zeroed,
 * swapped or changed. */
#include "train/audit.h"

#include "base/rng.h"
#include "infer/adapter_io.h"
#include "tensor/dispatch.h"
#include "tensor/safetensors.h"
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char MODEL[] = "examples/tiny-glm5";

typedef struct {
    Dp dp;
    Model *model;
    Adapter *adapter;
    Step *step;
    Audit *audit;
} Audited;

static void audited_open(Audited *a, const char *experts)
{
    Json *targets, *which;
    *a = (Audited){.dp = {.size = 1}};
    assert_ok(json_parse(&targets, "[\"q_a_proj\", \"o_proj\"]", strlen("[\"q_a_proj\", \"o_proj\"]")));
    assert_ok(json_parse(&which, experts, strlen(experts)));
    assert_ok(model_open(&a->model, MODEL));
    assert_ok(adapter_new(
        &a->adapter, a->model,
        &(LoraConfig){.r = 2, .lora_alpha = 4, .target_modules = targets, .experts = which, .train_router = true}, 1));
    assert_ok(step_new(&a->step, &a->dp, a->model, a->adapter, &(StepConfig){0}));
    assert_ok(audit_new(&a->audit, a->adapter));
    json_free(targets);
    json_free(which);
}

static void audited_close(Audited *a)
{
    audit_free(a->audit);
    step_free(a->step);
    adapter_free(a->adapter);
    model_close(a->model);
}

/* Gradients of one document of n tokens; the first n_loss_tokens of them are in the loss. */
static void take_gradients(Audited *a, size_t n, size_t n_loss_tokens)
{
    int32_t ids[64], targets[64];
    Document doc = {.n = n, .ids = ids, .targets = targets, .n_loss_tokens = n_loss_tokens};
    const Document *docs[] = {&doc};
    Batch batch;
    StepResult result;
    for (size_t t = 0; t < n; t++) {
        ids[t] = (int32_t)rng_below(1, t, 4000);
        targets[t] = t < n_loss_tokens ? (int32_t)rng_below(2, t, 4000) : -1;
    }
    assert_ok(batch_new(&batch, &a->dp, 1, docs, 64, 0));
    assert_ok(step_gradients(a->step, &batch, 0, NULL, &result));
    batch_free(&batch);
}

static Json *audited_check(Audited *a)
{
    Json *result;
    audit_observe(a->audit, &a->dp, a->step);
    assert_ok(audit_check(a->audit, &a->dp, a->step, false, &result));
    return result;
}

static void a_correct_step_has_no_fault_and_experts_without_tokens_are_listed(void **state)
{
    (void)state;
    Audited b;
    audited_open(&b, "\"all\"");
    take_gradients(&b, 8, 8);
    Json *result = audited_check(&b);
    assert_int_equal(json_count(json_find(result, "errors")), 0);
    assert_true(b.audit->n_without > 0); /* 8 tokens with 4 experts each cannot reach all 32 experts of every layer */
    for (const Json *layer = json_first(json_find(result, "no_token")); layer; layer = json_next(layer))
        for (const Json *e = json_first(layer); e; e = json_next(e))
            assert_int_equal(step_counts(b.step, (size_t)atoi(json_key(layer))).load[(size_t)json_number(e)], 0);
    json_free(result);
    take_gradients(&b, 64, 64);
    size_t before = b.audit->n_without;
    json_free(audited_check(&b));
    assert_true(b.audit->n_without < before); /* an expert that once had a gradient is not listed again */
    audited_close(&b);
}

static void tokens_without_influence_on_the_loss_are_listed_apart(void **state)
{
    (void)state;
    Audited b;
    audited_open(&b, "\"all\"");
    take_gradients(&b, 40, 2);
    Json *result = audited_check(&b);
    assert_int_equal(json_count(json_find(result, "errors")), 0);
    assert_true(json_count(json_find(result, "no_scored_token")) > 0);
    json_free(result);
    audited_close(&b);
}

/* Set the gradient of a parameter to zero, as a missing line in a backward pass would. */
static void cut(Audited *a, size_t l, const char *part)
{
    const LayerAdapter *layer = &a->adapter->layers[l];
    for (size_t i = 0; i < layer->n_params; i++)
        if (strstr(layer->params[i].name, part))
            memset(step_gradient(a->step, l) + layer->params[i].offset, 0,
                   param_count(&layer->params[i]) * sizeof(float));
}

static void a_cut_gradient_is_named(void **state)
{
    (void)state;
    static const struct {
        size_t l;
        const char *cut, *named;
    } cases[] = {
        {2, "self_attn.o_proj.", "model.layers.2.self_attn.o_proj"},
        {4, "mlp.gate.weight", "model.layers.4.mlp.gate"},
        {5, "mlp.experts.", "model.layers.5.mlp.experts."},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Audited b;
        audited_open(&b, "\"all\"");
        take_gradients(&b, 64, 64);
        cut(&b, cases[i].l, cases[i].cut);
        Json *result = audited_check(&b);
        const Json *first = json_first(json_find(result, "errors"));
        assert_non_null(first);
        assert_non_null(strstr(json_string(first), cases[i].named));
        json_free(result);
        audited_close(&b);
    }
}

static void a_lora_module_whose_a_has_no_gradient_is_no_fault(void **state)
{
    (void)state;
    Audited b;
    audited_open(&b, "\"none\"");
    take_gradients(&b, 16, 16); /* B is zero, so A has no gradient at all */
    const LayerAdapter *layer = &b.adapter->layers[2];
    for (size_t j = 0; j < param_count(&layer->params[0]); j++)
        assert_true(step_gradient(b.step, 2)[layer->params[0].offset + j] == 0);
    Json *result = audited_check(&b);
    assert_int_equal(json_count(json_find(result, "errors")), 0);
    json_free(result);
    audited_close(&b);
}

/* ---- exports -------------------------------------------------------------------------------------------------- */

/* Write the exported tensors again after a change. */
static void mutate(const char *directory, void (*change)(TensorView *tensors, size_t n))
{
    Safetensors file;
    char path[PATH_BYTES], other[PATH_BYTES];
    assert_ok(file_join(path, directory, "adapter_model.safetensors"));
    assert_ok(file_join(other, directory, "other"));
    assert_ok(safetensors_open(&file, path));
    change(file.tensors, file.n_tensors);
    assert_ok(safetensors_write(other, file.tensors, file.n_tensors));
    safetensors_close(&file);
    assert_int_equal(rename(other, path), 0);
}

static TensorView *find(TensorView *tensors, size_t n, const char *part)
{
    for (size_t i = 0; i < n; i++)
        if (strstr(tensors[i].name, part)) return &tensors[i];
    fail_msg("no tensor %s", part);
    return NULL;
}

static void zero(TensorView *tensors, size_t n)
{
    static const char zeros[1 << 16];
    TensorView *tensor = find(tensors, n, "layers.3.mlp.experts.7.down_proj.lora_B");
    assert_true(tensor->bytes <= sizeof zeros);
    tensor->data = zeros;
}

static void swap(TensorView *tensors, size_t n)
{
    TensorView *first = find(tensors, n, "layers.2.mlp.experts.4.up_proj.lora_B"),
               *second = find(tensors, n, "layers.2.mlp.experts.5.up_proj.lora_B");
    const void *data = first->data;
    first->data = second->data;
    second->data = data;
}

static void move(TensorView *tensors, size_t n)
{
    find(tensors, n, "layers.1.self_attn.o_proj.lora_A")->name =
        "base_model.model.model.layers.1.self_attn.q_b_proj.lora_A.weight";
    find(tensors, n, "layers.1.self_attn.o_proj.lora_B")->name =
        "base_model.model.model.layers.1.self_attn.q_b_proj.lora_B.weight";
}

static void flip(TensorView *tensors, size_t n)
{
    static float copy[1 << 16];
    TensorView *tensor = find(tensors, n, "layers.4.mlp.gate.weight");
    assert_true(tensor->bytes <= sizeof copy);
    memcpy(copy, tensor->data, tensor->bytes);
    copy[17] += 1e-3f;
    tensor->data = copy;
}

static void an_export_that_differs_from_memory_is_named(void **state)
{
    static const struct {
        void (*change)(TensorView *tensors, size_t n);
        const char *named;
    } cases[] = {
        {zero, "model.layers.3.mlp.experts.7.down_proj: B"},
        {swap, "model.layers.2.mlp.experts.4.up_proj: B"},
        {move, "model.layers.1.self_attn.o_proj is trained, but not in the file"},
        {flip, "model.layers.4.mlp.gate.weight: the weight"},
    };
    Audited b;
    char path[PATH_BYTES];
    scratch_path(state, "adapter", path);
    audited_open(&b, "\"all\"");
    for (size_t i = 0; i < b.adapter->n; i++) b.adapter->values[i] += 0.01f * (float)rng_normal(3, i);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(adapter_export(b.adapter, path, MODEL, false));
        assert_ok(audit_export(b.adapter, path));
        mutate(path, cases[i].change);
        assert_fails(audit_export(b.adapter, path), ERR_FORMAT, cases[i].named);
    }
    assert_ok(adapter_export(b.adapter, path, MODEL, true)); /* rounded to BF16 */
    assert_ok(audit_export(b.adapter, path));
    audited_close(&b);
}

static void zeros_stand_for_experts_that_are_not_trained(void **state)
{
    Audited b;
    char path[PATH_BYTES];
    scratch_path(state, "adapter", path);
    audited_open(&b, "{\"experts\": {\"2\": [1]}}");
    for (size_t i = 0; i < b.adapter->n; i++) b.adapter->values[i] += 0.01f * (float)rng_normal(3, i);
    assert_ok(adapter_export(b.adapter, path, MODEL, false));
    assert_ok(audit_export(b.adapter, path));
    mutate(path, swap); /* zeros for zeros */
    assert_ok(audit_export(b.adapter, path));
    audited_close(&b);
}

static void biases_that_moved_come_back(void **state)
{
    Audited b;
    Adapter *again;
    char path[PATH_BYTES];
    scratch_path(state, "adapter", path);
    audited_open(&b, "\"all\"");
    assert_ok(adapter_own_biases(b.adapter));
    for (size_t e = 0; e < b.model->router.E; e++) b.adapter->layers[3].router_bias[e] += 0.001f * (float)e;
    assert_ok(adapter_export(b.adapter, path, MODEL, false));
    assert_ok(adapter_open(&again, b.model, path));
    assert_memory_equal(again->biases, b.adapter->biases, b.adapter->n_layers * b.model->router.E * sizeof(float));
    adapter_free(again);
    audited_close(&b);
}

int main(void)
{
    dispatch_init("fp32");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_correct_step_has_no_fault_and_experts_without_tokens_are_listed),
        cmocka_unit_test(tokens_without_influence_on_the_loss_are_listed_apart),
        cmocka_unit_test(a_cut_gradient_is_named),
        cmocka_unit_test(a_lora_module_whose_a_has_no_gradient_is_no_fault),
        scratch_test(an_export_that_differs_from_memory_is_named),
        scratch_test(zeros_stand_for_experts_that_are_not_trained),
        scratch_test(biases_that_moved_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
