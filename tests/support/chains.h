/* Products as chains of scalar operations, for tests of every path: what tensor/kernel.h and tensor/block.h promise,
 * element by element. */
#ifndef GRAFT_TESTS_SUPPORT_CHAINS_H
#define GRAFT_TESTS_SUPPORT_CHAINS_H

#include "tensor/gemm.h"
#include "tests/support/check.h"

enum { N_PATHS = 4 };

/* Choose path p for the products; the last is bf16. False when this CPU lacks it, which is printed once. */
bool has_path(size_t p);

/* n floats and 16 more, aligned to 64 bytes; normal: random. Owner: the caller, free. */
float *floats(size_t n);
float *normal(uint64_t key, size_t n);

/* n random floats and one more, in memory that ends there, so that the sanitizer sees what is read beyond. */
float *exact_normal(uint64_t key, size_t n);

/* x rounded to bf16; a subnormal number becomes zero. */
float rounded(float x);

/* The sum of x[k] s w[k * step] for k in [begin, end), from zero: one chain of fmaf; or, as the bf16 path does it, two
 * products at a time, both factors rounded to bf16 and the last bf16 pair filled with zero. */
float chain(size_t begin, size_t end, const float *x, float s, const float *w, size_t step);
float chain_bf16(size_t begin, size_t end, const float *x, float s, const float *w, size_t step);

/* The same bits; on the plain path, which rounds products, nearly the same values. */
void assert_same(const char *what, const float *got, const float *want, size_t n);

/* The same for element i; size: the sum of the sizes of what was added. */
void assert_element(const char *what, size_t i, float got, float want, float size);

#endif
