#include "ckpt/adapter_file.h"

#include "base/memory.h"
#include "tests/support/check.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIXTURES "tests/fixtures/adapter/"

static const char *folder;
static char directory[PATH_BYTES]; /* of the adapter, not there yet */

static int begin(void **state)
{
    if (scratch_open(state)) return -1;
    folder = *state;
    scratch_path(state, "adapter", directory);
    return 0;
}

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

/* ---- the fixtures of PEFT ---- */

static void assert_merges_to(const AdapterFile *file, const Safetensors *base, const char *name,
                             const TensorView *merged)
{
    char module[200];
    const TensorView *weight = safetensors_find(base, name);
    assert_non_null(weight);
    snprintf(module, sizeof module, "%.*s", (int)(strlen(name) - strlen(".weight")), name);
    const AdapterLora *lora = adapter_file_find(file, module);
    if (!lora) fail_msg("%s has no pair", module);
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
            if (!lora) continue; /* a fused parameter: the merged weights speak for it */
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

/* ---- small adapters made here ---- */

static float numbers[4096];

static TensorView tensor(const char *name, size_t n_dims, size_t a, size_t b, size_t c)
{
    TensorView view = {.name = name, .dtype = DTYPE_F32, .n_dims = n_dims, .shape = {a, b, c}, .data = numbers};
    view.bytes = sizeof(float);
    for (size_t i = 0; i < n_dims; i++) view.bytes *= view.shape[i];
    return view;
}

static TensorView matrix(const char *name, size_t rows, size_t cols) { return tensor(name, 2, rows, cols, 0); }

/* An adapter whose config has peft_type and `keys`. */
static void make_adapter(const char *keys, size_t n, const TensorView *tensors)
{
    char path[PATH_BYTES], *text;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) numbers[i] = (float)i;
    assert_ok(file_make_directory(directory));
    assert_ok(mem_format(&text, "{\"peft_type\": \"LORA\"%s%s}", *keys ? ", " : "", keys));
    assert_ok(file_join(path, directory, "adapter_config.json"));
    assert_ok(file_write(path, text, strlen(text)));
    free(text);
    assert_ok(file_join(path, directory, "adapter_model.safetensors"));
    assert_ok(safetensors_write(path, tensors, n));
}

static AdapterFile *open_adapter(void)
{
    AdapterFile *file;
    assert_ok(adapter_file_open(&file, directory));
    return file;
}

static void assert_refused(const char *part)
{
    AdapterFile *file;
    assert_fails(adapter_file_open(&file, directory), ERR_FORMAT, part);
    assert_null(file);
}

static void prefix_and_adapter_name_are_optional(void **state)
{
    (void)state;
    make_adapter("\"r\": 2, \"lora_alpha\": 3", 4,
                 (TensorView[]){matrix("model.layers.0.self_attn.o_proj.lora_A.default.weight", 2, 5),
                                matrix("model.layers.0.self_attn.o_proj.lora_B.default.weight", 4, 2),
                                matrix("base_model.model.lm_head.lora_A.weight", 2, 5),
                                matrix("base_model.model.lm_head.lora_B.weight", 9, 2)});
    AdapterFile *file = open_adapter();
    const AdapterLora *lora = adapter_file_find(file, "model.layers.0.self_attn.o_proj");
    assert_true(lora && lora->in == 5 && lora->out == 4 && lora->r == 2 && lora->scale == 1.5);
    assert_non_null(adapter_file_find(file, "lm_head"));
    adapter_file_close(file);
}

