/* Broken base models: the program refuses them within seconds, before it makes the output directory, and names the file
 * and what is wrong in it. */
#define _GNU_SOURCE
#include "base/json.h"
#include "tests/support/program.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A broken base model is refused before the output directory is made. */
static void refuse_model(void **state, char *model, int kind, const char *part, const char *other)
{
    char output[PATH_BYTES];
    scratch_path(state, "run", output);
    program_expect(program_train(state, model, PROGRAM_DATA, output, NULL), kind, part, other);
    assert_false(file_exists(output));
}

/* ---- broken copies -------------------------------------------------------------------------------------------- */

/* A copy of the base without the file that a test will break; the others are links. */
static void copy_base(void **state, char directory[PATH_BYTES], const char *broken)
{
    static char *const files[] = {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                                  "model.safetensors"};
    char here[PATH_BYTES], from[2 * PATH_BYTES], to[PATH_BYTES];
    scratch_path(state, "base", directory);
    assert_ok(file_make_directory(directory));
    assert_non_null(getcwd(here, sizeof here));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (strcmp(files[i], broken) == 0) continue;
        snprintf(from, sizeof from, "%s/%s/%s", here, PROGRAM_BASE, files[i]);
        assert_ok(file_join(to, directory, files[i]));
        assert_int_equal(symlink(from, to), 0);
    }
}

typedef struct {
    char directory[PATH_BYTES], path[PATH_BYTES];
    char *bytes;
    size_t n, header; /* the header's own length */
    Json *root;
} Broken;

static void open_weights(void **state, Broken *b)
{
    char path[PATH_BYTES];
    copy_base(state, b->directory, "model.safetensors");
    assert_ok(file_join(b->path, b->directory, "model.safetensors"));
    assert_ok(file_join(path, PROGRAM_BASE, "model.safetensors"));
    assert_ok(file_read(&b->bytes, &b->n, path));
    uint64_t header;
    memcpy(&header, b->bytes, 8);
    b->header = header;
    assert_ok(json_parse(&b->root, b->bytes + 8, b->header));
}

static const Json *entry(const Broken *b, const char *name)
{
    const Json *found = json_find(b->root, name);
    assert_non_null(found);
    return found;
}

/* Replace one member of a tensor's entry in the header. */
static void change_entry(Broken *b, const char *name, const char *key, Json *value)
{
    Json *changed = json_duplicate(entry(b, name));
    json_set(changed, key, value);
    json_set(b->root, name, changed);
}

/* The first `n` bytes as they are. */
static void write_bytes(Broken *b, size_t n)
{
    assert_ok(file_write(b->path, b->bytes, n));
    free(b->bytes);
    json_free(b->root);
}

/* A new header before the old tensors. */
static void write_header(Broken *b)
{
    char *text;
    assert_ok(json_print(b->root, false, &text));
    uint64_t length = strlen(text);
    FILE *file = fopen(b->path, "w");
    assert_non_null(file);
    fwrite(&length, 8, 1, file);
    fwrite(text, 1, length, file);
    fwrite(b->bytes + 8 + b->header, 1, b->n - 8 - b->header, file);
    assert_int_equal(fclose(file), 0);
    free(text);
    free(b->bytes);
    json_free(b->root);
}

static size_t begin_of(const Broken *b, const char *tensor)
{
    const Json *offsets;
    assert_ok(json_get_array(entry(b, tensor), "data_offsets", &offsets));
    return 8 + b->header + (size_t)json_number(json_first(offsets));
}

static void write_config(void **state, char directory[PATH_BYTES], const char *key, Json *value)
{
    char path[PATH_BYTES], *text;
    Json *root, *out = json_new_object();
    copy_base(state, directory, "config.json");
    assert_ok(file_join(path, PROGRAM_BASE, "config.json"));
    assert_ok(json_read_file(&root, path));
    for (const Json *m = json_first(root); m; m = json_next(m))
        if (strcmp(json_key(m), key) != 0) json_add(out, json_key(m), json_duplicate(m));
    if (value) json_add(out, key, value);
    assert_ok(json_print(out, true, &text));
    assert_ok(file_join(path, directory, "config.json"));
    assert_ok(file_write(path, text, strlen(text)));
    free(text);
    json_free(root);
    json_free(out);
}

