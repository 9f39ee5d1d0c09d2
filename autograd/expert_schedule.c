#include "autograd/expert_schedule.h"

#include "base/minmax.h"
#include "tensor/gemm.h"

#include <stdlib.h>

enum { PADDING = 16 }; /* rows that packing may add to a piece's */

/* Fewer rows would multiply slower, more no faster; laps of fewer experts would leave threads waiting at their ends. */
ExpertLimits expert_limits = {.piece_bytes = 32 << 20, .piece_rows = 256, .block_bytes = 64 << 20};

/* The largest r of any pair. */
static size_t rank_most(const ExpertSchedule *plan)
{
    size_t most = 1;
    for (size_t e = 0; e < plan->E; e++)
        most = size_max(most, size_max(rank_of(plan->experts[e].lora_gate_up), rank_of(plan->experts[e].lora_down)));
    return most;
}

/* One run of all, for those that are always there. */
static const ExpertChunks *all_at_once(Tape *tape, size_t E)
{
    ExpertChunks *chunks = tape_alloc(tape, sizeof *chunks);
    size_t *begin = tape_alloc(tape, 2 * sizeof *begin);
    if (tape->err) return NULL;
    begin[0] = 0;
    begin[1] = E;
    *chunks = (ExpertChunks){.n = 1, .begin = begin};
    return chunks;
}

/* Pairs expert after expert. */
static void sort_pairs(ExpertSchedule *plan)
{
    size_t *begin = plan->begin;
    for (size_t e = 0; e <= plan->E; e++) begin[e] = 0;
    for (size_t i = 0; i < plan->N; i++) begin[plan->ids[i] + 1]++;
    for (size_t e = 0; e < plan->E; e++) begin[e + 1] += begin[e];
    for (size_t i = 0; i < plan->N; i++) {
        size_t at = begin[plan->ids[i]]++; /* each moves to where the next one begins */
        plan->token[at] = (uint32_t)(i / plan->K);
        plan->choice[at] = (uint32_t)(i % plan->K);
    }
    for (size_t e = plan->E; e > 0; e--) begin[e] = begin[e - 1];
    begin[0] = 0;
}

ExpertSchedule *expert_schedule_new(Tape *tape, const int32_t *ids, size_t T, size_t K, size_t D, size_t E,
                                    const Expert *experts, const ExpertChunks *chunks)
{
    size_t N = T * K, F = experts[0].gate->rows;
    ExpertSchedule *plan = tape_alloc(tape, sizeof *plan);
    size_t *begin = tape_alloc(tape, (E + 1) * sizeof *begin);
    uint32_t *token = tape_alloc(tape, N * sizeof *token), *choice = tape_alloc(tape, N * sizeof *choice);
    ExpertTurn *order = tape_alloc(tape, E * sizeof *order);
    if (!chunks) chunks = all_at_once(tape, E);
    if (tape->err) return NULL;
    *plan = (ExpertSchedule){.E = E,
                             .K = K,
                             .D = D,
                             .F = F,
                             .T = T,
                             .N = N,
                             .experts = experts,
                             .ids = ids,
                             .chunks = chunks,
                             .begin = begin,
                             .token = token,
                             .choice = choice,
                             .order = order};
    plan->rank_most = rank_most(plan);
    plan->most = size_max(1, size_min(T, size_max(expert_limits.piece_rows, expert_limits.piece_bytes / sizeof(float) /
                                                                                (D + 6 * F + 2 * plan->rank_most))));
    if (tape_computes(tape)) sort_pairs(plan);
    return plan;
}

/* ---- packed rows ---------------------------------------------------------------------------------------------- */

size_t expert_packing_piece(const ExpertSchedule *plan, ExpertPacking packing, size_t n)
{
    return gemm_scratch(n, plan->F, packing.rank_most) + (packing.copies - 1) * gemm_scratch(n, plan->F, 0);
}

static size_t packed_rows(const ExpertSchedule *plan, ExpertPacking packing, size_t n)
{
    size_t sum = 0;
    for (size_t i = 0; i < pieces_of(plan, n); i++)
        sum += expert_packing_piece(plan, packing, piece_begin(plan, n, i + 1) - piece_begin(plan, n, i));
    return sum;
}

size_t expert_packing_expert(const ExpertSchedule *plan, ExpertPacking packing, size_t e)
{
    return packed_rows(plan, packing, assignments_of(plan, e));
}

size_t expert_packing_block(const Tape *tape, const ExpertSchedule *plan, ExpertPacking packing)
{
    size_t pieces = size_min(plan->E, plan->N) + pieces_of(plan, plan->N),
           all = expert_packing_piece(plan, packing, plan->N) + pieces * expert_packing_piece(plan, packing, PADDING);
    return size_min(all, size_max(tape_threads(tape) * (expert_limits.block_bytes / sizeof(float)),
                                  packed_rows(plan, packing, plan->T)));
}

/* ---- laps and turns ------------------------------------------------------------------------------------------- */

size_t expert_batch_end(const ExpertSchedule *plan, ExpertPacking packing, size_t room, size_t begin, size_t end)
{
    size_t e = begin;
    for (size_t at = 0; e < end && (at += expert_packing_expert(plan, packing, e)) <= room;) e++;
    ASSERT(e > begin || e == end, "the packed rows of expert %zu have no room", e);
    return e;
}

size_t expert_batch_begin(const ExpertSchedule *plan, ExpertPacking packing, size_t room, size_t begin, size_t end)
{
    size_t e = end;
    for (size_t at = 0; e > begin && (at += expert_packing_expert(plan, packing, e - 1)) <= room;) e--;
    ASSERT(e < end || e == begin, "the packed rows of expert %zu have no room", e);
    return e;
}

static int larger_first(const void *a, const void *b)
{
    const ExpertTurn *x = a, *y = b;
    if (x->n != y->n) return x->n < y->n ? 1 : -1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

void expert_batch_order(const ExpertSchedule *plan, size_t begin, size_t end)
{
    for (size_t e = begin; e < end; e++) plan->order[e] = (ExpertTurn){(uint32_t)e, (uint32_t)assignments_of(plan, e)};
    qsort(plan->order + begin, end - begin, sizeof *plan->order, larger_first);
}

bool expert_chunk_acquire(Tape *tape, const ExpertChunks *chunks, size_t i)
{
    if (chunks->acquire && !tape->err) tape->err = chunks->acquire(chunks->context, i);
    return !tape->err;
}

void expert_chunk_release(const ExpertChunks *chunks, size_t i)
{
    if (chunks->release) chunks->release(chunks->context, i);
}

size_t expert_next_with_tokens(const ExpertSchedule *plan, size_t e, size_t end)
{
    while (e < end && !assignments_of(plan, e)) e++;
    return e;
}
size_t expert_end_with_tokens(const ExpertSchedule *plan, size_t e, size_t begin)
{
    while (e > begin && !assignments_of(plan, e - 1)) e--;
    return e;
}

size_t take_turn(size_t *turn)
{
    size_t mine;
#pragma omp atomic capture
    mine = (*turn)++;
    return mine;
}

const Expert *expert_at(const ExpertSchedule *plan, size_t end, size_t i)
{
    return i < end && plan->order[i].n ? &plan->experts[plan->order[i].expert] : NULL;
}
