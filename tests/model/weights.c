/* Broken directories are made from a small valid one: read its tensors, change some, write them again. */
#include "model/weights.h"
#include "base/digest.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#define DENSE  "tests/fixtures/model/dense"
#define SPARSE "tests/fixtures/model/sparse"
#define FP8    "tests/fixtures/model/fp8"

static ModelConfig config_of(const char *directory)
{
    char path[PATH_BYTES];
    ModelConfig config;
    assert_ok(file_join(path, directory, "config.json"));
    assert_ok(model_config_read(&config, path));
    return config;
}

/* ---- a directory with one thing changed ----------------------------------------------------------------------- */

typedef struct {
    ModelConfig config;
    Safetensors source;
    TensorView *views; /* a copy of the source's, to be changed */
    size_t n;
} Changed;

static Changed change(const char *directory)
{
    char path[PATH_BYTES];
    Changed c = {.config = config_of(directory)};
    assert_ok(file_join(path, directory, "model.safetensors"));
    assert_ok(safetensors_open(&c.source, path));
    c.n = c.source.n_tensors;
    c.views = malloc((c.n + 1) * sizeof *c.views); /* one more than there are */
    assert_non_null(c.views);
    memcpy(c.views, c.source.tensors, c.n * sizeof *c.views);
    return c;
}

