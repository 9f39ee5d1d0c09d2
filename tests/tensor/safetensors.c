/* Safetensors files: what is written is read, and a file that breaks a rule of the format is refused by name. */
#include "tensor/safetensors.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

/* Write 8 bytes of length (as said), the header, and data bytes of zero; give the path. */
static const char *write_raw(void **state, char path[PATH_BYTES], const char *header, uint64_t said, size_t data)
{
    size_t n = strlen(header);
    char *bytes = calloc(1, 8 + n + data + 1);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++) bytes[i] = (char)(said >> (8 * i));
    memcpy(bytes + 8, header, n);
    scratch_path(state, "raw.safetensors", path);
    assert_ok(file_write(path, bytes, 8 + n + data));
    free(bytes);
    return path;
}

static void refuses(void **state, const char *header, size_t data, const char *message)
{
    char path[PATH_BYTES];
    Safetensors file;
    write_raw(state, path, header, strlen(header), data);
    assert_fails(safetensors_open(&file, path), ERR_FORMAT, message);
    assert_fails(safetensors_open(&file, path), ERR_FORMAT,
                 "raw.safetensors"); /* names the file, and opens as often as asked */
}

static void refuses_length(void **state, uint64_t said, const char *message)
{
    char path[PATH_BYTES];
    Safetensors file;
    write_raw(state, path, "{}", said, 0);
    assert_fails(safetensors_open(&file, path), ERR_FORMAT, message);
}

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

/* ---- what is read --------------------------------------------------------------------------------------------- */

static void what_was_written_is_read(void **state)
{
    char path[PATH_BYTES];
    float matrix[6] = {1, 2, 3, 4, 5, 6};
    uint16_t vector[3] = {0x3F80, 0x4000, 0x4040};
    int64_t number = 7;
    TensorView views[] = {
        {.name = "z.matrix", .dtype = DTYPE_F32, .n_dims = 2, .shape = {2, 3}, .bytes = sizeof matrix, .data = matrix},
        {.name = "a.vector", .dtype = DTYPE_BF16, .n_dims = 1, .shape = {3}, .bytes = sizeof vector, .data = vector},
        {.name = "empty", .dtype = DTYPE_BF16, .n_dims = 2, .shape = {0, 9}, .bytes = 0, .data = vector},
        {.name = "number", .dtype = DTYPE_I64, .n_dims = 0, .bytes = sizeof number, .data = &number}};
    Safetensors file;
    scratch_path(state, "x.safetensors", path);
    assert_ok(safetensors_write(path, views, 4));
    assert_ok(safetensors_open(&file, path));
    assert_int_equal(file.n_tensors, 4);
    assert_string_equal(file.tensors[0].name, "a.vector");
    for (int i = 0; i < 4; i++) {
        const TensorView *view = safetensors_find(&file, views[i].name);
        assert_non_null(view);
        assert_int_equal(view->dtype, views[i].dtype);
        assert_int_equal(view->n_dims, views[i].n_dims);
        assert_int_equal(view->bytes, views[i].bytes);
        assert_memory_equal(view->shape, views[i].shape, sizeof view->shape);
        assert_memory_equal(view->data, views[i].data, view->bytes);
    }
    assert_null(safetensors_find(&file, "z.matri"));
    assert_int_equal(file.map.data[0] % 8, 0);
    safetensors_close(&file);
}

static Err *count_up(void *context, const TensorView *view, size_t at, size_t n, void *out)
{
    (void)context;
    for (size_t i = 0; i < n; i += 2) {
        uint16_t value = (uint16_t)((at + i) / 2 * 7 + view->shape[0]);
        memcpy((char *)out + i, &value, 2);
    }
    return NULL;
}

static void a_file_written_in_pieces_is_read(void **state)
{
    enum { ROWS = 1031, COLS = 4099 }; /* more than two pieces, the last one short */
    char path[PATH_BYTES];
    Safetensors file;
    TensorView views[] = {
        {.name = "b", .dtype = DTYPE_BF16, .n_dims = 2, .shape = {ROWS, COLS}, .bytes = (size_t)ROWS * COLS * 2},
        {.name = "a", .dtype = DTYPE_BF16, .n_dims = 1, .shape = {3}, .bytes = 6}};
    assert_ok(safetensors_write_filled(scratch_path(state, "a.safetensors", path), views, 2, count_up, NULL));
    assert_ok(safetensors_open(&file, path));
    for (size_t v = 0; v < 2; v++) {
        const TensorView *view = safetensors_find(&file, views[v].name);
        for (size_t i = 0; i < view->bytes / 2; i++) {
            uint16_t value;
            memcpy(&value, (const char *)view->data + 2 * i, 2);
            assert_int_equal(value, (uint16_t)(i * 7 + view->shape[0]));
        }
    }
    safetensors_close(&file);
}

