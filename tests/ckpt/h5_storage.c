/* Files of a stranger, made with HDF5 itself: arrays and groups that lie elsewhere, filters, untrue sizes. */
#include "ckpt/h5_storage.h"

#include "ckpt/h5.h"
#include "tests/support/check.h"

#include <hdf5.h>
#include <stdlib.h>
#include <string.h>

enum { N = 4, FILTER = 300, SOME_OTHER_FILTER = 301 };

/* HDF5 1.10 loses memory of its own when it refuses a damaged file. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

static const float secret[N] = {1, 2, 3, 4};
static char path[PATH_BYTES], other[PATH_BYTES], raw[PATH_BYTES];
static hid_t file; /* at path, while it is made */

/* Two files that nobody who reads `path` should read: `other` has an array, `raw` the same bytes alone. */
static int begin(void **state)
{
    H5File h5 = {0};
    if (scratch_open(state)) return -1;
    assert_ok(file_write(scratch_path(state, "raw", raw), secret, sizeof secret));
    assert_ok(h5_create(&h5, scratch_path(state, "other.h5", other)));
    assert_ok(h5_write(&h5, "/g/x", H5_F32, 1, (size_t[]){N}, secret));
    assert_ok(h5_close(&h5));
    file = H5Fcreate(scratch_path(state, "a.h5", path), H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT);
    return file < 0 ? -1 : 0;
}

