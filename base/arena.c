/* Chunks form a list; a reset goes back to the first one. A chunk is CHUNK_BYTES, or as large as the one block
 * that did not fit. Chunks come from mmap, so that untouched pages cost nothing, and begin where huge pages do:
 * with 4 KiB pages, taking them from the kernel was a tenth of a short run. */
#define _GNU_SOURCE
#include "base/arena.h"

#include "base/sizes.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>

/* The address sanitizer learns which bytes of a chunk are handed out; a gap behind each block catches overruns. */
#if defined __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
enum { GAP = 64 };
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
enum { GAP = 0 };
#endif

enum { CHUNK_BYTES = 16 << 20, HUGE_PAGE = 2 << 20, ALIGN = 64 };

struct ArenaChunk {
    ArenaChunk *next;
    size_t bytes, used; /* both count this header */
};

/* Fresh memory that begins where a huge page may; bytes are whole ones. NULL when there is none. */
static void *map_aligned(size_t bytes)
{
    char *at = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return NULL;
    size_t before = round_up((uintptr_t)at, HUGE_PAGE) - (uintptr_t)at;
    if (before) munmap(at, before);
    munmap(at + before + bytes, HUGE_PAGE - before);
    madvise(at + before, bytes, MADV_HUGEPAGE); /* a wish */
    return at + before;
}

static ArenaChunk *chunk_new(size_t payload)
{
    size_t bytes = payload + ALIGN < CHUNK_BYTES ? CHUNK_BYTES : round_up(payload + ALIGN, HUGE_PAGE);
    void *at = map_aligned(bytes);
    if (!at) return NULL;
    ArenaChunk *chunk = at;
    *chunk = (ArenaChunk){.bytes = bytes, .used = ALIGN};
    ASAN_POISON_MEMORY_REGION((char *)at + ALIGN, bytes - ALIGN);
    return chunk;
}

static bool has_room(const ArenaChunk *chunk, size_t bytes) { return chunk->bytes - chunk->used >= bytes; }

/* A fresh chunk instead of those from *link on, which are empty and too small: else blocks that grow from round to round would
 * leave a trail of them. */
static ArenaChunk *replace(Arena *arena, ArenaChunk **link, size_t bytes)
{
    for (ArenaChunk *old = *link, *next; old; old = next) {
        next = old->next;
        arena->held_bytes -= old->bytes;
        ASAN_UNPOISON_MEMORY_REGION((char *)old, old->bytes);
        munmap(old, old->bytes);
    }
    *link = chunk_new(bytes);
    if (*link) arena->held_bytes += (*link)->bytes;
    return *link;
}

void *arena_alloc(Arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 4) return NULL;
    size_t asked = bytes;
    bytes = round_up((bytes ? bytes : 1) + GAP, ALIGN);
    ArenaChunk *chunk = arena->current;
    if (!chunk || !has_room(chunk, bytes)) {
        ArenaChunk **empty = chunk && chunk->used > ALIGN ? &chunk->next : &arena->first, **link = empty;
        while (*link && !has_room(*link, bytes)) link = &(*link)->next; /* too small for this block: skipped until the next reset */
        chunk = *link ? *link : replace(arena, empty, bytes);
        if (!chunk) return NULL;
    }
    arena->current = chunk;
    void *block = (char *)chunk + chunk->used;
    ASAN_UNPOISON_MEMORY_REGION(block, asked);
    chunk->used += bytes;
    arena->used_bytes += bytes;
    if (arena->used_bytes > arena->peak_bytes) arena->peak_bytes = arena->used_bytes;
    return block;
}

void arena_reset(Arena *arena)
{
    for (ArenaChunk *chunk = arena->first; chunk; chunk = chunk->next) {
        ASAN_POISON_MEMORY_REGION((char *)chunk + ALIGN, chunk->used - ALIGN);
        chunk->used = ALIGN;
    }
    arena->current = arena->first;
    arena->used_bytes = 0;
}

void arena_free(Arena *arena)
{
    for (ArenaChunk *chunk = arena->first, *next; chunk; chunk = next) {
        next = chunk->next;
        ASAN_UNPOISON_MEMORY_REGION((char *)chunk, chunk->bytes);
        munmap(chunk, chunk->bytes);
    }
    *arena = (Arena){0};
}