static Err *refuse(void *context, const TensorView *view, size_t at, size_t n, void *out)
{
    (void)context, (void)at, (void)n, (void)out;
    return err_new(ERR_DATA, "no bytes for %s", view->name);
}

static void a_file_whose_bytes_fail_is_not_written(void **state)
{
    char path[PATH_BYTES];
    TensorView view = {.name = "a", .dtype = DTYPE_BF16, .n_dims = 1, .shape = {3}, .bytes = 6};
    assert_fails(safetensors_write_filled(scratch_path(state, "a.safetensors", path), &view, 1, refuse, NULL), ERR_DATA,
                 "no bytes for a");
    assert_false(file_exists(path));
}

static void a_file_without_tensors_is_read(void **state)
{
    char path[PATH_BYTES];
    Safetensors file;
    scratch_path(state, "x.safetensors", path);
    assert_ok(safetensors_write(path, NULL, 0));
    assert_ok(safetensors_open(&file, path));
    assert_int_equal(file.n_tensors, 0);
    assert_null(safetensors_find(&file, "a"));
    safetensors_close(&file);
}

static void a_published_kind_of_file_is_read(void **state)
{
    Safetensors file;
    (void)state;
    assert_ok(safetensors_open(&file, "tests/fixtures/model/dense/model.safetensors"));
    assert_int_equal(file.n_tensors, 154);
    const TensorView *view = safetensors_find(&file, "model.embed_tokens.weight");
    assert_non_null(view);
    assert_int_equal(view->shape[0], 256);
    assert_int_equal(view->shape[1], 64);
    safetensors_close(&file);
}

static void a_shard_of_115000_tensors_is_read(void **state) /* seconds, were any look-up linear */
{
    enum { N = 115000 };
    static char names[N][64];
    static TensorView views[N];
    char path[PATH_BYTES];
    float one = 1;
    Safetensors file;
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "model.layers.%d.mlp.experts.%d.gate_proj.weight", i / 1000, i % 1000);
        views[i] = (TensorView){.name = names[i], .n_dims = 1, .shape = {1}, .bytes = 4, .data = &one};
    }
    scratch_path(state, "x.safetensors", path);
    assert_ok(safetensors_write(path, views, N));
    assert_ok(safetensors_open(&file, path));
    for (int i = 0; i < N; i++) assert_non_null(safetensors_find(&file, names[i]));
    safetensors_close(&file);
}

/* ---- what is refused ------------------------------------------------------------------------------------------ */

static void a_missing_file_is_named(void **state)
{
    Safetensors file;
    (void)state;
    assert_fails(safetensors_open(&file, "nowhere.safetensors"), ERR_IO, "nowhere.safetensors");
}

static void a_file_shorter_than_its_length_field_is_refused(void **state)
{
    char path[PATH_BYTES];
    Safetensors file;
    scratch_path(state, "x.safetensors", path);
    assert_ok(file_write(path, "1234567", 7));
    assert_fails(safetensors_open(&file, path), ERR_FORMAT, "has 7 bytes");
    assert_ok(file_write(path, "", 0));
    assert_fails(safetensors_open(&file, path), ERR_FORMAT, "has 0 bytes");
}

static void a_header_longer_than_the_file_is_refused(void **state)
{
    refuses_length(state, 3, "the header is 3 bytes long, but only 2 bytes follow");
    refuses_length(state, 100000001, "expected 1 to 100000000");
    refuses_length(state, UINT64_MAX, "expected 1 to 100000000");
}

static void a_header_of_no_length_is_refused(void **state) { refuses_length(state, 0, "the header is 0 bytes long"); }

static void a_header_that_is_not_json_is_refused(void **state)
{
    refuses(state, "hello", 0, "not valid JSON at line 1");
    refuses(state, "{" A "} x", 8, "more text after the value");
    refuses(state, "[1]", 0, "the header is an array; expected an object");
}

static void metadata_that_is_not_text_is_refused(void **state)
{
    refuses(state, "{\"__metadata__\":3}", 0, "__metadata__ is a number; expected an object");
    refuses(state, "{\"__metadata__\":{\"k\":[]}}", 0, "__metadata__.k is an array; expected a string");
    refuses(state, "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__ twice");
}

