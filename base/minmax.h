/* The smaller and the larger of two sizes, and a size rounded up to a multiple. */
#ifndef GRAFT_BASE_MINMAX_H
#define GRAFT_BASE_MINMAX_H

#include <stddef.h>

static inline size_t size_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t size_max(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

#endif
