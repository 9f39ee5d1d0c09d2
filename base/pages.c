/* A map that is one huge page larger than asked for always contains an aligned range of the right size; what lies
 * before and behind that range is unmapped again. */
#define _GNU_SOURCE
#include "base/pages.h"

#include "base/minmax.h"

#include <stdint.h>
#include <sys/mman.h>

void *pages_map(size_t bytes, bool usable, bool huge)
{
    char *at = mmap(NULL, bytes + HUGE_PAGE, usable ? PROT_READ | PROT_WRITE : PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | (usable ? 0 : MAP_NORESERVE), -1, 0);
    if (at == MAP_FAILED) return NULL;
    size_t before = round_up((uintptr_t)at, HUGE_PAGE) - (uintptr_t)at;
    if (before) munmap(at, before);
    munmap(at + before + bytes, HUGE_PAGE - before);
    if (huge) madvise(at + before, bytes, MADV_HUGEPAGE);
    return at + before;
}
