/* Sorts assignments by expert (a counting sort, so tokens ascend within an expert) and divides the work of op_experts.
 *
 * What always holds: pieces of an expert differ by at most one row; a batch is a range of whole experts; the capacity
 * of the block and the rows of a piece depend on shapes and limits alone, so memory is known before any token is
 * routed. */
#include "autograd/expert_schedule.h"

#include "base/minmax.h"
#include "tensor/gemm.h"

#include <stdlib.h>
#include <string.h>

enum { PADDING = 16 }; /* rows that packing may add to those of a piece */

/* Smaller pieces would multiply more slowly, larger ones no faster; batches of fewer experts would leave threads
 * waiting at their ends. */
ExpertLimits expert_limits = {.piece_bytes = 32 << 20, .min_piece_rows = 256, .block_bytes = 64 << 20};

/* ---- checks ---------------------------------------------------------------------------------------------------- */

static bool lora_fits(Tape *tape, const Lora *lora, size_t inner, size_t width)
{
    if (!lora) return true;
    const Param *A = lora->A, *B = lora->B;
    return tape_expect(tape, A->cols == inner && B->cols == A->rows && lora->col + B->rows <= width,
                       "%s: A [%zu][%zu], B [%zu][%zu] at column %zu; x is %zu wide, y %zu", A->name, A->rows, A->cols,
                       B->rows, B->cols, lora->col, inner, width);
}

static bool expert_fits(Tape *tape, const Expert *expert, size_t T, size_t D, size_t F)
{
    const Weight *gate = expert->gate, *up = expert->up, *down = expert->down;
    bool fits = gate->rows == F && gate->cols == D && up->rows == F && up->cols == D && down->rows == D &&
                down->cols == F;
    return tape_expect(tape, fits, "experts: x is [%zu][%zu], gate [%zu][%zu], up [%zu][%zu], down [%zu][%zu]", T, D,
                       gate->rows, gate->cols, up->rows, up->cols, down->rows, down->cols) &&
           lora_fits(tape, expert->lora_gate_up, D, 2 * F) && lora_fits(tape, expert->lora_down, F, D);
}

static bool fits(Tape *tape, const Tensor *x, Route route, size_t E, const Expert *experts)
{
    size_t T = x->shape[0], D = x->shape[1], K = route.weights->shape[1];
    if (!tape_expect(tape, E > 0, "experts: there are none")) return false;
    if (!tape_expect(tape, T == tape->group->T && T == route.weights->shape[0],
                     "experts: %zu rows, %zu tokens, %zu rows of weights", T, tape->group->T, route.weights->shape[0]))
        return false;
    for (size_t e = 0; e < E; e++)
        if (!expert_fits(tape, &experts[e], T, D, experts[0].gate->rows)) return false;
    for (size_t i = 0; i < T * K && tape_computes(tape); i++)
        if (!tape_expect(tape, route.ids[i] >= 0 && (size_t)route.ids[i] < E, "experts: id %d of %zu", route.ids[i], E))
            return false;
    return true;
}

/* ---- the schedule ---------------------------------------------------------------------------------------------- */

static size_t max_r(size_t E, const Expert *experts)
{
    size_t max = 1;
    for (size_t e = 0; e < E; e++)
        max = size_max(max, size_max(lora_r(experts[e].lora_gate_up), lora_r(experts[e].lora_down)));
    return max;
}

static size_t max_piece_rows(const ExpertSchedule *s)
{
    size_t rows = expert_limits.piece_bytes / sizeof(float) / (s->D + 6 * s->F + 2 * s->max_r);
    return size_max(1, size_min(s->T, size_max(expert_limits.min_piece_rows, rows)));
}

/* One chunk of all experts, for experts that are always in memory. */
static const ExpertChunks *single_chunk(Tape *tape, size_t E)
{
    ExpertChunks *chunks = tape_alloc(tape, sizeof *chunks);
    size_t *begin = tape_alloc(tape, 2 * sizeof *begin);
    if (tape->err) return NULL;
    begin[0] = 0;
    begin[1] = E;
    *chunks = (ExpertChunks){.n = 1, .begin = begin};
    return chunks;
}

static void sort_assignments(ExpertSchedule *s)
{
    size_t *begin = s->begin;
    for (size_t e = 0; e <= s->E; e++) begin[e] = 0;
    for (size_t i = 0; i < s->N; i++) begin[s->ids[i] + 1]++;
    for (size_t e = 0; e < s->E; e++) begin[e + 1] += begin[e];
    for (size_t i = 0; i < s->N; i++) {
        size_t at = begin[s->ids[i]]++; /* moves to where the next expert begins */
        s->token[at] = (uint32_t)(i / s->K);
        s->choice[at] = (uint32_t)(i % s->K);
    }
    for (size_t e = s->E; e > 0; e--) begin[e] = begin[e - 1];
    begin[0] = 0;
}

