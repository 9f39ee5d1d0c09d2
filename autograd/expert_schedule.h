/* Which token goes to which expert: a pair is a token and one of its experts; pairs lie expert after expert, tokens ascending in
 * each. With it comes how experts are worked on:
 *   runs    experts that are borrowed together (op.h, ExpertChunks)
 *   laps    experts of a run whose packed rows fit a block of fixed size; each lap goes through both passes of op_experts
 *   turns   threads take experts of a run one after another, largest first
 *   pieces  rows of an expert that fit a thread's bench
 * No bit depends on any of them, and no memory on where tokens go. */
#ifndef GRAFT_AUTOGRAD_EXPERT_SCHEDULE_H
#define GRAFT_AUTOGRAD_EXPERT_SCHEDULE_H

#include "autograd/op.h"

typedef struct {
    uint32_t expert, n; /* n: its pairs */
} ExpertTurn;

typedef struct {
    size_t E, K, D, F, T, N;
    size_t most; /* rows of a piece */
    const Expert *experts;
    const int32_t *ids;
    const ExpertChunks *chunks;
    size_t *begin;     /* [E + 1] first pair of each expert */
    uint32_t *token;   /* [N] */
    uint32_t *choice;  /* [N] k, the position among its token's experts */
    ExpertTurn *order; /* [E] experts, largest first in each lap that is made */
    size_t rank_most;  /* of any pair */
    float *gate_up;    /* [N][2F] kept for the way back, or NULL: compute again */
    float *low;        /* [N][rank_most], a piece's rows dense: what B of gate|up has seen; with gate_up */
} ExpertSchedule;

/* Memory of a thread: its bench, but for so many rows at the least, and its share of the packed rows. Tests make them small. */
typedef struct {
    size_t piece_bytes, piece_rows, block_bytes;
} ExpertLimits;
extern ExpertLimits expert_limits;

/* The plan of ids [T][K], each in [0, E). runs NULL: one of all. Owner: the tape. Fails: through the tape; then NULL. */
ExpertSchedule *expert_schedule_new(Tape *tape, const int32_t *ids, size_t T, size_t K, size_t D, size_t E,
                                    const Expert *experts, const ExpertChunks *chunks);

/* Expert e's packed rows between the passes: n packings of F columns each, one with a pair. In floats. */
typedef struct {
    size_t copies;    /* 1 on the way up, 2 on the way back */
    size_t rank_most; /* of the pairs that ride along */
} ExpertPacking;

/* A piece of so many rows, and all pieces of an expert. */
size_t expert_packing_piece(const ExpertSchedule *plan, ExpertPacking packing, size_t n);
size_t expert_packing_expert(const ExpertSchedule *plan, ExpertPacking packing, size_t e);

/* The block of packed rows: for all pairs, or as much as serves; that of one expert with all tokens at the least. */
size_t expert_packing_block(const Tape *tape, const ExpertSchedule *plan, ExpertPacking packing);

/* Laps of the experts [begin, end): forward the end of the one that starts at `begin`, backward the start of the one that stops at
 * `end`. Their order is made: largest first. */
size_t expert_batch_end(const ExpertSchedule *plan, ExpertPacking packing, size_t room, size_t begin, size_t end);
size_t expert_batch_begin(const ExpertSchedule *plan, ExpertPacking packing, size_t room, size_t begin, size_t end);
void expert_batch_order(const ExpertSchedule *plan, size_t begin, size_t end);

/* Pieces of an expert's n rows, and where number i begins: number n_pieces begins at n. */
static inline size_t pieces_of(const ExpertSchedule *plan, size_t n) { return (n + plan->most - 1) / plan->most; }
static inline size_t piece_begin(const ExpertSchedule *plan, size_t n, size_t i)
{
    return n ? n * i / pieces_of(plan, n) : 0;
}

/* Have the experts of run i in memory; false after an error, which the tape keeps. */
bool expert_chunk_acquire(Tape *tape, const ExpertChunks *chunks, size_t i);
void expert_chunk_release(const ExpertChunks *chunks, size_t i);

static inline size_t rank_of(const Lora *lora) { return lora ? lora->A->rows : 0; }
static inline size_t assignments_of(const ExpertSchedule *plan, size_t e)
{
    return plan->begin[e + 1] - plan->begin[e];
}

/* The first expert with tokens in [e, end), or end; and one past the last of [begin, e), or begin. */
size_t expert_next_with_tokens(const ExpertSchedule *plan, size_t e, size_t end);
size_t expert_end_with_tokens(const ExpertSchedule *plan, size_t e, size_t begin);

/* The routing weight of a pair; w is [T][K]. */
static inline float weight_of_assignment(const ExpertSchedule *plan, const float *w, size_t pair)
{
    return w[plan->token[pair] * plan->K + plan->choice[pair]];
}

/* Experts of a lap on threads, largest first: the next place in the order. A thread takes its next one before it works on this
 * one, so that it knows what to fetch. */
size_t take_turn(size_t *turn);

/* The expert at a place of the order, NULL beyond the lap's end or where no token came. */
const Expert *expert_at(const ExpertSchedule *plan, size_t end, size_t i);

#endif
