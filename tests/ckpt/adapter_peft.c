/* Adapters that PEFT itself wrote (tests/fixtures/adapter): every layout is read as PEFT reads it. */
#include "ckpt/adapter_file.h"

#include "base/memory.h"
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIXTURES "tests/fixtures/adapter/"

static void assert_near(double found, double expected)
{
    if (!(fabs(found - expected) <= 1e-12 * fabs(expected))) fail_msg("found %.17g, expected %.17g", found, expected);
}

static float *floats(size_t n)
{
    float *x;
    assert_ok(mem_new(&x, n, sizeof *x));
    return x;
}

static void assert_merges_to(const AdapterFile *file, const Safetensors *base, const char *name,
                             const TensorView *merged)
{
    char module[200];
    const TensorView *weight = safetensors_find(base, name);
    assert_non_null(weight);
    snprintf(module, sizeof module, "%.*s", (int)(strlen(name) - strlen(".weight")), name);
    const AdapterLora *lora = adapter_file_find(file, module);
    if (!lora) fail_msg("%s has no LoRA", module);
    size_t rows = merged->shape[0], cols = merged->shape[1];
    assert_int_equal(lora->out, rows);
    assert_int_equal(lora->in, cols);
    float *W = floats(rows * cols), *expected = floats(rows * cols), *A = floats(lora->r * cols),
          *B = floats(rows * lora->r);
    dtype_widen(rows * cols, W, weight->dtype, weight->data);
    dtype_widen(rows * cols, expected, merged->dtype, merged->data);
    adapter_file_read_lora(lora, A, B);
    for (size_t o = 0; o < rows; o++) {
        for (size_t i = 0; i < cols; i++) {
            double delta = 0;
            for (size_t j = 0; j < lora->r; j++) delta += (double)B[o * lora->r + j] * (double)A[j * cols + i];
            double found = (double)W[o * cols + i] + lora->scale * delta;
            if (fabs(found - (double)expected[o * cols + i]) > 1e-6)
                fail_msg("%s[%zu][%zu] is %g, %g in PEFT", name, o, i, found, (double)expected[o * cols + i]);
        }
    }
    free(W), free(expected), free(A), free(B);
}

static void every_layout_merges_to_what_peft_merges(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t n_loras, n_merged;
    } adapters[] = {{"a_attn_shared_rslora", 24, 9}, {"b_experts_fused", 48, 9},   {"c_experts_named", 48, 0},
                    {"d_head_embed_router", 13, 5},  {"e_experts_partial", 24, 3}, {"f_all_named", 72, 5}};
    Safetensors base, reference;
    assert_ok(safetensors_open(&base, FIXTURES "base/model.safetensors"));
    assert_ok(safetensors_open(&reference, FIXTURES "reference.safetensors"));
    for (size_t a = 0; a < sizeof adapters / sizeof *adapters; a++) {
        AdapterFile *file;
        char path[PATH_BYTES], prefix[16];
        size_t n_merged = 0;
        assert_ok(file_join(path, FIXTURES, adapters[a].name));
        assert_ok(adapter_file_open(&file, path));
        assert_int_equal(file->n_loras, adapters[a].n_loras);
        assert_int_equal(file->n_extras, 0);
        /* c is b under other names */
        snprintf(prefix, sizeof prefix, "%c.merged.", adapters[a].name[0] == 'c' ? 'b' : adapters[a].name[0]);
        for (size_t t = 0; t < reference.n_tensors; t++) {
            const TensorView *merged = &reference.tensors[t];
            if (strncmp(merged->name, prefix, strlen(prefix)) != 0) continue;
            assert_merges_to(file, &base, merged->name + strlen(prefix), merged);
            n_merged++;
        }
        assert_true(n_merged >= 3 && n_merged >= adapters[a].n_merged);
        adapter_file_close(file);
    }
    safetensors_close(&base);
    safetensors_close(&reference);
}

static void scales_are_those_that_peft_loaded(void **state)
{
    (void)state;
    Json *expected;
    size_t compared = 0;
    assert_ok(json_read_file(&expected, FIXTURES "expected.json"));
    const Json *adapters;
    assert_ok(json_get_object(expected, "adapters", &adapters));
    for (const Json *adapter = json_first(adapters); adapter; adapter = json_next(adapter)) {
        AdapterFile *file;
        char path[PATH_BYTES], module[200];
        const Json *list;
        assert_ok(file_join(path, FIXTURES, json_key(adapter)));
        assert_ok(adapter_file_open(&file, path));
        assert_ok(json_get_array(adapter, "as_loaded_by_peft", &list));
        for (const Json *weight = json_first(list); weight; weight = json_next(weight)) {
            const char *name;
            double scale;
            int64_t r;
            assert_ok(json_get_string(weight, "weight", &name));
            assert_ok(json_get_number(weight, "scale", &scale));
            assert_ok(json_get_int(weight, "r", 1, 100, &r));
            snprintf(module, sizeof module, "%.*s", (int)(strrchr(name, '.') - name), name);
            const AdapterLora *lora = adapter_file_find(file, module);
            if (!lora) continue; /* a fused parameter: its merged weights are compared above */
            assert_near(lora->scale, scale);
            assert_int_equal(lora->r, r);
            compared++;
        }
        adapter_file_close(file);
    }
    assert_true(compared > 50);
    json_free(expected);
}

static void gate_and_up_of_a_fused_expert_share_one_A(void **state)
{
    (void)state;
    AdapterFile *file;
    assert_ok(adapter_file_open(&file, FIXTURES "b_experts_fused"));
    const AdapterLora *gate = adapter_file_find(file, "model.layers.2.mlp.experts.5.gate_proj");
    const AdapterLora *up = adapter_file_find(file, "model.layers.2.mlp.experts.5.up_proj");
    assert_true(gate && up && gate->A.tensor == up->A.tensor && gate->A.first == up->A.first);
    assert_true(gate->B.first != up->B.first);
    assert_null(adapter_file_find(file, "model.layers.2.mlp.experts.8.up_proj"));
    adapter_file_close(file);
}

static void an_embedding_is_marked(void **state)
{
    (void)state;
    AdapterFile *file;
    assert_ok(adapter_file_open(&file, FIXTURES "d_head_embed_router"));
    assert_true(adapter_file_find(file, "model.embed_tokens")->embedding);
    assert_false(adapter_file_find(file, "lm_head")->embedding);
    adapter_file_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_merges_to_what_peft_merges),
        cmocka_unit_test(scales_are_those_that_peft_loaded),
        cmocka_unit_test(gate_and_up_of_a_fused_expert_share_one_A),
        cmocka_unit_test(an_embedding_is_marked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
