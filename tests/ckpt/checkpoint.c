/* A checkpoint comes back bit for bit; damage, mismatches and full disks are noticed, and the old file remains. */
#include "ckpt/checkpoint.h"

#include "ckpt/h5.h"
#include "tests/support/check.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 24 + 12 + 2 * 3 * 5 + 300 * 1000 };

static const int32_t experts[] = {1, 6};
static const CkptArray layout[] = {
    {"layers/0/self_attn.q_a_proj/lora_A", 2, {4, 6}, 0, NULL},
    {"layers/0/self_attn.q_a_proj/lora_B", 2, {6, 2}, 24, NULL},
    {"layers/1/mlp.experts.down_proj/lora_A", 3, {2, 3, 5}, 36, experts},
    {"layers/1/mlp.experts.down_proj/lora_B", 2, {300, 1000}, 66, NULL},
};
enum { N_ARRAYS = sizeof layout / sizeof *layout };

/* HDF5 1.10 loses memory of its own when it refuses a damaged file. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

static const char *folder;
static char path[PATH_BYTES];
static float values[N], m[N], v[N], read_values[N], read_m[N], read_v[N];

static int begin(void **state)
{
    if (scratch_open(state)) return -1;
    folder = *state;
    assert_ok(checkpoint_path(path, folder, 120));
    return 0;
}

static Checkpoint sample(void)
{
    for (size_t i = 0; i < N; i++) {
        values[i] = (float)i * 0.25f;
        m[i] = -(float)i;
        v[i] = 1.0f / (float)(i + 1);
    }
    return (Checkpoint){
        .info = {.step = 120,
                 .seed = 0xFFFFFFFFFFFFFFFFu,
                 .epoch = 2,
                 .epoch_position = 77,
                 .tokens = 1u << 31,
                 .metrics_bytes = 4321,
                 .config_json = "{\"r\": 16}",
                 .compute_path = "fp32/avx512",
                 .base_digest = "b",
                 .data_digest = NULL},
        .n_arrays = N_ARRAYS,
        .arrays = layout,
        .n = N,
        .values = values,
        .m = m,
        .v = v,
    };
}

static Checkpoint empty(void)
{
    memset(read_values, 0, sizeof read_values);
    return (
        Checkpoint){.n_arrays = N_ARRAYS, .arrays = layout, .n = N, .values = read_values, .m = read_m, .v = read_v};
}

static void what_is_saved_is_loaded_bit_for_bit(void **state)
{
    (void)state;
    Checkpoint saved = sample(), loaded = empty();
    assert_ok(checkpoint_save(&saved, path));
    assert_ok(checkpoint_load(&loaded, path));
    assert_memory_equal(values, read_values, sizeof values);
    assert_memory_equal(m, read_m, sizeof m);
    assert_memory_equal(v, read_v, sizeof v);
    assert_int_equal(loaded.info.step, 120);
    assert_true(loaded.info.seed == 0xFFFFFFFFFFFFFFFFu);
    assert_int_equal(loaded.info.epoch, 2);
    assert_int_equal(loaded.info.epoch_position, 77);
    assert_int_equal(loaded.info.tokens, 1u << 31);
    assert_int_equal(loaded.info.metrics_bytes, 4321);
    assert_int_equal(loaded.info.parameters, N);
    assert_string_equal(loaded.info.config_json, "{\"r\": 16}");
    assert_string_equal(loaded.info.compute_path, "fp32/avx512");
    assert_string_equal(loaded.info.data_digest, "");
    checkpoint_info_free(&loaded.info);
    assert_int_equal(count_entries(folder), 1);
}

static void the_same_state_gives_the_same_bytes(void **state)
{
    (void)state;
    Checkpoint ckpt = sample();
    FileMap a, b;
    char other[PATH_BYTES];
    assert_ok(file_join(other, folder, "other.h5"));
    assert_ok(checkpoint_save(&ckpt, path));
    sleep(1); /* HDF5 would store seconds */
    assert_ok(checkpoint_save(&ckpt, other));
    assert_ok(file_map(&a, path));
    assert_ok(file_map(&b, other));
    assert_int_equal(a.bytes, b.bytes);
    assert_memory_equal(a.data, b.data, a.bytes);
    file_unmap(&a);
    file_unmap(&b);
}

