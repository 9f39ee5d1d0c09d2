/* What differs from CPU to CPU: one table of functions for each instruction set (avx512, avx2, plain).
 *
 * Files kernel_*.c are compiled once for each instruction set, with KERNEL its name, and fill the tables. Those that
 * multiply words are compiled once more for bf16. dispatch_init chooses a table; all others call through `kernels`. */
#ifndef GRAFT_TENSOR_KERNEL_H
#define GRAFT_TENSOR_KERNEL_H

#include "tensor/kernel_gemm.h"
#include "tensor/kernel_index.h"

typedef struct BlockKernels BlockKernels;   /* block.h */
typedef struct LatentKernels LatentKernels; /* latent.h */

typedef struct {
    const char *name;
    const GemmKernels *gemm;
    const BlockKernels *block;
    const IndexKernels *index;
    const LatentKernels *latent;

    /* Functions along a row of n floats (kernel_row_ops.c); rows.h says what they compute. */
    float (*dot)(size_t n, const float *a, const float *b);
    float (*sum)(size_t n, const float *x);
    float (*max)(size_t n, const float *x);
    void (*axpy)(size_t n, float *y, float a, const float *x);
    void (*scale)(size_t n, float *y, float a, const float *x);
    float (*exp)(size_t n, float *y, const float *x, float shift); /* y = exp(x - shift); its sum; y may be NULL */
    void (*sigmoid)(size_t n, float *y, const float *x);
    GemmNarrow *narrow;
    GemmTn *gemm_tn;
    void (*swiglu)(size_t n, float *a, const float *g, const float *u);
    void (*swiglu_backward)(size_t n, float *dg, float *du, const float *g, const float *u, const float *da);
} Kernels;

extern const BlockKernels block_kernels_avx512, block_kernels_avx2, block_kernels_plain, block_kernels_bf16;
extern const LatentKernels latent_kernels_avx512, latent_kernels_avx2, latent_kernels_plain, latent_kernels_bf16;
extern const Kernels kernels_avx512, kernels_avx2, kernels_plain;

/* Of the path, set by dispatch_init. */
extern const Kernels *kernels;          /* before that, the plain ones */
extern const GemmKernels *bf16_kernels; /* for frozen weights that need not be exact; NULL: fp32 for all weights */

#endif
