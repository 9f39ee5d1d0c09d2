/* GemmKernels as scalar chains, for tests of every path: what kernel.h and block.h promise, element by element. */
#ifndef GRAFT_TESTS_SUPPORT_CHAINS_H
#define GRAFT_TESTS_SUPPORT_CHAINS_H

#include "tensor/gemm.h"
#include "tests/support/check.h"

enum { N_PATHS = 4 };

/* Take path number p, the last is bf16; false when this CPU lacks it, and said so once. */
bool has_path(size_t p);

/* n floats aligned to 64 bytes, and LANES more. Owner: the caller, free. normal: random. */
float *floats(size_t n);
float *normal(uint64_t key, size_t n);

/* As bf16; subnormal numbers as zeros. */
float rounded(float x);

/* x [k], times s, and w [k * step] from k = begin to end: one chain of fmaf from zero; or in pairs, rounded and filled up. */
float chain(size_t begin, size_t end, const float *x, float s, const float *w, size_t step);
float chain_of_pairs(size_t begin, size_t end, const float *x, float s, const float *w, size_t step);

/* The same bits; on the plain path nearly the same values. */
void assert_same(const char *what, const float *got, const float *want, size_t n);

#endif
