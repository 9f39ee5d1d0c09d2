#include "autograd/experts_plan.h"

#include <stdlib.h>

typedef struct {
    uint32_t expert, n;
} Load;

static int larger_first(const void *a, const void *b)
{
    const Load *x = a, *y = b;
    if (x->n != y->n) return x->n < y->n ? 1 : -1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

/* The largest r of any pair. */
static size_t rank_most(const ExpertsPlan *plan)
{
    size_t most = 1;
    for (size_t e = 0; e < plan->E; e++) {
        if (rank_of(plan->experts[e].in) > most) most = rank_of(plan->experts[e].in);
        if (rank_of(plan->experts[e].out) > most) most = rank_of(plan->experts[e].out);
    }
    return most;
}

/* One run of all, for those that are always there. */
static const ExpertRuns *all_at_once(Tape *tape, size_t E)
{
    ExpertRuns *runs = tape_alloc(tape, sizeof *runs);
    size_t *begin = tape_alloc(tape, 2 * sizeof *begin);
    if (tape->err) return NULL;
    begin[0] = 0;
    begin[1] = E;
    *runs = (ExpertRuns){.n = 1, .begin = begin};
    return runs;
}

ExpertsPlan *experts_plan(Tape *tape, const int32_t *ids, size_t T, size_t K, size_t D, size_t E, const Expert *experts, const ExpertRuns *runs)
{
    size_t N = T * K;
    ExpertsPlan *plan = tape_alloc(tape, sizeof *plan);
    size_t *begin = tape_alloc(tape, (E + 1) * sizeof *begin);
    uint32_t *token = tape_alloc(tape, N * sizeof *token), *slot = tape_alloc(tape, N * sizeof *slot);
    uint32_t *order = tape_alloc(tape, E * sizeof *order);
    Load *loads = (Load *)(void *)tape_scratch(tape, 2 * E);
    if (!runs) runs = all_at_once(tape, E);
    if (tape->err) return NULL;
    *plan = (ExpertsPlan){.E = E, .K = K, .D = D, .F = experts[0].gate->rows, .N = N, .experts = experts, .ids = ids, .runs = runs, .begin = begin, .token = token, .slot = slot, .order = order};
    for (size_t e = 0; e < E; e++) loads[e] = (Load){(uint32_t)e, 0};
    for (size_t i = 0; i < N; i++) loads[ids[i]].n++;
    begin[0] = 0;
    for (size_t e = 0; e < E; e++) {
        begin[e + 1] = begin[e] + loads[e].n;
        if (loads[e].n > plan->most) plan->most = loads[e].n;
        loads[e].n = 0;
    }
    for (size_t i = 0; i < N; i++) {
        size_t at = begin[ids[i]] + loads[ids[i]].n++;
        token[at] = (uint32_t)(i / K);
        slot[at] = (uint32_t)(i % K);
    }
    plan->rank_most = rank_most(plan);
    for (size_t i = 0; i < runs->n; i++) qsort(loads + runs->begin[i], runs->begin[i + 1] - runs->begin[i], sizeof *loads, larger_first);
    for (size_t e = 0; e < E; e++) order[e] = loads[e].expert;
    return plan;
}

bool experts_borrow(Tape *tape, const ExpertRuns *runs, size_t i)
{
    if (runs->acquire && !tape->err) tape->err = runs->acquire(runs->context, i);
    return !tape->err;
}

void experts_give_back(const ExpertRuns *runs, size_t i)
{
    if (runs->release) runs->release(runs->context, i);
}

size_t busy_from(const ExpertsPlan *plan, size_t e, size_t end)
{
    while (e < end && !pairs_of(plan, e)) e++;
    return e;
}
size_t busy_below(const ExpertsPlan *plan, size_t e, size_t begin)
{
    while (e > begin && !pairs_of(plan, e - 1)) e--;
    return e;
}

size_t take_turn(size_t *turn)
{
    size_t mine;
#pragma omp atomic capture
    mine = (*turn)++;
    return mine;
}

const Expert *expert_at(const ExpertsPlan *plan, size_t run, size_t i)
{
    if (i >= plan->runs->begin[run + 1] || !pairs_of(plan, plan->order[i])) return NULL;
    return &plan->experts[plan->order[i]];
}