static TensorView *view_of(Changed *c, const char *name)
{
    for (size_t i = 0; i < c->n; i++)
        if (strcmp(c->views[i].name, name) == 0) return &c->views[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void drop(Changed *c, const char *name)
{
    TensorView *view = view_of(c, name);
    memmove(view, view + 1, (size_t)(c->views + --c->n - view) * sizeof *view);
}

static void write_changed(void **state, Changed *c)
{
    char path[PATH_BYTES];
    assert_ok(safetensors_write(scratch_path(state, "model.safetensors", path), c->views, c->n));
}

static void change_free(Changed *c)
{
    safetensors_close(&c->source);
    model_config_free(&c->config);
    free(c->views);
}

/* Write it, expect that opening fails so, and free it. */
static void refuses(void **state, Changed *c, ErrKind kind, const char *message)
{
    Weights *weights;
    write_changed(state, c);
    assert_fails(weights_open(&weights, &c->config, *state), kind, message);
    assert_null(weights);
    change_free(c);
}

/* ---- what is opened ------------------------------------------------------------------------------------------- */

static void every_fixture_is_whole(void **state)
{
    static const char *const names[] = {"dense",        "sparse",         "indexshare", "lite",
                                        "lite_noqlora", "v3_groups_yarn", "v32",        "fp8"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char directory[PATH_BYTES];
        Weights *weights;
        WeightsSurvey survey;
        assert_ok(file_join(directory, "tests/fixtures/model", names[i]));
        ModelConfig config = config_of(directory);
        assert_ok(weights_open(&weights, &config, directory));
        assert_ok(weights_check_finite(weights));
        assert_ok(weights_survey(&survey, &config, directory));
        assert_int_equal(survey.missing.count + survey.extra.count + survey.wrong.count, 0);
        weights_survey_free(&survey);
        weights_close(weights);
        model_config_free(&config);
    }
}

static void a_weight_is_a_view_of_its_file(void **state)
{
    ModelConfig config = config_of(SPARSE); /* two shards */
    Weights *weights;
    Weight w;
    Safetensors shard;
    (void)state;
    assert_ok(weights_open(&weights, &config, SPARSE));
    assert_ok(weights_get(weights, "model.layers.1.self_attn.indexer.wq_b.weight", &w));
    assert_true(w.dtype == DTYPE_BF16 && w.rows == 256 && w.cols == 32 && !w.scale);
    assert_ok(safetensors_open(&shard, SPARSE "/model-00002-of-00002.safetensors"));
    const TensorView *view = safetensors_find(&shard, w.name);
    assert_non_null(view);
    assert_memory_equal(w.data, view->data, view->bytes);
    assert_ok(weights_get(weights, "model.norm.weight", &w));
    assert_true(w.rows == 1 && w.cols == 64);
    assert_fails(weights_get(weights, "model.norm.bias", &w), ERR_FORMAT, "tensor model.norm.bias is missing");
    safetensors_close(&shard);
    weights_close(weights);
    model_config_free(&config);
}

static void an_fp8_weight_comes_with_its_scales(void **state)
{
    ModelConfig config = config_of(FP8);
    Weights *weights;
    Weight w;
    float *floats, scale;
    (void)state;
    assert_ok(weights_open(&weights, &config, FP8));
    assert_ok(weights_get(weights, "model.layers.0.mlp.gate_proj.weight", &w)); /* 320 rows: 2.5 blocks */
    assert_true(w.dtype == DTYPE_F8_E4M3 && w.rows == 320 && w.cols == 256 && w.scale);
    assert_ok(weights_get_floats(weights, w.name, 320 * 256, &floats));
    memcpy(&scale, (const char *)w.scale + 4 * (2 * 2 + 1), sizeof scale); /* block [2][1] */
    float expected = f8_e4m3_to_f32(((const uint8_t *)w.data)[319 * 256 + 255]) * scale;
    assert_memory_equal(&floats[319 * 256 + 255], &expected, sizeof expected);
    free(floats);
    assert_ok(weights_get(weights, "model.embed_tokens.weight", &w));
    assert_true(w.dtype == DTYPE_BF16 && !w.scale);
    weights_close(weights);
    model_config_free(&config);
}

static void floats_are_counted(void **state)
{
    ModelConfig config = config_of(DENSE);
    Weights *weights;
    float *floats;
    (void)state;
    assert_ok(weights_open(&weights, &config, DENSE));
    assert_ok(weights_get_floats(weights, "model.norm.weight", 64, &floats));
    free(floats);
    assert_fails(weights_get_floats(weights, "model.norm.weight", 65, &floats), ERR_FORMAT,
                 "has 64 numbers; expected 65");
    weights_close(weights);
    model_config_free(&config);
}

static void extra_tensors_do_no_harm(void **state)
{
    Changed c = change(DENSE);
    Weights *weights;
    WeightsSurvey survey;
    float one = 1;
    c.views[c.n++] = (TensorView){
        .name = "model.layers.9.what.weight", .dtype = DTYPE_F32, .n_dims = 1, .shape = {1}, .bytes = 4, .data = &one};
    write_changed(state, &c);
    assert_ok(weights_open(&weights, &c.config, *state));
    assert_ok(weights_survey(&survey, &c.config, *state));
    assert_int_equal(survey.extra.count, 1);
    assert_string_equal(survey.extra.names[0], "model.layers.9.what.weight");
    weights_survey_free(&survey);
    weights_close(weights);
    change_free(&c);
}

/* ---- what is refused ------------------------------------------------------------------------------------------ */

static void a_directory_without_weights_is_refused(void **state)
{
    ModelConfig config = config_of(DENSE);
    Weights *weights;
    assert_fails(weights_open(&weights, &config, *state), ERR_IO,
                 "holds neither model.safetensors.index.json nor model.safetensors");
    model_config_free(&config);
}

static void a_truncated_shard_is_refused(void **state)
{
    ModelConfig config = config_of(DENSE);
    Weights *weights;
    char path[PATH_BYTES], *bytes;
    size_t n;
    assert_ok(file_read(&bytes, &n, DENSE "/model.safetensors"));
    scratch_path(state, "model.safetensors", path);
    assert_ok(file_write(path, bytes, n - 1));
    assert_fails(weights_open(&weights, &config, *state), ERR_FORMAT, "truncated?");
    assert_ok(file_write(path, bytes, 1000)); /* inside the header */
    assert_fails(weights_open(&weights, &config, *state), ERR_FORMAT, "bytes follow its length");
    free(bytes);
    model_config_free(&config);
}

static void one_missing_tensor_is_named(void **state)
{
    Changed c = change(DENSE);
    drop(&c, "model.layers.1.mlp.experts.3.up_proj.weight");
    refuses(state, &c, ERR_FORMAT, "missing tensor model.layers.1.mlp.experts.3.up_proj.weight");
}

static void many_missing_tensors_are_counted(void **state)
{
    Changed c = change(DENSE);
    c.n = 100; /* of 154, by name */
    refuses(state, &c, ERR_FORMAT, " and 51 more");
}

static void a_wrong_shape_is_refused(void **state)
{
    Changed c = change(DENSE);
    TensorView *view = view_of(&c, "model.layers.0.mlp.down_proj.weight");
    size_t rows = view->shape[0];
    view->shape[0] = view->shape[1];
    view->shape[1] = rows;
    refuses(state, &c, ERR_FORMAT,
            "tensor model.layers.0.mlp.down_proj.weight: shape is [128, 64]; expected [64, 128]");
}

static void a_matrix_in_place_of_a_vector_is_refused(void **state)
{
    Changed c = change(DENSE);
    TensorView *view = view_of(&c, "model.norm.weight");
    view->n_dims = 2;
    view->shape[1] = view->shape[0];
    view->shape[0] = 1;
    refuses(state, &c, ERR_FORMAT, "tensor model.norm.weight: shape is [1, 64]; expected [64]");
}

static void a_wrong_dtype_is_refused(void **state)
{
    Changed c = change(DENSE);
    view_of(&c, "lm_head.weight")->dtype = DTYPE_F16;
    refuses(state, &c, ERR_FORMAT, "tensor lm_head.weight: dtype is F16; expected F32, BF16 or F8_E4M3");
    c = change(DENSE);
    TensorView *bias = view_of(&c, "model.layers.1.mlp.gate.e_score_correction_bias");
    bias->dtype = DTYPE_BF16;
    bias->bytes /= 2;
    refuses(state, &c, ERR_FORMAT, "e_score_correction_bias: dtype is BF16; expected F32");
}

static void nan_in_a_vector_is_refused(void **state)
{
    Changed c = change(DENSE);
    TensorView *view = view_of(&c, "model.layers.2.input_layernorm.weight");
    uint16_t numbers[64];
    memcpy(numbers, view->data, sizeof numbers);
    numbers[63] = 0x7FC0;
    view->data = numbers;
    refuses(state, &c, ERR_NUMERIC, "tensor model.layers.2.input_layernorm.weight: element 63 is not finite");
    c = change(DENSE);
    view = view_of(&c, "model.layers.1.mlp.gate.e_score_correction_bias");
    float infinite[16] = {[5] = -1.0f / 0.0f};
    view->data = infinite;
    refuses(state, &c, ERR_NUMERIC, "element 5 is not finite");
}

static void nan_in_a_matrix_is_found_when_asked(void **state)
{
    static const struct {
        const char *directory, *name, *message;
        unsigned char nan[4];
        size_t bytes;
    } cases[] = {
        {DENSE, "lm_head.weight", "tensor lm_head.weight: element 7 is not finite", {0xC0, 0x7F}, 2},
        {FP8, "model.layers.0.mlp.up_proj.weight", "up_proj.weight: element 7 is not finite", {0xFF}, 1},
        {FP8, "model.layers.0.self_attn.q_b_proj.weight_scale_inv", "element 0 is not finite", {0, 0, 0x80, 0x7F}, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Changed c = change(cases[i].directory);
        Weights *weights;
        TensorView *view = view_of(&c, cases[i].name);
        char *copy = malloc(view->bytes);
        assert_non_null(copy);
        memcpy(copy, view->data, view->bytes);
        memcpy(copy + (cases[i].bytes == 4 ? 0 : 7) * cases[i].bytes, cases[i].nan, cases[i].bytes);
        view->data = copy;
        write_changed(state, &c);
        assert_ok(weights_open(&weights, &c.config, *state));
        assert_fails(weights_check_finite(weights), ERR_NUMERIC, cases[i].message);
        weights_close(weights);
        change_free(&c);
        free(copy);
    }
}

static void fp8_without_right_scales_is_refused(void **state)
{
    const char *name = "model.layers.0.mlp.gate_proj.weight_scale_inv";
    Changed c = change(FP8);
    drop(&c, name);
    refuses(state, &c, ERR_FORMAT, "dtype is F8_E4M3, but there is no model.layers.0.mlp.gate_proj.weight_scale_inv");
    c = change(FP8);
    view_of(&c, name)->shape[0] = 2;
    view_of(&c, name)->bytes = 16;
    refuses(state, &c, ERR_FORMAT, "gate_proj.weight_scale_inv: shape is [2, 2]; expected [3, 2]");
    c = change(FP8);
    view_of(&c, name)->dtype = DTYPE_BF16;
    view_of(&c, name)->bytes = 12;
    refuses(state, &c, ERR_FORMAT, "gate_proj.weight_scale_inv: dtype is BF16; expected F32");
}

/* ---- the index ------------------------------------------------------------------------------------------------ */

static void refuses_index(void **state, const char *index, const char *message)
{
    ModelConfig config = config_of(DENSE);
    Weights *weights;
    char path[PATH_BYTES];
    scratch_path(state, "model.safetensors.index.json", path);
    assert_ok(file_write(path, index, strlen(index)));
    assert_fails(weights_open(&weights, &config, *state), ERR_FORMAT, message);
    model_config_free(&config);
}

static void an_index_that_leaves_the_directory_is_refused(void **state)
{
    refuses_index(state, "{\"weight_map\":{\"a\":\"../x.safetensors\"}}",
                  "a is in \"../x.safetensors\"; expected a file of the same directory");
    refuses_index(state, "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "\"/etc/passwd\"; expected");
    refuses_index(state, "{\"weight_map\":{\"a\":\"..\"}}", "\"..\"; expected");
    refuses_index(state, "{\"weight_map\":{\"a\":\"\"}}", "\"\"; expected");
    refuses_index(state, "{\"weight_map\":{\"a\":1}}", "a is a number; expected the name of a shard");
}

static void an_index_without_a_map_is_refused(void **state)
{
    refuses_index(state, "{}", "key weight_map is missing");
    refuses_index(state, "{\"weight_map\":{}}", "weight_map is empty");
    refuses_index(state, "{\"weight_map\":[]}", "key weight_map is an array");
    refuses_index(state, "weights", "model.safetensors.index.json: not valid JSON");
}

/* a.safetensors with tensor x, b.safetensors with y and, if `both`, x. */
static void write_two(void **state, bool both)
{
    char path[PATH_BYTES];
    float one = 1;
    TensorView x = {.name = "x", .dtype = DTYPE_F32, .n_dims = 1, .shape = {1}, .bytes = 4, .data = &one}, y = x;
    y.name = "y";
    assert_ok(safetensors_write(scratch_path(state, "a.safetensors", path), &x, 1));
    assert_ok(safetensors_write(scratch_path(state, "b.safetensors", path), (TensorView[]){y, x}, both ? 2 : 1));
}

static void an_index_that_the_shards_contradict_is_refused(void **state)
{
    write_two(state, false);
    refuses_index(state, "{\"weight_map\":{\"x\":\"b.safetensors\",\"y\":\"b.safetensors\"}}",
                  "x is said to be in b.safetensors, which lacks it");
    refuses_index(state, "{\"weight_map\":{\"x\":\"a.safetensors\",\"x\":\"b.safetensors\"}}",
                  "key x stands twice in one object");
    write_two(state, true);
    refuses_index(state, "{\"weight_map\":{\"x\":\"a.safetensors\",\"y\":\"b.safetensors\"}}",
                  "tensor x is in two files");
}

static void a_shard_that_is_not_there_is_named(void **state)
{
    ModelConfig config = config_of(SPARSE);
    Weights *weights;
    char path[PATH_BYTES], *index;
    assert_ok(file_read(&index, NULL, SPARSE "/model.safetensors.index.json"));
    assert_ok(file_write(scratch_path(state, "model.safetensors.index.json", path), index, strlen(index)));
    assert_fails(weights_open(&weights, &config, *state), ERR_IO, "model-00001-of-00002.safetensors");
    free(index);
    model_config_free(&config);
}

/* ---- the digest ----------------------------------------------------------------------------------------------- */

static void digest_of(const ModelConfig *config, const char *directory, char digest[DIGEST_BYTES])
{
    Weights *weights;
    assert_ok(weights_open(&weights, config, directory));
    weights_digest(weights, digest);
    weights_close(weights);
    assert_int_equal(strlen(digest), 32);
    assert_int_equal(strspn(digest, "0123456789abcdef"), 32);
}

static void the_digest_is_that_of_the_files(void **state)
{
    char original[DIGEST_BYTES], copy[DIGEST_BYTES], changed[DIGEST_BYTES], path[PATH_BYTES], *bytes;
    size_t n;
    ModelConfig config = config_of(DENSE);
    digest_of(&config, DENSE, original);
    assert_ok(file_read(&bytes, &n, DENSE "/model.safetensors"));
    scratch_path(state, "model.safetensors", path);
    assert_ok(file_write(path, bytes, n));
    digest_of(&config, *state, copy);
    assert_string_equal(original, copy);
    bytes[n - 1] ^= 1; /* the last byte of the last tensor */
    assert_ok(file_write(path, bytes, n));
    digest_of(&config, *state, changed);
    assert_string_not_equal(original, changed);
    free(bytes);
    model_config_free(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(every_fixture_is_whole),
        scratch_test(a_weight_is_a_view_of_its_file),
        scratch_test(an_fp8_weight_comes_with_its_scales),
        scratch_test(floats_are_counted),
        scratch_test(extra_tensors_do_no_harm),
        scratch_test(a_directory_without_weights_is_refused),
        scratch_test(a_truncated_shard_is_refused),
        scratch_test(one_missing_tensor_is_named),
        scratch_test(many_missing_tensors_are_counted),
        scratch_test(a_wrong_shape_is_refused),
        scratch_test(a_matrix_in_place_of_a_vector_is_refused),
        scratch_test(a_wrong_dtype_is_refused),
        scratch_test(nan_in_a_vector_is_refused),
        scratch_test(nan_in_a_matrix_is_found_when_asked),
        scratch_test(fp8_without_right_scales_is_refused),
        scratch_test(an_index_that_leaves_the_directory_is_refused),
        scratch_test(an_index_without_a_map_is_refused),
        scratch_test(an_index_that_the_shards_contradict_is_refused),
        scratch_test(a_shard_that_is_not_there_is_named),
        scratch_test(the_digest_is_that_of_the_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
