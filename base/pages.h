/* What allocators share: addresses that begin where a huge page may, and what the address sanitizer is told of them. */
#ifndef GRAFT_BASE_PAGES_H
#define GRAFT_BASE_PAGES_H

#include <stdbool.h>
#include <stddef.h>

enum { HUGE_PAGE = 2 << 20 };

/* The sanitizer learns which bytes are handed out; a gap of GUARD bytes behind each block catches overruns. */
#if defined __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
enum { GUARD = 64 };
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes)   ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
enum { GUARD = 0 };
#endif

/* `bytes`, whole huge pages, of anonymous memory; untouched pages cost nothing. usable: to be read and written; else with nothing
 * behind them until mprotect says so. huge: a wish, for with pages of 4 KiB taking them from the kernel was a tenth of a short run.
 * NULL: there is none. Owner: the caller, until munmap. */
void *pages_map(size_t bytes, bool usable, bool huge);

#endif