static void the_first_matching_key_gives_alpha(void **state)
{
    (void)state;
    static const struct {
        const char *patterns;
        double alpha;
    } cases[] = {
        {"", 8},
        {"\"o_proj\": 5, \"model.layers.3.self_attn.o_proj\": 6", 5},
        {"\"model.layers.3.self_attn.o_proj\": 6, \"o_proj\": 5", 6},
        {"\"proj\": 5", 8},      /* a key starts at a dot */
        {"\"self_attn\": 5", 8}, /* and ends at the end */
        {"\"layers\\\\.(2|3)\\\\..*\": 5", 5},
        {"\"layers\\\\.\\\\d+\\\\.self_attn\\\\.o_proj\": 5", 5},
        {"\"layers\\\\.[\\\\d]\\\\.self_attn\\\\.\\\\w+\": 5", 5},
        {"\"layers\\\\.[^]0-2]\\\\..*?o_proj\": 5", 5},
        {"\"^model\\\\.(?:layers|blocks)\\\\.3\\\\..*$\": 5", 5},
        {"\"o_proj.weight\": 5", 8}, /* no target parameter */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char keys[300];
        snprintf(keys, sizeof keys, "\"alpha_pattern\": {%s}", cases[i].patterns);
        make_adapter(keys, 2,
                     (TensorView[]){matrix("model.layers.3.self_attn.o_proj.lora_A.weight", 8, 5),
                                    matrix("model.layers.3.self_attn.o_proj.lora_B.weight", 4, 8)});
        AdapterFile *file = open_adapter();
        if (file->loras[0].scale != cases[i].alpha / 8)
            fail_msg("%s: scale %g", cases[i].patterns, file->loras[0].scale);
        adapter_file_close(file);
    }
}

static void a_target_parameter_matches_by_its_own_path(void **state)
{
    (void)state;
    TensorView tensors[] = {matrix("model.layers.0.mlp.up_proj.lora_A.weight", 8, 5),
                            matrix("model.layers.0.mlp.up_proj.lora_B.weight", 4, 8)};
    make_adapter(
        "\"target_parameters\": [\"mlp.up_proj.weight\"], \"alpha_pattern\": {\"up_proj\": 3, \"up_proj.weight\": 4}",
        2, tensors);
    AdapterFile *file = open_adapter();
    assert_near(file->loras[0].scale, 0.5);
    adapter_file_close(file);
    make_adapter("\"target_parameters\": [\"p.up_proj.weight\"], \"alpha_pattern\": {\"up_proj\": 3}", 2, tensors);
    file = open_adapter(); /* "p." is no whole part of the path */
    assert_near(file->loras[0].scale, 0.375);
    adapter_file_close(file);
}

static void a_doubled_r_of_gate_and_up_is_seen_through(void **state)
{
    (void)state;
    make_adapter("\"r\": 2, \"lora_alpha\": 3, \"target_parameters\": [\"mlp.experts.gate_up_proj\", "
                 "\"mlp.experts.down_proj\"], "
                 "\"rank_pattern\": {\".*\\\\.gate_up_proj\": 4}, \"alpha_pattern\": {\".*\\\\.gate_up_proj\": 6}",
                 4,
                 (TensorView[]){matrix("model.layers.0.mlp.experts.0.up_proj.lora_A.weight", 2, 5),
                                matrix("model.layers.0.mlp.experts.0.up_proj.lora_B.weight", 4, 2),
                                matrix("model.layers.0.mlp.experts.0.down_proj.lora_A.weight", 2, 4),
                                matrix("model.layers.0.mlp.experts.0.down_proj.lora_B.weight", 5, 2)});
    AdapterFile *file = open_adapter();
    assert_int_equal(file->n_loras, 2);
    assert_near(file->loras[0].scale, 1.5);
    assert_near(file->loras[1].scale, 1.5);
    adapter_file_close(file);
}

