/* What is written is read back; what no consumer could read is refused, and the old adapter remains. */
#include "ckpt/adapter_file.h"

#include "base/memory.h"
#include "tests/support/check.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *folder;
static char directory[PATH_BYTES]; /* of the adapter, not there yet */

static int begin(void **state)
{
    if (scratch_open(state)) return -1;
    folder = *state;
    scratch_path(state, "adapter", directory);
    return 0;
}

static AdapterFile *open_adapter(void)
{
    AdapterFile *file;
    assert_ok(adapter_file_open(&file, directory));
    return file;
}

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

static void routers_trained_in_full_are_written_and_read_back(void **state)
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

static void adapters_that_no_consumer_reads_are_not_written(void **state)
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
    assert_fails(adapter_file_write(directory, &out), ERR_USAGE, "LoRA on an embedding cannot be written");
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
        cmocka_unit_test_setup_teardown(what_is_written_is_read_bit_for_bit, begin, scratch_close),
        cmocka_unit_test_setup_teardown(the_config_is_the_one_for_every_consumer, begin, scratch_close),
        cmocka_unit_test_setup_teardown(another_r_is_padded_and_another_scale_folded, begin, scratch_close),
        cmocka_unit_test_setup_teardown(bf16_rounds_once, begin, scratch_close),
        cmocka_unit_test_setup_teardown(routers_trained_in_full_are_written_and_read_back, begin, scratch_close),
        cmocka_unit_test_setup_teardown(adapters_that_no_consumer_reads_are_not_written, begin, scratch_close),
        cmocka_unit_test_setup_teardown(a_failed_write_leaves_the_old_adapter, begin, scratch_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
