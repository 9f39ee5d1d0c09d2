/* A bump allocator: many blocks, one lifetime. Blocks are aligned to 64 bytes and not zeroed.
 *
 *     Arena arena = {0};                       // an empty arena is valid
 *     float *x = arena_alloc(&arena, bytes);   // NULL when the system has no more
 *     arena_free(&arena);                      // everything is gone
 *
 * For blocks that are released one by one, see base/pool.h. */
#ifndef GRAFT_BASE_ARENA_H
#define GRAFT_BASE_ARENA_H

#include "base/err.h"

typedef struct ArenaChunk ArenaChunk;

typedef struct {
    ArenaChunk *newest; /* the head of a list; blocks are taken from it */
} Arena;

void *arena_alloc(Arena *arena, size_t bytes);
void arena_free(Arena *arena);

/* `printf` into the arena. Fails: ERR_MEMORY. */
MUST_USE Err *arena_format(Arena *arena, const char **out, const char *format, ...) PRINTF(3, 4);

#endif
