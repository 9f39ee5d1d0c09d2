/* Checking an allocator: its blocks are written to, and read when the next one is there. */
#include "tests/support/blocks.h"

#include "tests/support/check.h"

#include <string.h>

void check_blocks(void *(*alloc)(void *allocator, size_t bytes), void *allocator)
{
    char *last = NULL;
    for (size_t bytes = 0; bytes < 300; bytes++) {
        char *block = alloc(allocator, bytes);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % 64, 0);
        assert_ptr_not_equal(block, last);
        memset(block, (int)bytes, bytes);
        if (bytes > 1) assert_int_equal(last[0], (char)(bytes - 1)); /* the first block has no byte */
        last = block;
    }
}