static Json *parsed(const char *text)
{
    Json *root = NULL;
    assert_ok(json_parse(&root, text, strlen(text)));
    return root;
}

/* ---- base models ------------------------------------------------------------------------------------------------ */

static const char tensor[] = "model.layers.3.self_attn.o_proj.weight";

static void a_truncated_shard_is_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    write_bytes(&b, b.n - 1000);
    refuse_model(state, b.directory, ERR_FORMAT, "model.safetensors", NULL);
}

static void an_empty_shard_is_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    write_bytes(&b, 5);
    refuse_model(state, b.directory, ERR_FORMAT, "model.safetensors", NULL);
}

static void a_header_longer_than_the_file_is_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    uint64_t length = b.n;
    memcpy(b.bytes, &length, 8);
    write_bytes(&b, b.n);
    refuse_model(state, b.directory, ERR_FORMAT, "model.safetensors", "header");
}

static void a_header_longer_than_memory_is_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    memset(b.bytes, 0xFF, 8);
    write_bytes(&b, b.n);
    refuse_model(state, b.directory, ERR_FORMAT, "model.safetensors", "header");
}

static void overlapping_tensors_are_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    const Json *other;
    assert_ok(json_get_array(entry(&b, "model.layers.2.self_attn.o_proj.weight"), "data_offsets", &other));
    change_entry(&b, tensor, "data_offsets", json_duplicate(other));
    write_header(&b);
    refuse_model(state, b.directory, ERR_FORMAT, "model.safetensors", "self_attn.o_proj.weight");
}

static void a_wrong_shape_is_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    change_entry(&b, "model.layers.3.self_attn.q_a_proj.weight", "shape", parsed("[256, 96]"));
    write_header(&b);
    refuse_model(state, b.directory, ERR_FORMAT, "model.layers.3.self_attn.q_a_proj.weight", "[256, 96]");
}

static void a_missing_tensor_is_named(void **state)
{
    Broken b;
    open_weights(state, &b);
    Json *moved = json_duplicate(entry(&b, tensor)), *out = json_new_object();
    for (const Json *m = json_first(b.root); m; m = json_next(m))
        if (strcmp(json_key(m), tensor) != 0) json_add(out, json_key(m), json_duplicate(m));
    json_add(out, "something.else", moved);
    json_free(b.root);
    b.root = out;
    write_header(&b);
    refuse_model(state, b.directory, ERR_FORMAT, "missing tensor", tensor);
}

static void an_unknown_dtype_is_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    change_entry(&b, tensor, "dtype", parsed("\"F12\""));
    write_header(&b);
    refuse_model(state, b.directory, ERR_FORMAT, tensor, "F12");
}

static void an_integer_weight_is_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    change_entry(&b, tensor, "dtype", parsed("\"I16\""));
    write_header(&b);
    refuse_model(state, b.directory, ERR_FORMAT, tensor, "I16");
}

static void a_nan_in_a_norm_is_found_at_once(void **state)
{
    Broken b;
    open_weights(state, &b);
    memcpy(b.bytes + begin_of(&b, "model.layers.2.input_layernorm.weight"), "\xC0\x7F\xC0\x7F", 4);
    write_bytes(&b, b.n);
    refuse_model(state, b.directory, ERR_NUMERIC, "model.layers.2.input_layernorm.weight", "not finite");
}

