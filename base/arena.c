/* Blocks are cut from chunks, front to back. A chunk has ARENA_CHUNK_BYTES, or the size of the one block that does
 * not fit into that many. Chunks are a linked list, the newest first; only the newest is allocated from, so what is
 * left at the end of an older chunk stays unused. Under the address sanitizer every byte of a chunk that no block
 * covers is poisoned. */
#include "base/arena.h"

#include "base/pages.h"
#include "base/minmax.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

enum { ARENA_CHUNK_BYTES = 16 << 20, ALIGN = 64 };

struct ArenaChunk {
    ArenaChunk *next;
    size_t bytes, used; /* both count this header */
};

static ArenaChunk *chunk_new(size_t payload, ArenaChunk *next)
{
    size_t bytes = payload + ALIGN < ARENA_CHUNK_BYTES ? ARENA_CHUNK_BYTES : round_up(payload + ALIGN, HUGE_PAGE);
    ArenaChunk *chunk = pages_map(bytes, true, true);
    if (!chunk) return NULL;
    *chunk = (ArenaChunk){.next = next, .bytes = bytes, .used = ALIGN};
    ASAN_POISON_MEMORY_REGION((char *)chunk + ALIGN, bytes - ALIGN);
    return chunk;
}

void *arena_alloc(Arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 4) return NULL;
    size_t asked = bytes;
    bytes = round_up((bytes ? bytes : 1) + GUARD, ALIGN);
    ArenaChunk *chunk = arena->newest;
    if (!chunk || chunk->bytes - chunk->used < bytes) chunk = chunk_new(bytes, arena->newest);
    if (!chunk) return NULL;
    arena->newest = chunk;
    void *block = (char *)chunk + chunk->used;
    ASAN_UNPOISON_MEMORY_REGION(block, asked);
    chunk->used += bytes;
    return block;
}

void arena_free(Arena *arena)
{
    for (ArenaChunk *chunk = arena->newest, *next; chunk; chunk = next) {
        next = chunk->next;
        ASAN_UNPOISON_MEMORY_REGION((char *)chunk, chunk->bytes);
        munmap(chunk, chunk->bytes);
    }
    *arena = (Arena){0};
}

Err *arena_format(Arena *arena, const char **out, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = n < 0 ? NULL : arena_alloc(arena, (size_t)n + 1);
    if (text) vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    *out = text;
    return text ? NULL : err_new(ERR_MEMORY, "out of memory for a name");
}
