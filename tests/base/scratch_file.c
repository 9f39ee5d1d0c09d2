/* Nameless files: their content, that they leave nothing behind, and a directory that does not exist. */
#include "base/scratch_file.h"

#include "base/direct_io.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

static void blocks_are_read_back_and_the_file_has_no_name(void **state)
{
    enum { BLOCKS = 3 };
    ScratchFile file;
    unsigned char *block = aligned_alloc(DIRECT_ALIGN, DIRECT_ALIGN);
    assert_non_null(block);
    assert_ok(scratch_file_open(&file, *state, BLOCKS * (size_t)DIRECT_ALIGN));
    assert_int_equal(count_entries(*state), 0);
    for (size_t i = BLOCKS; i-- > 0;) {
        memset(block, (int)i + 1, DIRECT_ALIGN);
        assert_ok(scratch_file_write(&file, i * DIRECT_ALIGN, DIRECT_ALIGN, block));
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        assert_ok(scratch_file_read(&file, i * DIRECT_ALIGN, DIRECT_ALIGN, block));
        assert_int_equal(block[0], i + 1);
        assert_int_equal(block[DIRECT_ALIGN - 1], i + 1);
    }
    scratch_file_close(&file);
    scratch_file_close(&file); /* an empty file */
    free(block);
}

static void a_directory_that_does_not_exist_is_named(void **state)
{
    char path[PATH_BYTES];
    ScratchFile file;
    assert_fails(scratch_file_open(&file, scratch_path(state, "nowhere", path), DIRECT_ALIGN), ERR_IO, "nowhere");
    scratch_file_close(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(blocks_are_read_back_and_the_file_has_no_name),
        scratch_test(a_directory_that_does_not_exist_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