static void peek_reads_the_attributes_alone(void **state)
{
    (void)state;
    Checkpoint ckpt = sample();
    CkptInfo info;
    assert_ok(checkpoint_save(&ckpt, path));
    assert_ok(checkpoint_peek(&info, path));
    assert_int_equal(info.step, 120);
    assert_string_equal(info.config_json, "{\"r\": 16}");
    checkpoint_info_free(&info);
}

static void a_configuration_may_be_long(void **state)
{
    (void)state;
    Checkpoint ckpt = sample();
    CkptInfo info;
    char *text = calloc(1, 300001);
    ckpt.info.config_json = memset(text, 'x', 300000);
    assert_ok(checkpoint_save(&ckpt, path));
    assert_ok(checkpoint_peek(&info, path));
    assert_string_equal(info.config_json, text);
    checkpoint_info_free(&info);
    free(text);
}

static void a_checkpoint_may_have_no_arrays(void **state)
{
    (void)state;
    Checkpoint ckpt = {.info.step = 1};
    assert_ok(checkpoint_save(&ckpt, path));
    assert_ok(checkpoint_load(&ckpt, path));
    checkpoint_info_free(&ckpt.info);
}

static void every_mismatch_is_named(void **state)
{
    (void)state;
    static const int32_t other_experts[] = {1, 7};
    Checkpoint ckpt = sample();
    CkptArray arrays[N_ARRAYS + 1];
    assert_ok(checkpoint_save(&ckpt, path));

    ckpt = empty();
    ckpt.arrays = arrays;
    memcpy(arrays, layout, sizeof layout);
    arrays[0].dims[0] = 6, arrays[0].dims[1] = 4;
    assert_fails(checkpoint_load(&ckpt, path), ERR_FORMAT,
                 "/adapter/layers/0/self_attn.q_a_proj/lora_A is float32 [4][6] in the file; expected float32 [6][4]");
    memcpy(arrays, layout, sizeof layout);
    arrays[2].ids = other_experts;
    assert_fails(checkpoint_load(&ckpt, path), ERR_FORMAT, "entry 1 is expert 6 in the file; expected 7");
    arrays[2].ids = NULL;
    assert_fails(checkpoint_load(&ckpt, path), ERR_FORMAT, "lora_A_ids is in the file, but not among the 4 arrays");
    memcpy(arrays, layout, sizeof layout);
    arrays[0].ids = other_experts;
    assert_fails(checkpoint_load(&ckpt, path), ERR_FORMAT, "q_a_proj/lora_A_ids is missing; expected [4]");
    memcpy(arrays, layout, sizeof layout);
    arrays[N_ARRAYS] = (CkptArray){"layers/9/q/lora_A", 1, {3, 0, 0}, 0, NULL};
    ckpt.n_arrays = N_ARRAYS + 1;
    assert_fails(checkpoint_load(&ckpt, path), ERR_FORMAT, "/adapter/layers/9/q/lora_A is missing; expected [3]");
    ckpt.n_arrays = N_ARRAYS - 1;
    assert_fails(checkpoint_load(&ckpt, path), ERR_FORMAT,
                 "/adapter/layers/1/mlp.experts.down_proj/lora_B is in the file, but not among the 3 arrays");
    for (size_t i = 0; i < N; i++) assert_true(read_values[i] == 0); /* nothing was read */
}

/* Save a sample and hand its bytes to the test, which may change them and writes them back. */
static unsigned char *saved_bytes(size_t *bytes)
{
    Checkpoint ckpt = sample();
    char *text;
    assert_ok(checkpoint_save(&ckpt, path));
    assert_ok(file_read(&text, bytes, path));
    return (unsigned char *)text;
}