static void duplicate_names_are_refused(void **state)
{
    refuses(state, "{" A ",\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}", 12,
            "tensor a: the header names it twice");
}

static void an_entry_that_lacks_something_is_refused(void **state)
{
    refuses(state, "{\"a\":4}", 0, "tensor a: found a number; expected an object");
    refuses(state, "{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "tensor a: key dtype is missing");
    refuses(state, "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "tensor a: key shape is missing");
    refuses(state, "{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "tensor a: key data_offsets is missing");
    refuses(state, "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8,
            "data_offsets has 1 numbers; expected 2");
}

static void an_unknown_dtype_is_named(void **state)
{
    refuses(state, "{\"a\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8,
            "tensor a: dtype is F64; expected F32, BF16");
}

static void shapes_that_are_no_shapes_are_refused(void **state)
{
    refuses(state, "{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "key shape is -2");
    refuses(state, "{\"a\":{\"dtype\":\"F32\",\"shape\":[0.5],\"data_offsets\":[0,8]}}", 8,
            "key shape is 0.5; expected an integer");
    refuses(state, "{\"a\":{\"dtype\":\"F32\",\"shape\":[\"2\"],\"data_offsets\":[0,8]}}", 8, "key shape is a string");
    refuses(state, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8,
            "9 dimensions; expected at most 8");
}

static void a_shape_that_overflows_is_refused(void **state)
{
    refuses(state, "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
            "more bytes than");
    refuses(state, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1e300],\"data_offsets\":[0,0]}}", 0, "expected an integer");
}

static void offsets_that_are_no_offsets_are_refused(void **state)
{
    refuses(state, "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, "key data_offsets is -8");
    refuses(state, "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,7.5]}}", 8, "key data_offsets is 7.5");
    refuses(state, "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8,
            "begin at 8 and end before, at 0");
}

static void a_tensor_beyond_the_file_is_refused(void **state)
{
    refuses(state, "{" A "}", 7, "tensor a: data_offsets end at 8, but the file holds 7 bytes of data (truncated?)");
}

static void bytes_that_are_not_the_shapes_are_refused(void **state)
{
    refuses(state, "{\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
            "span 8 bytes; dtype and shape take 4");
}

static void overlapping_tensors_are_refused(void **state)
{
    refuses(state, "{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12,
            "tensor b: begins at 4, before");
    refuses(state, "{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
            "before the place where tensor");
}

static void a_hole_is_refused(void **state)
{
    refuses(state, "{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}", 16,
            "tensor b: begins at 12, beyond");
    refuses(state, "{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
            "tensor b: begins at 4, beyond");
    refuses(state, "{" A "}", 9, "the tensors end at 8, but the file holds 9 bytes");
}

static void writing_checks_bytes_against_shape(void **state)
{
    char path[PATH_BYTES];
    float x[2] = {0};
    TensorView view = {.name = "a", .dtype = DTYPE_F32, .n_dims = 1, .shape = {3}, .bytes = sizeof x, .data = x};
    scratch_path(state, "x.safetensors", path);
    assert_fails(safetensors_write(path, &view, 1), ERR_FORMAT, "tensor a: has 8 bytes; dtype and shape take 12");
    assert_false(file_exists(path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(what_was_written_is_read),
        scratch_test(a_file_written_in_pieces_is_read),
        scratch_test(a_file_whose_bytes_fail_is_not_written),
        scratch_test(a_file_without_tensors_is_read),
        scratch_test(a_published_kind_of_file_is_read),
        scratch_test(a_shard_of_115000_tensors_is_read),
        scratch_test(a_missing_file_is_named),
        scratch_test(a_file_shorter_than_its_length_field_is_refused),
        scratch_test(a_header_longer_than_the_file_is_refused),
        scratch_test(a_header_of_no_length_is_refused),
        scratch_test(a_header_that_is_not_json_is_refused),
        scratch_test(metadata_that_is_not_text_is_refused),
        scratch_test(duplicate_names_are_refused),
        scratch_test(an_entry_that_lacks_something_is_refused),
        scratch_test(an_unknown_dtype_is_named),
        scratch_test(shapes_that_are_no_shapes_are_refused),
        scratch_test(a_shape_that_overflows_is_refused),
        scratch_test(offsets_that_are_no_offsets_are_refused),
        scratch_test(a_tensor_beyond_the_file_is_refused),
        scratch_test(bytes_that_are_not_the_shapes_are_refused),
        scratch_test(overlapping_tensors_are_refused),
        scratch_test(a_hole_is_refused),
        scratch_test(writing_checks_bytes_against_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
