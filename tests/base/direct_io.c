/* Reads past the page cache: whole blocks, the end of a file, files that change while they are open, and file systems
 * that take O_DIRECT when opening and refuse it when reading. */
#define _GNU_SOURCE
#include "base/direct_io.h"
#include "tests/support/check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FILE_BYTES = 3 * DIRECT_ALIGN + 100, READERS = 8 };

/* The program's own pread, in place of libc's. While `refusing` is set, it refuses direct reads, as some file systems
 * do: the first READERS of them when all have begun, and then one after the other. */
static bool refusing;
static pthread_barrier_t all_have_begun;
static atomic_int n_refused;

ssize_t pread(int fd, void *to, size_t bytes, off_t at)
{
    if (refusing && fcntl(fd, F_GETFL) & O_DIRECT) {
        int i = atomic_fetch_add(&n_refused, 1);
        if (i < READERS) {
            pthread_barrier_wait(&all_have_begun);
            usleep(2000 * (unsigned)i);
        }
        errno = EINVAL;
        return -1;
    }
    return syscall(SYS_pread64, fd, to, bytes, at);
}

static unsigned char byte_at(size_t i) { return (unsigned char)(i * 7 + i / 251); }

static void write_file(const char *path, size_t bytes)
{
    unsigned char *data = malloc(bytes);
    assert_non_null(data);
    for (size_t i = 0; i < bytes; i++) data[i] = byte_at(i);
    assert_ok(file_write(path, data, bytes));
    free(data);
}

static void blocks_and_the_end_of_a_file_are_read(void **state)
{
    char path[PATH_BYTES];
    DirectFile file;
    write_file(scratch_path(state, "weights", path), FILE_BYTES);
    unsigned char *block = aligned_alloc(DIRECT_ALIGN, 2 * DIRECT_ALIGN);
    assert_non_null(block);
    assert_ok(direct_open(&file, path));
    assert_int_equal(file.bytes, FILE_BYTES);
    for (size_t at = 0; at < FILE_BYTES; at += 2 * DIRECT_ALIGN) {
        memset(block, 0, 2 * DIRECT_ALIGN);
        assert_ok(direct_read(&file, at, 2 * DIRECT_ALIGN, block));
        for (size_t i = at; i < at + 2 * DIRECT_ALIGN && i < FILE_BYTES; i++)
            assert_int_equal(block[i - at], byte_at(i));
    }
    direct_close(&file);
    direct_close(&file); /* an empty file */
    free(block);
}

typedef struct {
    DirectFile *file;
    unsigned char *block;
    Err *err;
} Reader;

static void *read_a_block(void *context)
{
    Reader *reader = context;
    reader->err = direct_read(reader->file, DIRECT_ALIGN, DIRECT_ALIGN, reader->block);
    return NULL;
}

static void readers_whose_direct_reads_are_refused_at_once_all_read(void **state)
{
    char path[PATH_BYTES];
    DirectFile file;
    Reader readers[READERS];
    pthread_t threads[READERS];
    write_file(scratch_path(state, "weights", path), FILE_BYTES);
    assert_ok(direct_open(&file, path));
    if (!file.direct) {
        direct_close(&file);
        skip(); /* this file system refuses O_DIRECT when opening */
    }
    pthread_barrier_init(&all_have_begun, NULL, READERS);
    refusing = true;
    for (size_t i = 0; i < READERS; i++) {
        readers[i] = (Reader){&file, aligned_alloc(DIRECT_ALIGN, DIRECT_ALIGN), NULL};
        assert_non_null(readers[i].block);
        assert_int_equal(pthread_create(&threads[i], NULL, read_a_block, &readers[i]), 0);
    }
    for (size_t i = 0; i < READERS; i++) pthread_join(threads[i], NULL);
    refusing = false;
    assert_int_equal(n_refused, READERS);
    assert_false(file.direct);
    for (size_t i = 0; i < READERS; i++) {
        assert_ok(readers[i].err);
        for (size_t k = 0; k < DIRECT_ALIGN; k++) assert_int_equal(readers[i].block[k], byte_at(DIRECT_ALIGN + k));
        free(readers[i].block);
    }
    direct_close(&file);
    pthread_barrier_destroy(&all_have_begun);
}

static void a_file_that_was_cut_short_is_an_error(void **state)
{
    char path[PATH_BYTES];
    DirectFile file;
    write_file(scratch_path(state, "weights", path), FILE_BYTES);
    unsigned char *block = aligned_alloc(DIRECT_ALIGN, DIRECT_ALIGN);
    assert_non_null(block);
    assert_ok(direct_open(&file, path));
    FILE *stream = fopen(path, "w");
    assert_non_null(stream);
    fclose(stream);
    assert_fails(direct_read(&file, 0, DIRECT_ALIGN, block), ERR_IO, "has 0 bytes now");
    direct_close(&file);
    assert_fails(direct_open(&file, scratch_path(state, "nothing", path)), ERR_IO, "nothing");
    free(block);
}

static void sizes_are_rounded_up_to_blocks(void **state)
{
    (void)state;
    assert_int_equal(direct_round(0), 0);
    assert_int_equal(direct_round(1), DIRECT_ALIGN);
    assert_int_equal(direct_round(DIRECT_ALIGN), DIRECT_ALIGN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(blocks_and_the_end_of_a_file_are_read),
        scratch_test(readers_whose_direct_reads_are_refused_at_once_all_read),
        scratch_test(a_file_that_was_cut_short_is_an_error),
        cmocka_unit_test(sizes_are_rounded_up_to_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
