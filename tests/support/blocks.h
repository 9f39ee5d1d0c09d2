/* What every allocator of base/ promises. */
#ifndef GRAFT_TESTS_SUPPORT_BLOCKS_H
#define GRAFT_TESTS_SUPPORT_BLOCKS_H

#include <stddef.h>

/* Blocks of 0 to 299 bytes are aligned, different, and keep what is written to them. */
void check_blocks(void *(*alloc)(void *allocator, size_t bytes), void *allocator);

#endif
