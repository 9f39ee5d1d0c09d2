/* Arrays and attributes come back through HDF5 as they were written; what does not fit is an error. */
#include "ckpt/h5.h"

#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

static char path[PATH_BYTES];

static int begin(void **state)
{
    if (scratch_open(state)) return -1;
    scratch_path(state, "a.h5", path);
    return 0;
}

static void every_type_and_number_of_dimensions_comes_back(void **state)
{
    (void)state;
    const float f[4] = {1, -0.0f, 3e38f, 1e-45f};
    const double d[2][2] = {{1, 2}, {3, 1e-300}};
    const int32_t i[1][2][2] = {{{1, -2}, {INT32_MAX, INT32_MIN}}};
    const int64_t l[4] = {INT64_MAX, INT64_MIN, 0, -1};
    const uint64_t u[4] = {UINT64_MAX, 1, 2, 3};
    const struct {
        const char *name;
        H5Type type;
        size_t n_dims, dims[H5_DIMS], bytes;
        const void *data;
    } arrays[] = {
        {"/f", H5_F32, 1, {4, 0, 0}, sizeof f, f},           {"/deep/down/d", H5_F64, 2, {2, 2, 0}, sizeof d, d},
        {"/deep/i", H5_I32, 3, {1, 2, 2}, sizeof i, i},      {"/l", H5_I64, 1, {4, 0, 0}, sizeof l, l},
        {"/deep/down/u", H5_U64, 1, {4, 0, 0}, sizeof u, u},
    };
    H5File file = {0};
    assert_ok(h5_create(&file, path));
    for (size_t a = 0; a < 5; a++)
        assert_ok(h5_write(&file, arrays[a].name, arrays[a].type, arrays[a].n_dims, arrays[a].dims, arrays[a].data));
    assert_ok(h5_close(&file));
    assert_ok(h5_open(&file, path));
    for (size_t a = 0; a < 5; a++) {
        char read[64];
        assert_ok(h5_read(&file, arrays[a].name, arrays[a].type, arrays[a].n_dims, arrays[a].dims, read));
        assert_memory_equal(read, arrays[a].data, arrays[a].bytes);
    }
    assert_ok(h5_close(&file));
}

static void pieces_make_the_whole(void **state)
{
    (void)state;
    enum { E = 3, R = 5, D = 300 * 1000 }; /* a row is longer than a chunk */
    static float whole[E][R][D], read[E][R][D];
    for (size_t e = 0; e < E; e++)
        for (size_t r = 0; r < R; r++)
            for (size_t d = 0; d < D; d++) whole[e][r][d] = (float)(e * 1000000 + r * 1000 + d);
    H5File file = {0};
    assert_ok(h5_create(&file, path));
    assert_ok(h5_make(&file, "x", H5_F32, 3, (size_t[]){E, R, D}));
    for (size_t e = E; e-- > 0;) {
        assert_ok(h5_write_slab(&file, "x", H5_F32, 3, (size_t[]){e, 0, 0}, (size_t[]){1, 2, D}, whole[e]));
        assert_ok(h5_write_slab(&file, "x", H5_F32, 3, (size_t[]){e, 2, 0}, (size_t[]){1, R - 2, D}, whole[e][2]));
    }
    assert_ok(h5_close(&file));
    assert_ok(h5_open(&file, path));
    assert_ok(h5_read_slab(&file, "x", H5_F32, 3, (size_t[]){1, 3, 7}, (size_t[]){1, 1, 100}, read));
    assert_memory_equal(read, &whole[1][3][7], 100 * sizeof(float));
    assert_ok(h5_read(&file, "x", H5_F32, 3, (size_t[]){E, R, D}, read));
    assert_memory_equal(read, whole, sizeof whole);
    assert_ok(h5_close(&file));
}

static void attributes_come_back(void **state)
{
    (void)state;
    H5File file = {0};
    char *text;
    uint64_t u;
    assert_ok(h5_create(&file, path));
    assert_ok(h5_group(&file, "/a/b"));
    assert_ok(h5_group(&file, "/a/b"));
    assert_ok(h5_set_text(&file, "/a/b", "text", "Grüße"));
    assert_ok(h5_set_text(&file, "/", "none", ""));
    assert_ok(h5_set_u64(&file, "/", "u", UINT64_MAX));
    assert_ok(h5_close(&file));
    assert_ok(h5_open(&file, path));
    assert_ok(h5_get_text(&file, "/a/b", "text", &text));
    assert_string_equal(text, "Grüße");
    free(text);
    assert_ok(h5_get_text(&file, "/", "none", &text));
    assert_string_equal(text, "");
    free(text);
    assert_ok(h5_get_u64(&file, "/", "u", &u));
    assert_true(u == UINT64_MAX);
    assert_fails(h5_get_u64(&file, "/", "g", &u), ERR_FORMAT, "attribute g is missing");
    assert_fails(h5_get_u64(&file, "/", "none", &u), ERR_FORMAT, "attribute none is of another type");
    assert_fails(h5_get_text(&file, "/", "u", &text), ERR_FORMAT, "attribute u is not a text");
    assert_ok(h5_close(&file));
}