static void a_corrupted_chunk_is_noticed(void **state)
{
    (void)state;
    size_t bytes, at = 0;
    unsigned char *data = saved_bytes(&bytes);
    while (memcmp(data + at, values + 66 + 500, 64)) at++; /* inside the large array */
    data[at + 7] ^= 0x10;
    assert_ok(file_write(path, data, bytes));
    free(data);
    Checkpoint ckpt = empty();
    assert_fails(
        checkpoint_load(&ckpt, path), ERR_FORMAT,
        "read array /adapter/layers/1/mlp.experts.down_proj/lora_B: data error detected by Fletcher32 checksum");
}

static void every_truncation_is_noticed(void **state)
{
    (void)state;
    size_t bytes;
    unsigned char *data = saved_bytes(&bytes);
    for (size_t cut = 1; cut < 64; cut++) {
        size_t keep = bytes - bytes * cut / 64;
        assert_int_equal(truncate(path, (off_t)keep), 0);
        Checkpoint ckpt = empty();
        Err *err = checkpoint_load(&ckpt, path);
        assert_non_null(err);
        assert_int_equal(err_kind(err), ERR_FORMAT);
        err_free(err);
    }
    assert_ok(file_write(path, data, bytes - 1));
    Checkpoint ckpt = empty();
    assert_fails(checkpoint_load(&ckpt, path), ERR_FORMAT, "truncated file");
    free(data);
}

static void flip(size_t at, int byte)
{
    FILE *stream = fopen(path, "r+b");
    assert_non_null(stream);
    fseek(stream, (long)at, SEEK_SET);
    fputc(byte, stream);
    assert_ok(file_close(&stream, path));
}

/* Flip one byte at many places: an error or the same content, never other numbers. */
static void a_flipped_byte_never_changes_what_is_loaded(void **state)
{
    (void)state;
    size_t bytes;
    unsigned char *data = saved_bytes(&bytes);
    for (size_t at = 0; at < bytes; at += at < 4096 ? 7 : 1 + bytes / 499) {
        flip(at, data[at] ^ 0x41);
        Checkpoint ckpt = empty();
        Err *err = checkpoint_load(&ckpt, path);
        flip(at, data[at]);
        bool refused = err != NULL;
        err_free(err);
        if (refused) continue;
        assert_memory_equal(values, read_values, sizeof values);
        assert_memory_equal(m, read_m, sizeof m);
        assert_memory_equal(v, read_v, sizeof v);
        checkpoint_info_free(&ckpt.info);
    }
    free(data);
}

static void other_files_are_refused(void **state)
{
    (void)state;
    CkptInfo info;
    H5File file = {0};
    assert_fails(checkpoint_peek(&info, path), ERR_IO, "No such file");
    assert_ok(file_write(path, "text", 4));
    assert_fails(checkpoint_peek(&info, path), ERR_FORMAT, "is not an HDF5 file");
    unlink(path);
    assert_ok(h5_create(&file, path));
    assert_ok(h5_close(&file));
    assert_fails(checkpoint_peek(&info, path), ERR_FORMAT, "not a checkpoint of graft: attribute format is missing");
    unlink(path);
    assert_ok(h5_create(&file, path));
    assert_ok(h5_set_text(&file, "/", "format", "graft checkpoint"));
    assert_ok(h5_set_u64(&file, "/", "format_version", 3));
    assert_ok(h5_close(&file));
    assert_fails(checkpoint_peek(&info, path), ERR_FORMAT, "format_version is 3; this graft reads 2");
}

/* In a child, whose files may not grow beyond a limit: this acts like a full disk. */
static void a_full_disk_leaves_the_old_file_and_no_draft(void **state)
{
    (void)state;
    size_t bytes;
    free(saved_bytes(&bytes));
    for (size_t limit = 100; limit < bytes; limit += bytes / 7) {
        pid_t child = fork();
        if (child == 0) {
            Checkpoint ckpt = sample();
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &(struct rlimit){limit, limit});
            Err *err = checkpoint_save(&ckpt, path);
            bool good = err && err_kind(err) == ERR_IO && strstr(err_message(err), "File too large");
            if (!good && err) fprintf(stderr, "limit %zu: %s\n", limit, err_message(err));
            err_free(err);
            exit(good ? 0 : 1); /* HDF5's exit handler must not crash either */
        }
        int status;
        waitpid(child, &status, 0);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        assert_int_equal(count_entries(folder), 1);
    }
    Checkpoint ckpt = empty();
    assert_ok(checkpoint_load(&ckpt, path));
    checkpoint_info_free(&ckpt.info);
}