/* Element [e][o][i] of a fused parameter's change, from the formulas of the header. */
static void fused_files_of_both_ages_read_alike(void **state)
{
    (void)state;
    enum { E = 3, R = 2, D = 7, F = 4 };
    for (int old = 0; old < 2; old++) {
        make_adapter("\"r\": 2, \"target_parameters\": [\"experts.gate_up_proj\", \"experts.down_proj\"]", 4,
                     (TensorView[]){matrix("m.experts.base_layer.lora_A.weight", E * R, old ? 2 * F : D),
                                    matrix("m.experts.base_layer.lora_B.weight", old ? D : 2 * F, R * E),
                                    matrix("m.experts.lora_A.weight", E * R, old ? D : F),
                                    matrix("m.experts.lora_B.weight", old ? F : D, R * E)});
        AdapterFile *file = open_adapter();
        assert_int_equal(file->n_loras, 3 * E);
        for (size_t e = 0; e < E; e++) {
            static const char *const projections[] = {"gate_proj", "up_proj", "down_proj"};
            for (size_t p = 0; p < 3; p++) {
                char module[40];
                float A[R * D], B[D * R];
                snprintf(module, sizeof module, "m.experts.%zu.%s", e, projections[p]);
                const AdapterLora *lora = adapter_file_find(file, module);
                size_t in = p < 2 ? D : F, out = p < 2 ? F : D, o0 = p == 1 ? F : 0,
                       wide = old ? (p < 2 ? 2 * F : D) : in;
                assert_true(lora && lora->in == in && lora->out == out && lora->r == R);
                adapter_file_read_lora(lora, A, B);
                for (size_t j = 0; j < R; j++) { /* every tensor holds 0, 1, 2, ... */
                    for (size_t i = 0; i < in; i++)
                        assert_true(A[j * in + i] == (float)(old ? i * R * E + j * E + e : (e * R + j) * wide + i));
                    for (size_t o = 0; o < out; o++)
                        assert_true(B[o * R + j] ==
                                    (float)(old ? (e * R + j) * wide + o0 + o : (o0 + o) * R * E + j * E + e));
                }
            }
        }
        adapter_file_close(file);
    }
}

static void one_fused_parameter_alone_is_what_the_config_says(void **state)
{
    (void)state;
    TensorView tensors[] = {matrix("m.experts.lora_A.weight", 6, 5), matrix("m.experts.lora_B.weight", 4, 6)};
    make_adapter("\"r\": 2, \"target_parameters\": [\"experts.down_proj\"]", 2, tensors);
    AdapterFile *file = open_adapter();
    assert_true(file->n_loras == 3 && adapter_file_find(file, "m.experts.2.down_proj"));
    adapter_file_close(file);
    make_adapter("\"r\": 2, \"target_parameters\": [\"experts.gate_up_proj\"]", 2, tensors);
    file = open_adapter();
    assert_true(file->n_loras == 6 && adapter_file_find(file, "m.experts.2.up_proj")->out == 2);
    adapter_file_close(file);
    make_adapter("\"r\": 2", 2, tensors);
    assert_refused("m.experts.lora_A.weight stands alone and target_parameters names neither");
    make_adapter("\"r\": 4, \"target_parameters\": [\"experts.down_proj\"]", 2, tensors);
    assert_refused("m.experts.lora_A.weight has 6 rows; expected a multiple of r, 4");
}

static void stacked_experts_may_share_a_side(void **state)
{
    (void)state;
    make_adapter("\"r\": 2", 4,
                 (TensorView[]){tensor("m.experts.gate_up_proj.lora_A.weight", 3, 1, 2, 5),
                                tensor("m.experts.gate_up_proj.lora_B.weight", 3, 3, 8, 2),
                                tensor("m.experts.w2.lora_A.weight", 3, 3, 2, 4),
                                tensor("m.experts.w2.lora_B.weight", 3, 1, 5, 2)});
    AdapterFile *file = open_adapter();
    float A[10], B[10];
    assert_int_equal(file->n_loras, 9);
    const AdapterLora *up = adapter_file_find(file, "m.experts.2.up_proj");
    adapter_file_read_lora(up, A, B);
    assert_true(up->out == 4 && A[0] == 0 && B[0] == 2 * 16 + 8);
    const AdapterLora *down = adapter_file_find(file, "m.experts.1.down_proj");
    adapter_file_read_lora(down, A, B);
    assert_true(A[0] == 8 && B[0] == 0 && down->out == 5);
    adapter_file_close(file);
}

