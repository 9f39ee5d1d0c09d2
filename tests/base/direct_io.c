/* Reads past the page cache: whole blocks, the end of a file, and files that change while they are open. */
#include "base/direct_io.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

enum { FILE_BYTES = 3 * DIRECT_ALIGN + 100 };

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
        scratch_test(a_file_that_was_cut_short_is_an_error),
        cmocka_unit_test(sizes_are_rounded_up_to_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
