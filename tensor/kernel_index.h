/* Kernels of the indexer: scores of keys, and the choice of the k largest. kernel_index.c fills the table once for each
 * instruction set. */
#ifndef GRAFT_TENSOR_KERNEL_INDEX_H
#define GRAFT_TENSOR_KERNEL_INDEX_H

#include <stddef.h>
#include <stdint.h>

/* score[i][t] = sum over heads of w[i][h] ReLU(q[i][h] . key[t]) for n queries and n_groups groups of LANES keys.
 * Arrays have INDEX_QUERIES queries; i runs to n rounded up to what a tile takes. */
enum { INDEX_QUERIES = 8 };
typedef struct {
    size_t n, n_groups, n_heads, dim;
    const float *q;    /* [head][dim][INDEX_QUERIES] */
    const float *w;    /* [INDEX_QUERIES][head] */
    const float *keys; /* [group][dim][LANES] */
    float *score;      /* [INDEX_QUERIES][stride] */
    size_t stride;
} IndexBlock;

typedef struct {
    void (*scores)(const IndexBlock *block);
    /* Sets the bits of the k largest of x[n], 1 <= k <= n; ties go to the lower index. scratch: n rounded up to LANES.
     * */
    void (*top_k_set)(size_t n, size_t k, uint64_t *bits, const float *x, int32_t *scratch);
} IndexKernels;

extern const IndexKernels index_kernels_avx512, index_kernels_avx2, index_kernels_plain;

#endif