static void what_cannot_be_read_right_is_refused(void **state)
{
    (void)state;
    TensorView good[] = {matrix("m.q.lora_A.weight", 8, 5), matrix("m.q.lora_B.weight", 4, 8)};
    static const struct {
        const char *keys, *part;
    } configs[] = {
        {"\"use_dora\": true", "key use_dora is true"},
        {"\"lora_bias\": true", "key lora_bias is true"},
        {"\"bias\": \"all\"", "key bias is \"all\"; expected \"none\""},
        {"\"init_lora_weights\": \"pissa_niter_4\"", "key init_lora_weights is \"pissa_niter_4\""},
        {"\"init_lora_weights\": 3", "key init_lora_weights is a number"},
        {"\"modules_to_save\": [\"lm_head\"]", "key modules_to_save names lm_head"},
        {"\"modules_to_save\": [\"gate\"]", "modules_to_save, but no tensor"},
        {"\"modules_to_save\": \"gate\"", "key modules_to_save is a string; expected an array"},
        {"\"layer_replication\": [[0, 2]]", "key layer_replication is [[0,2]]"},
        {"\"trainable_token_indices\": [1]", "key trainable_token_indices"},
        {"\"loftq_config\": {\"bits\": 4}", "key loftq_config"},
        {"\"invented_later\": 1", "key invented_later is 1; graft reads plain LoRA"},
        {"\"target_parameters\": \"x\"", "key target_parameters is a string"},
        {"\"target_parameters\": [1]", "key target_parameters holds a number"},
        {"\"r\": 0", "key r is 0"},
        {"\"r\": 4", "r is 8 in the tensor, 4 in adapter_config.json"},
        {"\"lora_alpha\": \"8\"", "key lora_alpha is a string"},
        {"\"alpha_pattern\": {\"q\": \"8\"}", "alpha_pattern: key q is a string"},
        {"\"alpha_pattern\": {\"(q\": 8}", "the pattern \"(q\" is no regular expression"},
        {"\"alpha_pattern\": {\"(?i)q\": 8}", "has \"?i\", which graft does not translate"},
        {"\"alpha_pattern\": {\"\\\\bq\": 8}", "has \"\\b\""},
        {"\"alpha_pattern\": {\"q{1,9}\": 8}", "has \"{1\""},
        {"\"alpha_pattern\": {\"q\\\\\": 8}", "has \"\\\""},
        {"\"alpha_pattern\": []", NULL},
        {"\"invented_later\": false, \"other\": {}, \"task_type\": null", NULL},
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        make_adapter(configs[i].keys, 2, good);
        if (configs[i].part)
            assert_refused(configs[i].part);
        else
            adapter_file_close(open_adapter());
    }
    char path[PATH_BYTES];
    assert_ok(file_join(path, directory, "adapter_config.json"));
    assert_ok(file_write(path, "{}", 2));
    assert_refused("adapter_config.json: key peft_type is missing");
    assert_ok(file_write(path, "{\"peft_type\": \"LOHA\"}", 21));
    assert_refused("key peft_type is \"LOHA\"; expected \"LORA\"");
    assert_ok(file_write(path, "[]", 2));
    assert_refused("the file holds an array; expected an object");
}