bool expert_schedule_init(Tape *tape, ExpertSchedule *schedule, const Tensor *x, Route route, size_t E,
                          const Expert *experts, const ExpertChunks *chunks)
{
    if (!fits(tape, x, route, E, experts)) return false;
    size_t T = x->shape[0], K = route.weights->shape[1], N = T * K;
    size_t *begin = tape_alloc(tape, (E + 1) * sizeof *begin);
    uint32_t *token = tape_alloc(tape, N * sizeof *token), *choice = tape_alloc(tape, N * sizeof *choice);
    ExpertTurn *order = tape_alloc(tape, E * sizeof *order);
    if (!chunks) chunks = single_chunk(tape, E);
    if (tape->err) return false;
    *schedule = (ExpertSchedule){.E = E,
                                 .K = K,
                                 .D = x->shape[1],
                                 .F = experts[0].gate->rows,
                                 .T = T,
                                 .N = N,
                                 .max_r = max_r(E, experts),
                                 .experts = experts,
                                 .ids = route.ids,
                                 .chunks = chunks,
                                 .begin = begin,
                                 .token = token,
                                 .choice = choice,
                                 .order = order};
    schedule->max_piece_rows = max_piece_rows(schedule);
    if (tape_computes(tape)) sort_assignments(schedule);
    return true;
}

/* ---- packed rows ----------------------------------------------------------------------------------------------- */

size_t expert_packed_piece(const ExpertSchedule *schedule, size_t factors, size_t n_rows)
{
    return gemm_scratch(n_rows, schedule->F, schedule->max_r) + (factors - 1) * gemm_scratch(n_rows, schedule->F, 0);
}

static size_t packed_rows(const ExpertSchedule *schedule, size_t factors, size_t n)
{
    size_t sum = 0;
    for (size_t i = 0; i < pieces_of(schedule, n); i++)
        sum += expert_packed_piece(schedule, factors, piece_begin(schedule, n, i + 1) - piece_begin(schedule, n, i));
    return sum;
}

size_t expert_packed_size(const ExpertSchedule *schedule, size_t factors, size_t e)
{
    return packed_rows(schedule, factors, assignments_of(schedule, e));
}

size_t expert_block_capacity(const Tape *tape, const ExpertSchedule *schedule, size_t factors)
{
    size_t max_pieces = size_min(schedule->E, schedule->N) + pieces_of(schedule, schedule->N),
           all = expert_packed_piece(schedule, factors, schedule->N) +
                 max_pieces * expert_packed_piece(schedule, factors, PADDING),
           limit = tape_threads(tape) * (expert_limits.block_bytes / sizeof(float));
    return size_min(all, size_max(limit, packed_rows(schedule, factors, schedule->T)));
}

/* ---- batches and turns ----------------------------------------------------------------------------------------- */

size_t expert_batch_end(const ExpertSchedule *schedule, size_t factors, size_t capacity, size_t begin, size_t end)
{
    size_t e = begin;
    for (size_t at = 0; e < end && (at += expert_packed_size(schedule, factors, e)) <= capacity;) e++;
    ASSERT(e > begin || e == end, "the packed rows of expert %zu do not fit the block", e);
    return e;
}

size_t expert_batch_begin(const ExpertSchedule *schedule, size_t factors, size_t capacity, size_t begin, size_t end)
{
    size_t e = end;
    for (size_t at = 0; e > begin && (at += expert_packed_size(schedule, factors, e - 1)) <= capacity;) e--;
    ASSERT(e < end || e == begin, "the packed rows of expert %zu do not fit the block", e);
    return e;
}

static int by_assignments(const void *a, const void *b)
{
    const ExpertTurn *x = a, *y = b;
    if (x->n_assignments != y->n_assignments) return x->n_assignments < y->n_assignments ? 1 : -1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

void expert_batch_order(const ExpertSchedule *schedule, size_t begin, size_t end)
{
    for (size_t e = begin; e < end; e++)
        schedule->order[e] = (ExpertTurn){(uint32_t)e, (uint32_t)assignments_of(schedule, e)};
    qsort(schedule->order + begin, end - begin, sizeof *schedule->order, by_assignments);
}

size_t expert_turn_take(size_t *next)
{
    size_t turn;
#pragma omp atomic capture
    turn = (*next)++;
    return turn;
}

const Expert *expert_of_turn(const ExpertSchedule *schedule, size_t end, size_t turn)
{
    return turn < end && schedule->order[turn].n_assignments ? &schedule->experts[schedule->order[turn].expert] : NULL;
}

size_t expert_next_with_tokens(const ExpertSchedule *schedule, size_t e, size_t end)
{
    while (e < end && !assignments_of(schedule, e)) e++;
    return e;
}

size_t expert_end_with_tokens(const ExpertSchedule *schedule, size_t e, size_t begin)
{
    while (e > begin && !assignments_of(schedule, e - 1)) e--;
    return e;
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
