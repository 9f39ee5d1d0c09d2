/* Small adapters made here: every layout and pattern is read, and what is not understood is refused by name. */
#include "ckpt/adapter_file.h"

#include "base/memory.h"
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char directory[PATH_BYTES]; /* of the adapter, not there yet */

static int begin(void **state)
{
    if (scratch_open(state)) return -1;
    scratch_path(state, "adapter", directory);
    return 0;
}

static void assert_near(double found, double expected)
{
    if (!(fabs(found - expected) <= 1e-12 * fabs(expected))) fail_msg("found %.17g, expected %.17g", found, expected);
}

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

static void a_doubled_r_of_gate_and_up_gives_the_right_scale(void **state)
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
static void fused_files_of_old_and_new_PEFT_are_read_alike(void **state)
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
    assert_refused("m.experts.lora_A.weight is the only fused tensor and target_parameters names neither");
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

static void configs_that_graft_does_not_understand_are_refused(void **state)
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
        {"m.experts.base_layer.lora_A.weight has no partner m.experts.lora_A.weight",
         matrix("m.experts.base_layer.lora_A.weight", 8, 5), matrix("m.experts.base_layer.lora_B.weight", 4, 8)},
        {"has 2 experts, m.experts.w1.lora_B.weight has 3", tensor("m.experts.w1.lora_A.weight", 3, 2, 8, 5),
         tensor("m.experts.w1.lora_B.weight", 3, 3, 5, 8)},
        {"it has no LoRA tensor", matrix("m.q.base_layer.weight", 8, 5), matrix("m.k.base_layer.weight", 8, 5)},
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
    assert_refused("m.experts.0.gate_proj has LoRA twice");
    make_adapter("", 4,
                 (TensorView[]){tensor("m.experts.w1.lora_A.weight", 3, 2, 8, 5),
                                tensor("m.experts.w1.lora_B.weight", 3, 2, 4, 8),
                                tensor("m.experts.w3.lora_A.weight", 3, 3, 8, 5),
                                tensor("m.experts.w3.lora_B.weight", 3, 3, 4, 8)});
    assert_refused("m.experts.w3.lora_A.weight has 3 experts, m.experts.w1.lora_A.weight has 2");
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(prefix_and_adapter_name_are_optional, begin, scratch_close),
        cmocka_unit_test_setup_teardown(the_first_matching_key_gives_alpha, begin, scratch_close),
        cmocka_unit_test_setup_teardown(a_target_parameter_matches_by_its_own_path, begin, scratch_close),
        cmocka_unit_test_setup_teardown(a_doubled_r_of_gate_and_up_gives_the_right_scale, begin, scratch_close),
        cmocka_unit_test_setup_teardown(fused_files_of_old_and_new_PEFT_are_read_alike, begin, scratch_close),
        cmocka_unit_test_setup_teardown(one_fused_parameter_alone_is_what_the_config_says, begin, scratch_close),
        cmocka_unit_test_setup_teardown(stacked_experts_may_share_a_side, begin, scratch_close),
        cmocka_unit_test_setup_teardown(configs_that_graft_does_not_understand_are_refused, begin, scratch_close),
        cmocka_unit_test_setup_teardown(every_tensor_must_be_understood, begin, scratch_close),
        cmocka_unit_test_setup_teardown(missing_files_are_named, begin, scratch_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
