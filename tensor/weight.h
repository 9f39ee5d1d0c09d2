/* A frozen matrix as it lies in its file, never copied into another precision. */
#ifndef GRAFT_TENSOR_WEIGHT_H
#define GRAFT_TENSOR_WEIGHT_H

#include "tensor/dtype.h"

enum { WEIGHT_BLOCK = 128 }; /* FP8 blocks are 128 x 128 */

/* W [rows][cols], row-major; a projection computes y = x W', so rows is the output width. A vector has rows = 1.
 * F8_E4M3 has one factor for each block, partial at the edges: W[i][j] = float(data[i][j]) * scale[i/128][j/128].
 * data need not be aligned. The owner of the file may move data between layer_acquire and layer_release. */
typedef struct Weight {
    const char *name;
    DType dtype; /* F32, BF16 or F8_E4M3 */
    size_t rows, cols;
    const void *data;
    const void *scale; /* float [ceil(rows/128)][ceil(cols/128)], F8_E4M3 only, not aligned either */
    bool exact;        /* products in fp32 on every path: what chooses (router, indexer) must not be rounded */
} Weight;

/* Whether products with W stay in fp32 on every compute path: floats always do. */
static inline bool weight_is_exact(const Weight *w) { return w->exact || w->dtype == DTYPE_F32; }

/* Columns [col, col + n) of one row, as float. */
void weight_read(const Weight *w, size_t row, size_t col, size_t n, float *out);

/* A view of floats we own (adapters, a trainable router) as a Weight. */
static inline Weight weight_of(const char *name, size_t rows, size_t cols, const float *data)
{
    return (Weight){.name = name, .dtype = DTYPE_F32, .rows = rows, .cols = cols, .data = data};
}

#endif
