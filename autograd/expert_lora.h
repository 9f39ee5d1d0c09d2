/* The gradient of an expert's LoRA modules, added up piece by piece. For op_experts.c only. */
#ifndef GRAFT_AUTOGRAD_EXPERT_LORA_H
#define GRAFT_AUTOGRAD_EXPERT_LORA_H

#include "autograd/expert_schedule.h"
#include "tensor/gemm.h"

/* The sum of one LoRA of expert e: it runs over micro-batches in order and continues from piece to piece. */
typedef struct {
    const Lora *lora; /* NULL: none */
    size_t e;
    size_t m;     /* the current micro-batch; 0 at the start */
    size_t begin; /* the first of its assignments to this expert; schedule->begin[e] at the start */
} ExpertLoraSum;

/* Rows of a piece: dy [n][O], x [n][D], u = x A' and du = s dy B [n][r], dense. */
typedef struct {
    Rows dy, x;
    const float *u, *du;
} ExpertLoraFactors;

/* dB_m = s dy' u and dA_m = du' x: add the rows of the next piece. A micro-batch that is complete goes to the
 * parameters' forests. An expert without assignments calls it once with a piece of none: its gradients are then written
 * as zeros. */
void expert_lora_add(ExpertLoraSum *sum, const ExpertSchedule *schedule, const Group *group, ExpertPiece p,
                     const ExpertLoraFactors *factors);

#endif
