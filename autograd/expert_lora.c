/* Sums over the rows of an expert that belong to one micro-batch:
 *     dB_m = s dy' u,   dA_m = du' x        dB [O][r], dA [r][D]
 * A piece may end inside a micro-batch, and a micro-batch may have rows in several pieces. gemm_tn adds rows one after
 * another and multiplies by s with the last of them, so the bits do not depend on where pieces begin.
 * Source: docs/glm5.md, section 12; Hu et al. 2021, section 4.1 (arXiv:2106.09685). */
#include "autograd/expert_lora.h"

#include "base/minmax.h"

void expert_lora_add(ExpertLoraSum *sum, const ExpertSchedule *schedule, const Group *group, ExpertPiece p,
                     const ExpertLoraFactors *factors)
{
    const Lora *lora = sum->lora;
    if (!lora_trains(lora)) return;
    const uint32_t *token = schedule->token;
    size_t r = lora_r(lora), piece_end = p.begin + p.n, expert_end = schedule->begin[sum->e + 1];
    for (; sum->m < group->n_micro_batches; sum->m++) {
        Span span = group_span(group, sum->m);
        size_t begin = size_max(sum->begin, p.begin), end = begin;
        while (end < expert_end && token[end] < span.begin + span.n) end++;
        bool add = sum->begin < p.begin, complete = end <= piece_end;
        end = size_min(end, piece_end);
        size_t T = end - begin, i = begin - p.begin;
        if (T == 0 && !complete) return;
        gemm_tn(T, lora->B->rows, r, param_leaf(lora->B, span.number), add, complete ? lora->scale : 1,
                rows_from(factors->dy, i), rows_from(rows_of(factors->u, r), i));
        gemm_tn(T, r, lora->A->cols, param_leaf(lora->A, span.number), add, 1, rows_from(rows_of(factors->du, r), i),
                rows_from(factors->x, i));
        if (!complete) return;
        param_merge(lora->B, span.number);
        param_merge(lora->A, span.number);
        sum->begin = end;
    }
}