static void every_tensor_must_be_understood(void **state)
{
    (void)state;
    TensorView half = matrix("m.q.lora_A.weight", 8, 5);
    half.dtype = DTYPE_I64;
    half.bytes = 8 * 8 * 5;
    const struct {
        const char *part;
        TensorView a, b;
    } cases[] = {
        {"m.q.lora_A.weight has no partner m.q.lora_B.weight", matrix("m.q.lora_A.weight", 8, 5),
         matrix("m.z.lora_A.weight", 8, 5)},
        {"m.q.lora_B.weight has no partner m.q.lora_A.weight", matrix("m.q.lora_B.weight", 8, 5),
         matrix("m.z.lora_A.weight", 8, 5)},
        {"m.q.lora_embedding_A has no partner m.q.lora_embedding_B", matrix("m.q.lora_embedding_A", 8, 5),
         matrix("m.z.lora_B.weight", 5, 8)},
        {"m.q.lora_A.weight has r 8, m.q.lora_B.weight has r 7", matrix("m.q.lora_A.weight", 8, 5),
         matrix("m.q.lora_B.weight", 5, 7)},
        {"has 3 dimensions; expected 2", tensor("m.q.lora_A.weight", 3, 8, 5, 1), matrix("m.q.lora_B.weight", 5, 8)},
        {"are the same part", matrix("m.q.lora_A.weight", 8, 5), matrix("base_model.model.m.q.lora_A.weight", 8, 5)},
        {"1 tensors are not LoRA as graft knows it: m.q.weight", matrix("m.q.lora_A.weight", 8, 5),
         matrix("m.q.weight", 5, 8)},
        {"2 tensors are not LoRA as graft knows it: m.q.lora_a.weight, m.q.lora_b.weight",
         matrix("m.q.lora_a.weight", 8, 5), matrix("m.q.lora_b.weight", 5, 8)},
        {"m.q.lora_magnitude_vector belongs to DoRA", matrix("m.q.lora_A.weight", 8, 5),
         matrix("m.q.lora_magnitude_vector", 1, 8)},
        {"m.q.lora_B.bias is a bias on B", matrix("m.q.lora_A.weight", 8, 5), matrix("m.q.lora_B.bias", 1, 8)},
        {"m.q.lora_A.weight is I64; expected F32, BF16 or F16", half, matrix("m.q.lora_B.weight", 5, 8)},
        {"m.experts.base_layer.lora_A.weight has no companion m.experts.lora_A.weight",
         matrix("m.experts.base_layer.lora_A.weight", 8, 5), matrix("m.experts.base_layer.lora_B.weight", 4, 8)},
        {"has 2 experts, m.experts.w1.lora_B.weight has 3", tensor("m.experts.w1.lora_A.weight", 3, 2, 8, 5),
         tensor("m.experts.w1.lora_B.weight", 3, 3, 5, 8)},
        {"there is no LoRA tensor", matrix("m.q.base_layer.weight", 8, 5), matrix("m.k.base_layer.weight", 8, 5)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        make_adapter("", 2, (TensorView[]){cases[i].a, cases[i].b});
        assert_refused(cases[i].part);
    }
    make_adapter("", 4,
                 (TensorView[]){matrix("m.experts.0.w1.lora_A.weight", 8, 5),
                                matrix("m.experts.0.w1.lora_B.weight", 4, 8),
                                matrix("m.experts.0.gate_proj.lora_A.weight", 8, 5),
                                matrix("m.experts.0.gate_proj.lora_B.weight", 4, 8)});
    assert_refused("m.experts.0.gate_proj has two pairs");
    make_adapter("", 4,
                 (TensorView[]){tensor("m.experts.w1.lora_A.weight", 3, 2, 8, 5),
                                tensor("m.experts.w1.lora_B.weight", 3, 2, 4, 8),
                                tensor("m.experts.w3.lora_A.weight", 3, 3, 8, 5),
                                tensor("m.experts.w3.lora_B.weight", 3, 3, 4, 8)});
    assert_refused("m.experts.w3.lora_A.weight speaks of 3 experts, m.experts.w1.lora_A.weight of 2");
}

static void missing_files_are_named(void **state)
{
    (void)state;
    AdapterFile *file;
    char path[PATH_BYTES];
    assert_fails(adapter_file_open(&file, directory), ERR_IO, "adapter_config.json");
    make_adapter("", 0, NULL);
    assert_ok(file_join(path, directory, "adapter_model.safetensors"));
    unlink(path);
    assert_fails(adapter_file_open(&file, directory), ERR_IO, "adapter_model.safetensors");
    assert_ok(file_join(path, directory, "adapter_model.bin"));
    assert_ok(file_write(path, "x", 1));
    assert_refused("adapter_model.bin is a pickle");
}

/* ---- writing ---- */

enum { D = 6, F = 4, R = 3 };
static float out_A[R * D], out_B[D * R], out_A2[2 * D], out_B2[D * 2], router[2 * D], bias[2];

static AdapterOut sample(AdapterOutLora loras[10], AdapterOutExtra extras[2])
{
    static const char *const modules[] = {
        "model.layers.1.self_attn.q_a_proj",           "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.shared_experts.down_proj", "model.layers.1.mlp.gate",
        "model.layers.1.mlp.experts.0.gate_proj",      "model.layers.1.mlp.experts.0.up_proj",
        "model.layers.1.mlp.experts.0.down_proj",      "model.layers.1.mlp.experts.1.gate_proj",
        "model.layers.1.mlp.experts.1.up_proj",        "model.layers.1.mlp.experts.1.down_proj"};
    for (size_t i = 0; i < R * D; i++) out_A[i] = sinf((float)i), out_B[i] = cosf((float)i);
    for (size_t i = 0; i < 2 * D; i++)
        out_A2[i] = sinf((float)i + 50), out_B2[i] = cosf((float)i + 50), router[i] = (float)i / 7;
    bias[0] = 0.1f, bias[1] = 1.0f / 3;
    for (size_t i = 0; i < 10; i++) {
        loras[i] = (AdapterOutLora){modules[i], R, D, D, out_A, out_B, 2};
        if (i >= 7) loras[i].A = loras[i].B = NULL; /* expert 1 is not adapted */
    }
    extras[0] = (AdapterOutExtra){"model.layers.2.mlp.gate.weight", 2, D, router};
    extras[1] = (AdapterOutExtra){"model.layers.2.mlp.gate.e_score_correction_bias", 1, 2, bias};
    return (AdapterOut){.base_model = "zai-org/GLM-5", .dtype = DTYPE_F32, .n_loras = 10, .loras = loras};
}

static void what_is_written_is_read_bit_for_bit(void **state)
{
    (void)state;
    AdapterOutLora loras[10];
    AdapterOutExtra extras[2];
    AdapterOut out = sample(loras, extras);
    float A[R * D], B[D * R];
    assert_ok(adapter_file_write(directory, &out));
    AdapterFile *file = open_adapter();
    assert_int_equal(file->n_loras, 10);
    assert_string_equal(file->config.base_model, "zai-org/GLM-5");
    for (size_t i = 0; i < 10; i++) {
        const AdapterLora *lora = adapter_file_find(file, loras[i].module);
        assert_true(lora && lora->scale == 2 && lora->r == R);
        adapter_file_read_lora(lora, A, B);
        if (loras[i].A) {
            assert_memory_equal(A, out_A, sizeof A);
            assert_memory_equal(B, out_B, sizeof B);
        } else {
            for (size_t k = 0; k < R * D; k++) assert_true(A[k] == 0 && B[k] == 0);
        }
    }
    adapter_file_close(file);
}

static void the_config_is_the_one_for_every_consumer(void **state)
{
    (void)state;
    AdapterOutLora loras[10];
    AdapterOutExtra extras[2];
    AdapterOut out = sample(loras, extras);
    char path[PATH_BYTES], *text;
    size_t bytes;
    assert_ok(adapter_file_write(directory, &out));
    assert_ok(file_join(path, directory, "adapter_config.json"));
    assert_ok(file_read(&text, &bytes, path));
    assert_string_equal(
        text,
        "{\n  \"alpha_pattern\": {},\n  \"base_model_name_or_path\": \"zai-org/GLM-5\",\n  \"bias\": \"none\",\n"
        "  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n  \"init_lora_weights\": true,\n  \"lora_alpha\": "
        "6,\n"
        "  \"lora_dropout\": 0,\n  \"modules_to_save\": null,\n  \"peft_type\": \"LORA\",\n  \"r\": 3,\n  "
        "\"rank_pattern\": {},\n"
        "  \"target_modules\": [\n    \"down_proj\",\n    \"gate_proj\",\n    \"q_a_proj\",\n    \"up_proj\"\n  ],\n"
        "  \"target_parameters\": [\n    \"mlp.gate.weight\",\n    \"mlp.shared_experts.down_proj.weight\",\n    "
        "\"mlp.up_proj.weight\"\n  ],\n"
        "  \"task_type\": \"CAUSAL_LM\",\n  \"use_dora\": false,\n  \"use_rslora\": false\n}");
    free(text);
    out.n_loras = 4; /* without routed experts PEFT must not see the projections' names alone */
    assert_ok(adapter_file_write(directory, &out));
    assert_ok(file_read(&text, &bytes, path));
    assert_non_null(strstr(text, "\"target_modules\": [\n    \"q_a_proj\"\n  ]"));
    free(text);
}

static void another_r_is_padded_and_another_scale_folded(void **state)
{
    (void)state;
    AdapterOutLora loras[10];
    AdapterOutExtra extras[2];
    AdapterOut out = sample(loras, extras);
    float A[R * D], B[D * R];
    out.n_loras = 2;
    loras[1] = (AdapterOutLora){"model.layers.1.self_attn.o_proj", 2, D, D, out_A2, out_B2, 0.7};
    assert_ok(adapter_file_write(directory, &out));
    AdapterFile *file = open_adapter();
    const AdapterLora *lora = adapter_file_find(file, loras[1].module);
    assert_true(lora && lora->r == R && lora->scale == 2);
    adapter_file_read_lora(lora, A, B);
    for (size_t i = 0; i < D; i++) {
        for (size_t j = 0; j < 2; j++) {
            assert_true(A[j * D + i] == out_A2[j * D + i]);
            assert_true(B[i * R + j] == (float)((double)out_B2[i * 2 + j] * (0.7 / 2)));
        }
        assert_true(A[2 * D + i] == 0 && B[i * R + 2] == 0);
    }
    adapter_file_close(file);
}

static void bf16_rounds_once(void **state)
{
    (void)state;
    AdapterOutLora loras[10];
    AdapterOutExtra extras[2];
    AdapterOut out = sample(loras, extras);
    float A[R * D], B[D * R];
    out.dtype = DTYPE_BF16;
    loras[4].scale = 3;
    assert_ok(adapter_file_write(directory, &out));
    AdapterFile *file = open_adapter();
    const AdapterLora *lora = adapter_file_find(file, loras[4].module);
    assert_int_equal(lora->A.tensor->dtype, DTYPE_BF16);
    adapter_file_read_lora(lora, A, B);
    for (size_t i = 0; i < R * D; i++) {
        assert_true(A[i] == bf16_to_f32(bf16_from_f32(out_A[i])));
        assert_true(B[i] == bf16_to_f32(bf16_from_f32(out_B[i] * 1.5f)));
    }
    adapter_file_close(file);
}

static void whole_routers_go_out_and_come_back(void **state)
{
    (void)state;
    AdapterOutLora loras[10];
    AdapterOutExtra extras[2];
    AdapterOut out = sample(loras, extras);
    float data[2 * D];
    out.n_extras = 2;
    out.extras = extras;
    for (int narrow = 0; narrow < 2; narrow++) {
        out.dtype = narrow ? DTYPE_BF16 : DTYPE_F32;
        assert_ok(adapter_file_write(directory, &out));
        AdapterFile *file = open_adapter();
        assert_int_equal(file->n_extras, 2);
        assert_string_equal(file->extras[0].name, "model.layers.2.mlp.gate.e_score_correction_bias");
        assert_int_equal(file->extras[0].rows, 1);
        assert_int_equal(file->extras[0].tensor->dtype, DTYPE_F32);
        adapter_file_read_extra(&file->extras[0], data);
        assert_memory_equal(data, bias, sizeof bias);
        assert_true(file->extras[1].rows == 2 && file->extras[1].cols == D);
        adapter_file_read_extra(&file->extras[1], data);
        for (size_t i = 0; i < 2 * D; i++)
            assert_true(data[i] == (narrow ? bf16_to_f32(bf16_from_f32(router[i])) : router[i]));
        adapter_file_close(file);
    }
}

static void adapters_that_nobody_reads_right_are_not_written(void **state)
{
    (void)state;
    AdapterOutLora loras[10];
    AdapterOutExtra extras[2];
    AdapterOut out = sample(loras, extras);
    out.n_loras = 9;
    assert_fails(adapter_file_write(directory, &out), ERR_USAGE,
                 "expected down_proj, gate_proj and up_proj of every expert");
    out = sample(loras, extras);
    loras[7].module = "model.layers.1.mlp.experts.2.gate_proj";
    assert_fails(adapter_file_write(directory, &out), ERR_USAGE,
                 "expected down_proj, gate_proj and up_proj of every expert");
    out = sample(loras, extras);
    loras[0].module = "model.embed_tokens";
    assert_fails(adapter_file_write(directory, &out), ERR_USAGE, "an embedding's pair cannot be written");
    out = sample(loras, extras);
    loras[3].scale = 0;
    assert_fails(adapter_file_write(directory, &out), ERR_USAGE, "the scale is 0; expected a positive number");
    out = sample(loras, extras);
    loras[3].A = NULL;
    assert_fails(adapter_file_write(directory, &out), ERR_USAGE, "one of A and B is missing");
    out = sample(loras, extras);
    out.dtype = DTYPE_F16;
    assert_fails(adapter_file_write(directory, &out), ERR_USAGE, "F32 or BF16, not F16");
    out = sample(loras, extras);
    out.n_loras = 0;
    assert_fails(adapter_file_write(directory, &out), ERR_USAGE, "nothing to write");
    assert_false(file_exists(directory));
}

static void a_failed_write_leaves_the_old_adapter(void **state)
{
    (void)state;
    AdapterOutLora loras[10];
    AdapterOutExtra extras[2];
    AdapterOut out = sample(loras, extras);
    assert_ok(adapter_file_write(directory, &out));
    loras[1].module = loras[0].module; /* two of one name: found when read back, if not before */
    Err *err = adapter_file_write(directory, &out);
    assert_non_null(err);
    err_free(err);
    AdapterFile *file = open_adapter();
    assert_non_null(adapter_file_find(file, "model.layers.0.mlp.up_proj"));
    adapter_file_close(file);
    size_t entries = 0;
    DIR *stream = opendir(folder);
    for (struct dirent *entry; (entry = readdir(stream));) entries += entry->d_name[0] != '.';
    closedir(stream);
    assert_int_equal(entries, 1); /* no draft */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_merges_to_what_peft_merges),
        cmocka_unit_test(scales_are_those_that_peft_loaded),
        cmocka_unit_test(gate_and_up_of_a_fused_expert_share_one_A),
        cmocka_unit_test(an_embedding_is_marked),
        cmocka_unit_test_setup_teardown(prefix_and_adapter_name_are_optional, begin, scratch_close),
        cmocka_unit_test_setup_teardown(the_first_matching_key_gives_alpha, begin, scratch_close),
        cmocka_unit_test_setup_teardown(a_target_parameter_matches_by_its_own_path, begin, scratch_close),
        cmocka_unit_test_setup_teardown(a_doubled_r_of_gate_and_up_is_seen_through, begin, scratch_close),
        cmocka_unit_test_setup_teardown(fused_files_of_both_ages_read_alike, begin, scratch_close),
        cmocka_unit_test_setup_teardown(one_fused_parameter_alone_is_what_the_config_says, begin, scratch_close),
        cmocka_unit_test_setup_teardown(stacked_experts_may_share_a_side, begin, scratch_close),
        cmocka_unit_test_setup_teardown(what_cannot_be_read_right_is_refused, begin, scratch_close),
        cmocka_unit_test_setup_teardown(every_tensor_must_be_understood, begin, scratch_close),
        cmocka_unit_test_setup_teardown(missing_files_are_named, begin, scratch_close),
        cmocka_unit_test_setup_teardown(what_is_written_is_read_bit_for_bit, begin, scratch_close),
        cmocka_unit_test_setup_teardown(the_config_is_the_one_for_every_consumer, begin, scratch_close),
        cmocka_unit_test_setup_teardown(another_r_is_padded_and_another_scale_folded, begin, scratch_close),
        cmocka_unit_test_setup_teardown(bf16_rounds_once, begin, scratch_close),
        cmocka_unit_test_setup_teardown(whole_routers_go_out_and_come_back, begin, scratch_close),
        cmocka_unit_test_setup_teardown(adapters_that_nobody_reads_right_are_not_written, begin, scratch_close),
        cmocka_unit_test_setup_teardown(a_failed_write_leaves_the_old_adapter, begin, scratch_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
