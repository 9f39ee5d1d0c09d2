/* A bump allocator: many blocks, one lifetime. Blocks are aligned to 64 bytes and not zeroed.
 *
 *     Arena arena = {0};                       // an empty arena is valid
 *     float *x = arena_alloc(&arena, bytes);   // NULL when the system has no more
 *     arena_reset(&arena);                     // everything is gone, the memory is kept for the next round
 *     arena_free(&arena);
 *
 * After the first round of a loop that asks for the same sizes, no call reaches the system. */
#ifndef GRAFT_BASE_ARENA_H
#define GRAFT_BASE_ARENA_H

#include <stddef.h>

typedef struct ArenaChunk ArenaChunk;

typedef struct {
    ArenaChunk *first, *current;
    size_t used_bytes; /* handed out since the last reset */
    size_t peak_bytes; /* the most that was ever handed out */
    size_t held_bytes; /* taken from the system */
} Arena;

void *arena_alloc(Arena *arena, size_t bytes);
void arena_reset(Arena *arena);
void arena_free(Arena *arena);

#endif