/* Make the array /x with a creation list, and write to it unless values is NULL. */
static void make_array(hid_t list, hsize_t n, const float *values)
{
    hsize_t unlimited = H5S_UNLIMITED;
    hid_t space = H5Screate_simple(1, &n, H5Pget_layout(list) == H5D_CHUNKED ? &unlimited : NULL);
    hid_t array = H5Dcreate2(file, "/x", H5T_IEEE_F32LE, space, H5P_DEFAULT, list, H5P_DEFAULT);
    assert_true(array >= 0);
    if (values) assert_true(H5Dwrite(array, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
    H5Dclose(array);
    H5Sclose(space);
    H5Pclose(list);
}

static hid_t chunked(hsize_t chunk)
{
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(list, 1, &chunk);
    return list;
}

/* The array /x can neither be described nor read, and the reason contains `part`. */
static void assert_refused(const char *part)
{
    H5File h5 = {0};
    H5Type type;
    float values[N] = {-1, -1, -1, -1};
    size_t n_dims, dims[H5_DIMS];
    H5Fclose(file);
    assert_ok(h5_open(&h5, path));
    assert_fails(h5_shape(&h5, "/x", &type, &n_dims, dims), ERR_FORMAT, part);
    assert_fails(h5_read(&h5, "/x", H5_F32, 1, (size_t[]){N}, values), ERR_FORMAT, part);
    assert_fails(h5_read_slab(&h5, "/x", H5_F32, 1, (size_t[]){0}, (size_t[]){N}, values), ERR_FORMAT, part);
    for (size_t i = 0; i < N; i++) assert_true(values[i] == -1);
    assert_ok(h5_close(&h5));
}

static void an_array_in_one_place_is_read(void **state)
{
    (void)state;
    float values[N];
    H5File h5 = {0};
    make_array(H5Pcreate(H5P_DATASET_CREATE), N, secret);
    H5Fclose(file);
    assert_ok(h5_open(&h5, path));
    assert_ok(h5_read(&h5, "/x", H5_F32, 1, (size_t[]){N}, values));
    assert_memory_equal(values, secret, sizeof secret);
    assert_ok(h5_close(&h5));
}

static void external_storage_is_refused(void **state)
{
    (void)state;
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(list, raw, 0, sizeof secret);
    make_array(list, N, NULL);
    assert_refused("array /x has external storage: its values are in other files");
}

static void a_virtual_array_is_refused(void **state)
{
    (void)state;
    hid_t list = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(1, (hsize_t[]){N}, NULL);
    H5Pset_virtual(list, space, other, "/g/x", space);
    H5Sclose(space);
    make_array(list, N, NULL);
    assert_refused("array /x is virtual: its values are in other arrays or files");
}

static void links_to_elsewhere_are_refused(void **state)
{
    (void)state;
    H5Lcreate_external(other, "/g/x", file, "/x", H5P_DEFAULT, H5P_DEFAULT);
    assert_refused("/x is an external link to elsewhere");
}

static Err *never(void *context, const char *name)
{
    (void)context;
    return err_new(ERR_FORMAT, "visited %s", name);
}

static void links_above_an_array_are_refused(void **state)
{
    (void)state;
    static const char *const groups[] = {"/external", "/soft", "/soft/external"};
    char name[64], *text;
    float values[N];
    size_t n_dims, dims[H5_DIMS];
    H5File h5 = {0};
    H5Type type;
    H5Lcreate_external(other, "/g", file, "/external", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_soft("/", file, "/soft", H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    assert_ok(h5_open(&h5, path));
    for (size_t i = 0; i < 3; i++) {
        const char *part = i ? "/soft is a link to elsewhere" : "/external is an external link to elsewhere";
        snprintf(name, sizeof name, "%s/x", groups[i]);
        assert_fails(h5_read(&h5, name, H5_F32, 1, (size_t[]){N}, values), ERR_FORMAT, part);
        assert_fails(h5_shape(&h5, name, &type, &n_dims, dims), ERR_FORMAT, part);
        assert_fails(h5_visit(&h5, groups[i], never, NULL), ERR_FORMAT, part);
        assert_fails(h5_get_text(&h5, groups[i], "text", &text), ERR_FORMAT, part);
    }
    assert_ok(h5_close(&h5));
}

/* ---- filters ---- */

static size_t n_filtered;

static size_t filter(unsigned flags, size_t n_values, const unsigned *values, size_t bytes, size_t *capacity,
                     void **buffer)
{
    (void)flags, (void)n_values, (void)values, (void)capacity, (void)buffer;
    n_filtered++;
    return bytes;
}

static void a_filter_is_refused_before_it_runs(void **state)
{
    (void)state;
    const H5Z_class2_t class = {H5Z_CLASS_T_VERS, FILTER, 1, 1, "a test's", NULL, NULL, filter};
    hid_t list = chunked(N);
    assert_true(H5Zregister(&class) >= 0);
    H5Pset_filter(list, FILTER, H5Z_FLAG_MANDATORY, 0, NULL);
    make_array(list, N, secret);
    n_filtered = 0;
    assert_refused("array /x has HDF5 filter 300; expected Fletcher32 (3) alone");
    assert_int_equal(n_filtered, 0);
}

static void a_filter_that_hdf5_would_look_for_is_refused(void **state)
{
    hid_t list = chunked(N);
    H5Pset_filter(list, SOME_OTHER_FILTER, H5Z_FLAG_OPTIONAL, 0, NULL);
    make_array(list, N, NULL);
    (void)state;
    assert_refused("array /x has HDF5 filter 301");
}

static void compression_is_refused(void **state)
{
    (void)state;
    hid_t list = chunked(N);
    H5Pset_fletcher32(list);
    H5Pset_deflate(list, 9);
    make_array(list, N, secret);
    assert_refused("array /x has HDF5 filter 1;");
}

static void libraries_of_the_environment_are_not_loaded(void **state)
{
    unsigned kinds = 1;
    H5File h5 = {0};
    setenv("HDF5_PLUGIN_PATH", *state, 1);
    H5PLset_loading_state(H5PL_ALL_PLUGIN);
    assert_ok(h5_open(&h5, other));
    assert_true(H5PLget_loading_state(&kinds) >= 0);
    assert_int_equal(kinds, 0);
    assert_ok(h5_close(&h5));
    unsetenv("HDF5_PLUGIN_PATH");
    H5Fclose(file);
}

/* ---- sizes ---- */

static void a_shape_beyond_the_file_is_refused(void **state)
{
    (void)state;
    make_array(chunked(N), (hsize_t)1 << 40, NULL);
    assert_refused("array /x has 4398046511104 bytes by its shape; the whole file has ");
}

static void a_shape_beyond_what_can_be_counted_is_refused(void **state)
{
    (void)state;
    make_array(chunked(N), (hsize_t)1 << 62, NULL);
    assert_refused("array /x has 18446744073709551615 bytes by its shape");
}

static void an_array_that_was_never_written_is_refused(void **state)
{
    (void)state;
    make_array(chunked(N), N, NULL);
    assert_refused("array /x has 16 bytes by its shape, but 0 are stored");
}

static void large_chunks_are_refused(void **state)
{
    (void)state;
    make_array(chunked(1 << 29), N, NULL);
    assert_refused("array /x lies in chunks of 2147483648 bytes; expected at most 1048576");
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, begin, scratch_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_array_in_one_place_is_read),
        TEST(external_storage_is_refused),
        TEST(a_virtual_array_is_refused),
        TEST(links_to_elsewhere_are_refused),
        TEST(links_above_an_array_are_refused),
        TEST(a_filter_is_refused_before_it_runs),
        TEST(a_filter_that_hdf5_would_look_for_is_refused),
        TEST(compression_is_refused),
        TEST(libraries_of_the_environment_are_not_loaded),
        TEST(a_shape_beyond_the_file_is_refused),
        TEST(a_shape_beyond_what_can_be_counted_is_refused),
        TEST(an_array_that_was_never_written_is_refused),
        TEST(large_chunks_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