/* The NaN is found when the matrix is read: the run has begun, but has written no step. */
static void a_nan_in_a_matrix_ends_the_step_and_names_the_layer(void **state)
{
    Broken b;
    char output[PATH_BYTES], path[PATH_BYTES], *text;
    size_t bytes;
    open_weights(state, &b);
    memcpy(b.bytes + begin_of(&b, tensor), "\xC0\x7F\xC0\x7F", 4);
    write_bytes(&b, b.n);
    scratch_path(state, "run", output);
    program_expect(program_train(state, b.directory, PROGRAM_DATA, output, NULL), ERR_NUMERIC,
                   "step 1: layer 3: ", "nan");
    assert_ok(file_join(path, output, "metrics.jsonl"));
    assert_ok(file_read(&text, &bytes, path));
    assert_string_equal(text, "");
    free(text);
    assert_ok(file_join(path, output, "adapter"));
    assert_false(file_exists(path));
    char *const inspect[] = {program_path(), "inspect", b.directory, "--check", NULL};
    char *const inspect_base[] = {program_path(), "inspect", PROGRAM_BASE, "--check", NULL};
    program_expect(program_wait(state, program_start(state, inspect)), ERR_NUMERIC, tensor, "is not finite");
    program_expect(program_wait(state, program_start(state, inspect_base)), 0, "", NULL);
    char *const eval[] = {program_path(), "eval", "--model", b.directory, "--data", PROGRAM_DATA, NULL};
    program_expect(program_wait(state, program_start(state, eval)), ERR_NUMERIC, "layer 3", "nan");
    char *const generate[] = {program_path(),     "generate", "--model", b.directory, "--prompt", "x",
                              "--max_new_tokens", "2",        NULL};
    program_expect(program_wait(state, program_start(state, generate)), ERR_NUMERIC, "layer 3", "nan");
}

static void an_unknown_model_type_is_refused_by_name(void **state)
{
    char directory[PATH_BYTES];
    write_config(state, directory, "model_type", parsed("\"glm5_next\""));
    refuse_model(state, directory, ERR_FORMAT, "config.json", "glm5_next");
}

static void a_missing_config_key_is_named(void **state)
{
    char directory[PATH_BYTES];
    write_config(state, directory, "kv_lora_rank", NULL);
    refuse_model(state, directory, ERR_FORMAT, "config.json", "kv_lora_rank");
}

static void a_wrong_config_value_is_named(void **state)
{
    char directory[PATH_BYTES];
    write_config(state, directory, "num_experts_per_tok", parsed("33"));
    refuse_model(state, directory, ERR_FORMAT, "config.json", "num_experts_per_tok");
}

static void a_config_that_is_not_json_is_named_with_its_line(void **state)
{
    char directory[PATH_BYTES], path[PATH_BYTES];
    copy_base(state, directory, "config.json");
    assert_ok(file_join(path, directory, "config.json"));
    assert_ok(file_write(path, "{\n\"a\": 1,\n\"b\": }", 17));
    refuse_model(state, directory, ERR_FORMAT, "config.json", "line 3");
}

static void a_directory_without_a_model_is_named(void **state)
{
    refuse_model(state, "examples/devils", ERR_IO, "examples/devils/config.json", NULL);
    refuse_model(state, "/nowhere/at/all", ERR_IO, "/nowhere/at/all", NULL);
}

static void an_error_of_one_rank_ends_all(void **state)
{
    Broken b;
    char output[PATH_BYTES];
    open_weights(state, &b);
    memcpy(b.bytes + begin_of(&b, tensor), "\xC0\x7F\xC0\x7F", 4);
    write_bytes(&b, b.n);
    scratch_path(state, "run", output);
    program_expect(program_train(state, b.directory, PROGRAM_DATA, output, PROGRAM_WORDS("--ranks", "2")), ERR_NUMERIC,
                   "step 1: layer 3: ", NULL);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, "/proc/run", PROGRAM_WORDS("--ranks", "2")), ERR_IO,
                   "/proc/run", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_truncated_shard_is_refused),
        scratch_test(an_empty_shard_is_refused),
        scratch_test(a_header_longer_than_the_file_is_refused),
        scratch_test(a_header_longer_than_memory_is_refused),
        scratch_test(overlapping_tensors_are_refused),
        scratch_test(a_wrong_shape_is_refused),
        scratch_test(a_missing_tensor_is_named),
        scratch_test(an_unknown_dtype_is_refused),
        scratch_test(an_integer_weight_is_refused),
        scratch_test(a_nan_in_a_norm_is_found_at_once),
        scratch_test(a_nan_in_a_matrix_ends_the_step_and_names_the_layer),
        scratch_test(an_unknown_model_type_is_refused_by_name),
        scratch_test(a_missing_config_key_is_named),
        scratch_test(a_wrong_config_value_is_named),
        scratch_test(a_config_that_is_not_json_is_named_with_its_line),
        scratch_test(a_directory_without_a_model_is_named),
        scratch_test(an_error_of_one_rank_ends_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
