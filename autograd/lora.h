/* What operations with LoRA pairs share. For op_*.c only. */
#ifndef GRAFT_AUTOGRAD_LORA_H
#define GRAFT_AUTOGRAD_LORA_H

#include "autograd/op.h"
#include "base/minmax.h"
#include "tensor/gemm.h"

/* What a pair adds to `width` columns of y from `col` on: s u B', for gemm_nt. u [T][r]; it may be NULL once x is packed. */
static inline GemmLora lora_outer(const Lora *lora, size_t col, size_t width, const float *u)
{
    if (!lora) return (GemmLora){0};
    size_t r = lora->A->rows, from = size_max(col, lora->col), to = size_min(col + width, lora->col + lora->B->rows);
    if (from >= to)
        return (GemmLora){.r = r, .M = lora->B->data, .u = rows_of(u, r), .s = lora->scale}; /* none of them */
    return (GemmLora){r, lora->B->data + (from - lora->col) * r, from - col, to - from, rows_of(u, r), lora->scale};
}

/* What it adds to the gradient of x: du A, for gemm_nn. */
static inline GemmLora lora_inner(const Lora *lora, const float *du)
{
    return lora ? (GemmLora){.r = lora->A->rows, .M = lora->A->data, .u = rows_of(du, lora->A->rows), .s = 1}
                : (GemmLora){0};
}

/* Does dropout act on the pair's input? */
bool lora_drops(const Tape *tape, const Lora *lora);

/* drop(x): x itself, or a copy in scratch; NULL after an error. */
float *lora_dropped(Tape *tape, const Lora *lora, const Tensor *x);

/* u = drop(x) A', [T][r]; belongs to the tape. */
float *lora_down(Tape *tape, const Lora *lora, const Tensor *x);

/* du = s dy B in scratch, dB_m = s dy' u. dy [T][O] starts at the pair's first column. */
float *lora_up_backward(Tape *tape, const Lora *lora, const float *dy, size_t O, const float *u);

/* dA_m = du' drop(x). */
void lora_sum_A(Tape *tape, const Lora *lora, const Tensor *x, const float *du);

/* dx += drop'(du A), where dropout acts or nothing else adds to dx. */
void lora_down_backward(Tape *tape, const Lora *lora, Tensor *x, const float *du);

#endif
