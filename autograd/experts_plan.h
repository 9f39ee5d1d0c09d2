/* Which token goes to which expert: a pair is a token and one of its experts; pairs lie expert after expert, tokens ascending in
 * each. With it come the turns in which threads take experts, and the runs in which experts are borrowed (op.h, ExpertRuns). */
#ifndef GRAFT_AUTOGRAD_EXPERTS_PLAN_H
#define GRAFT_AUTOGRAD_EXPERTS_PLAN_H

#include "autograd/op.h"

typedef struct {
    size_t E, K, D, F, N, most; /* most: rows of the largest expert */
    const Expert *experts;
    const int32_t *ids;
    const ExpertRuns *runs;
    size_t *begin;    /* [E + 1] first pair of each expert */
    uint32_t *token;  /* [N] */
    uint32_t *slot;   /* [N] k, the position among its token's experts */
    uint32_t *order;  /* [E] experts of each run, largest first */
    size_t rank_most; /* of any pair */
    float *gate_up;   /* [N][2F] kept for the way back, or NULL: compute again */
    float *low;       /* [N][rank_most], an expert's rows dense: what B of gate|up has seen; with gate_up */
} ExpertsPlan;

/* The plan of ids [T][K], each in [0, E). runs NULL: one of all. Owner: the tape. Fails: through the tape; then NULL. */
ExpertsPlan *experts_plan(Tape *tape, const int32_t *ids, size_t T, size_t K, size_t D, size_t E, const Expert *experts, const ExpertRuns *runs);

/* Have the experts of run i in memory; false after an error, which the tape keeps. */
bool experts_borrow(Tape *tape, const ExpertRuns *runs, size_t i);
void experts_give_back(const ExpertRuns *runs, size_t i);

static inline size_t rank_of(const Lora *lora) { return lora ? lora->A->rows : 0; }
static inline size_t pairs_of(const ExpertsPlan *plan, size_t e) { return plan->begin[e + 1] - plan->begin[e]; }

/* The first expert with tokens in [e, end), or end; and one past the last of [begin, e), or begin. */
size_t busy_from(const ExpertsPlan *plan, size_t e, size_t end);
size_t busy_below(const ExpertsPlan *plan, size_t e, size_t begin);

/* The routing weight of a pair; w is [T][K]. */
static inline float weight_of_pair(const ExpertsPlan *plan, const float *w, size_t pair) { return w[plan->token[pair] * plan->K + plan->slot[pair]]; }

/* Experts of a run on threads, largest first: the next place in the order. A thread takes its next one before it works on this
 * one, so that it knows what to fetch. */
size_t take_turn(size_t *turn);

/* The expert at a place of the order, NULL beyond the run or where no token came. */
const Expert *expert_at(const ExpertsPlan *plan, size_t run, size_t i);

#endif
