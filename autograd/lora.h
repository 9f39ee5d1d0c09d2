/* What operations with LoRA share. For op_*.c only. */
#ifndef GRAFT_AUTOGRAD_LORA_H
#define GRAFT_AUTOGRAD_LORA_H

#include "autograd/op.h"
#include "base/minmax.h"
#include "tensor/gemm.h"

/* The term s u B' of the columns [col, col + width) of y, for gemm_nt. u [T][r]; it may be NULL once x is packed. */
static inline GemmLora lora_term_B(const Lora *lora, size_t col, size_t width, const float *u)
{
    if (!lora) return (GemmLora){0};
    size_t r = lora->A->rows, from = size_max(col, lora->col), to = size_min(col + width, lora->col + lora->B->rows);
    if (from >= to) return (GemmLora){.r = r, .M = lora->B->data, .u = rows_of(u, r), .s = lora->scale}; /* no column */
    return (GemmLora){r, lora->B->data + (from - lora->col) * r, from - col, to - from, rows_of(u, r), lora->scale};
}

/* The term du A of the gradient of x, for gemm_nn. du [T][r]. */
static inline GemmLora lora_term_A(const Lora *lora, const float *du)
{
    return lora ? (GemmLora){.r = lora->A->rows, .M = lora->A->data, .u = rows_of(du, lora->A->rows), .s = 1}
                : (GemmLora){0};
}

/* Does dropout act on the input of this LoRA? */
bool lora_has_dropout(const Tape *tape, const Lora *lora);

/* drop(x) [T][D]: x itself, or a copy in scratch; NULL after an error. */
float *lora_dropout(Tape *tape, const Lora *lora, const Tensor *x);

/* u = drop(x) A', [T][r]. Owner: the tape. */
float *lora_A_forward(Tape *tape, const Lora *lora, const Tensor *x);

/* du = s dy B in scratch, and dB_m = s dy' u for every micro-batch m. dy [T][O] starts at the LoRA's first column. */
float *lora_B_backward(Tape *tape, const Lora *lora, const float *dy, size_t O, const float *u);

/* dA_m = du' drop(x) for every micro-batch m. */
void lora_A_backward(Tape *tape, const Lora *lora, const Tensor *x, const float *du);

/* dx += drop'(du A), for a LoRA whose term does not go with a frozen product: with dropout, or on its own. */
void lora_A_backward_input(Tape *tape, const Lora *lora, Tensor *x, const float *du);

#endif
