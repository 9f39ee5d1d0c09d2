/* Pages from the kernel, aligned to huge pages, and macros that mark them for the address sanitizer. base/arena and
 * base/pool allocate from them. */
#ifndef GRAFT_BASE_PAGES_H
#define GRAFT_BASE_PAGES_H

#include <stdbool.h>
#include <stddef.h>

enum { HUGE_PAGE = 2 << 20 };

/* Under the address sanitizer, bytes outside of blocks are poisoned, and GUARD bytes behind each block catch
 * overruns. */
#if defined __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
enum { GUARD = 64 };
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes)   ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
enum { GUARD = 0 };
#endif

/* Map anonymous memory. A page takes memory when it is first touched.
 *   bytes    a multiple of HUGE_PAGE
 *   usable   the pages can be read and written; otherwise addresses are reserved, and mprotect makes them usable
 *   huge     ask for huge pages: with pages of 4 KiB, page faults took a tenth of the time of a short run
 *   returns  NULL when the system has no more
 * Owner: the caller, until munmap. */
void *pages_map(size_t bytes, bool usable, bool huge);

#endif