static void a_folder_that_is_not_there_is_an_error(void **state)
{
    (void)state;
    Checkpoint ckpt = sample();
    assert_fails(checkpoint_save(&ckpt, "/tmp/graft/no/such/folder/a.h5"), ERR_IO, "No such file or directory");
}

static void touch(const char *name)
{
    char file[PATH_BYTES];
    assert_ok(file_join(file, folder, name));
    assert_ok(file_write(file, "", 0));
}

static bool there(const char *name)
{
    char file[PATH_BYTES];
    assert_ok(file_join(file, folder, name));
    return file_exists(file);
}

static void rotation_keeps_the_newest_and_removes_drafts(void **state)
{
    (void)state;
    bool found;
    char newest[PATH_BYTES], expected[PATH_BYTES], draft[PATH_BYTES];
    assert_ok(checkpoint_newest("/tmp/graft/no/such/folder", newest, &found));
    assert_false(found);
    assert_ok(checkpoint_newest(folder, newest, &found));
    assert_false(found);
    assert_ok(file_draft_name(draft, path)); /* of a run that was killed */
    assert_ok(file_write(draft, "", 0));
    touch("checkpoint-000020.h5.draft.17"); /* of an older graft */
    assert_ok(checkpoint_newest(folder, newest, &found));
    assert_false(found);
    touch("checkpoint-000005.h5");
    touch("checkpoint-000100.h5");
    touch("checkpoint-1000000.h5");
    touch("checkpoint-000020.h5");
    touch("checkpoint-best.h5");
    touch("checkpoint-000007.h5.bak");
    touch("metrics.jsonl");
    assert_ok(checkpoint_newest(folder, newest, &found));
    assert_ok(checkpoint_path(expected, folder, 1000000));
    assert_true(found);
    assert_string_equal(newest, expected);
    assert_ok(checkpoint_rotate(folder, 0));
    assert_int_equal(count_entries(folder), 7); /* only the drafts are gone */
    assert_ok(checkpoint_rotate(folder, 2));
    assert_true(there("checkpoint-1000000.h5") && there("checkpoint-000100.h5"));
    assert_false(there("checkpoint-000020.h5") || there("checkpoint-000005.h5"));
    assert_true(there("checkpoint-best.h5") && there("checkpoint-000007.h5.bak") && there("metrics.jsonl"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_saved_is_loaded_bit_for_bit, begin, scratch_close),
        cmocka_unit_test_setup_teardown(the_same_state_gives_the_same_bytes, begin, scratch_close),
        cmocka_unit_test_setup_teardown(peek_reads_the_attributes_alone, begin, scratch_close),
        cmocka_unit_test_setup_teardown(a_configuration_may_be_long, begin, scratch_close),
        cmocka_unit_test_setup_teardown(a_checkpoint_may_have_no_arrays, begin, scratch_close),
        cmocka_unit_test_setup_teardown(every_mismatch_is_named, begin, scratch_close),
        cmocka_unit_test_setup_teardown(a_corrupted_chunk_is_noticed, begin, scratch_close),
        cmocka_unit_test_setup_teardown(every_truncation_is_noticed, begin, scratch_close),
        cmocka_unit_test_setup_teardown(a_flipped_byte_never_changes_what_is_loaded, begin, scratch_close),
        cmocka_unit_test_setup_teardown(other_files_are_refused, begin, scratch_close),
        cmocka_unit_test_setup_teardown(a_full_disk_leaves_the_old_file_and_no_draft, begin, scratch_close),
        cmocka_unit_test_setup_teardown(a_folder_that_is_not_there_is_an_error, begin, scratch_close),
        cmocka_unit_test_setup_teardown(rotation_keeps_the_newest_and_removes_drafts, begin, scratch_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