static void what_does_not_fit_is_an_error(void **state)
{
    (void)state;
    H5File file = {0};
    float x[6] = {0};
    assert_ok(h5_create(&file, path));
    assert_ok(h5_write(&file, "/x", H5_F32, 2, (size_t[]){2, 3}, x));
    assert_fails(h5_write(&file, "/x", H5_F32, 2, (size_t[]){2, 3}, x), ERR_IO, "make array /x: name already exists");
    assert_fails(h5_make(&file, "/y", H5_F32, 2, (size_t[]){2, 0}), ERR_IO, "shape [2][0]; expected 1 to 3");
    assert_fails(h5_make(&file, "/y", H5_F32, 4, (size_t[]){1, 1, 1, 1}), ERR_IO, "expected 1 to 3");
    assert_fails(h5_write_slab(&file, "/x", H5_F32, 2, (size_t[]){1, 1}, (size_t[]){1, 3}, x), ERR_FORMAT,
                 "3 elements from 1 of dimension 1, which has 3");
    assert_fails(h5_write_slab(&file, "/x", H5_F32, 1, (size_t[]){1}, (size_t[]){1}, x), ERR_FORMAT,
                 "has 2 dimensions; expected 1");
    assert_ok(h5_close(&file));
    assert_ok(h5_open(&file, path));
    assert_fails(h5_read(&file, "/x", H5_F64, 2, (size_t[]){2, 3}, x), ERR_FORMAT, "is float32; expected float64");
    assert_fails(h5_read(&file, "/x", H5_F32, 2, (size_t[]){3, 2}, x), ERR_FORMAT, "is [2][3]; expected [3][2]");
    assert_fails(h5_read(&file, "/z", H5_F32, 2, (size_t[]){3, 2}, x), ERR_FORMAT, "open array /z");
    assert_ok(h5_close(&file));
}

typedef struct {
    size_t n;
    char names[4][32];
} Names;

static Err *note(void *context, const char *name)
{
    Names *names = context;
    if (names->n == 4) return err_new(ERR_FORMAT, "enough");
    snprintf(names->names[names->n++], sizeof names->names[0], "%s", name);
    return NULL;
}

static void a_visit_names_arrays_below_a_group(void **state)
{
    (void)state;
    H5File file = {0};
    Names names = {0};
    int32_t one = 1;
    assert_ok(h5_create(&file, path));
    assert_ok(h5_write(&file, "/g/b/z", H5_I32, 1, (size_t[]){1}, &one));
    assert_ok(h5_write(&file, "/g/a", H5_I32, 1, (size_t[]){1}, &one));
    assert_ok(h5_write(&file, "/other", H5_I32, 1, (size_t[]){1}, &one));
    assert_ok(h5_close(&file));
    assert_ok(h5_open(&file, path));
    assert_ok(h5_visit(&file, "/g", note, &names));
    assert_int_equal(names.n, 2);
    assert_string_equal(names.names[0], "a");
    assert_string_equal(names.names[1], "b/z");
    names.n = 4;
    assert_fails(h5_visit(&file, "/g", note, &names), ERR_FORMAT, "enough");
    assert_fails(h5_visit(&file, "/h", note, &names), ERR_FORMAT, "list group /h");
    assert_ok(h5_close(&file));
}

static void discard_removes_what_is_not_whole_and_nothing_else(void **state)
{
    (void)state;
    H5File file = {0};
    h5_discard(&file);
    assert_ok(h5_create(&file, path));
    h5_discard(&file);
    assert_false(file_exists(path));
    assert_ok(h5_create(&file, path));
    assert_ok(h5_close(&file));
    h5_discard(&file);
    assert_true(file_exists(path));
    assert_fails(h5_create(&file, path), ERR_IO, "File exists");
    h5_discard(&file);
    assert_true(file_exists(path));
    assert_ok(h5_open(&file, path));
    h5_discard(&file);
    assert_true(file_exists(path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_type_and_number_of_dimensions_comes_back, begin, scratch_close),
        cmocka_unit_test_setup_teardown(pieces_make_the_whole, begin, scratch_close),
        cmocka_unit_test_setup_teardown(attributes_come_back, begin, scratch_close),
        cmocka_unit_test_setup_teardown(what_does_not_fit_is_an_error, begin, scratch_close),
        cmocka_unit_test_setup_teardown(a_visit_names_arrays_below_a_group, begin, scratch_close),
        cmocka_unit_test_setup_teardown(discard_removes_what_is_not_whole_and_nothing_else, begin, scratch_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
