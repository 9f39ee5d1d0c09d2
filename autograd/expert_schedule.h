/* The work of op_experts: token-expert assignments in order of experts, and how it is divided.
 *
 * An assignment is a token and one of its experts. Assignments are sorted by expert, and by token within an expert.
 *   expert chunk   consecutive experts that are acquired and released together (op.h, ExpertChunks)
 *   expert batch   consecutive experts of a chunk whose packed rows fit a block of fixed size; one batch at a time goes
 *                  through both steps of op_experts
 *   turn           threads take the experts of a batch one after another, those with most assignments first
 *   piece          assignments of an expert that fit a thread's workspace
 * No bit depends on this division, and the memory does not depend on which experts the tokens choose. */
#ifndef GRAFT_AUTOGRAD_EXPERT_SCHEDULE_H
#define GRAFT_AUTOGRAD_EXPERT_SCHEDULE_H

#include "autograd/op.h"

typedef struct {
    uint32_t expert, n_assignments;
} ExpertTurn;

typedef struct {
    size_t E, K, D, F, T, N;
    size_t max_r; /* the largest r of the experts' LoRA modules, at least 1 */
    size_t max_piece_rows;
    const Expert *experts; /* [E] */
    const int32_t *ids;    /* [T][K] */
    const ExpertChunks *chunks;
    size_t *begin;     /* [E + 1] first assignment of each expert */
    uint32_t *token;   /* [N] */
    uint32_t *choice;  /* [N] k: the expert is ids[token][k] */
    ExpertTurn *order; /* [E] the experts of each batch, most assignments first; written when the batch begins */
} ExpertSchedule;

/* Memory of a thread: bytes of its workspace, but at least min_piece_rows rows; bytes of its share of the packed rows.
 * Tests make them small. */
typedef struct {
    size_t piece_bytes, min_piece_rows, block_bytes;
} ExpertLimits;
extern ExpertLimits expert_limits;

/* Check the shapes of x [T][D], of the route and of the experts, and sort the assignments. chunks NULL: one of all
 * experts. Returns false after an error.
 * Fails: through the tape.
 * Owner: of the arrays: the tape; of experts and chunks: the caller. */
bool expert_schedule_init(Tape *tape, ExpertSchedule *schedule, const Tensor *x, Route route, size_t E,
                          const Expert *experts, const ExpertChunks *chunks);

static inline size_t assignments_of(const ExpertSchedule *schedule, size_t e)
{
    return schedule->begin[e + 1] - schedule->begin[e];
}

/* The routing weight of an assignment; w is [T][K]. */
static inline float weight_of_assignment(const ExpertSchedule *schedule, const float *w, size_t assignment)
{
    return w[schedule->token[assignment] * schedule->K + schedule->choice[assignment]];
}

/* ---- pieces ---------------------------------------------------------------------------------------------------- */

/* The assignments [begin, begin + n), of one expert. */
typedef struct {
    size_t begin, n;
} ExpertPiece;

/* Number of pieces of n assignments, and where piece i begins, i <= pieces_of. */
static inline size_t pieces_of(const ExpertSchedule *schedule, size_t n)
{
    return (n + schedule->max_piece_rows - 1) / schedule->max_piece_rows;
}
static inline size_t piece_begin(const ExpertSchedule *schedule, size_t n, size_t i)
{
    return n ? n * i / pieces_of(schedule, n) : 0;
}

static inline ExpertPiece expert_piece(const ExpertSchedule *schedule, size_t e, size_t i)
{
    size_t n = assignments_of(schedule, e), begin = piece_begin(schedule, n, i);
    return (ExpertPiece){schedule->begin[e] + begin, piece_begin(schedule, n, i + 1) - begin};
}

/* ---- packed rows ----------------------------------------------------------------------------------------------- */

/* What the first step of op_experts packs for the products of the second: `factors` matrices of F columns, the first
 * with the u or du of a LoRA. All sizes are in floats. */
enum { FORWARD_FACTORS = 1, BACKWARD_FACTORS = 2 }; /* a; dg and du */
size_t expert_packed_piece(const ExpertSchedule *schedule, size_t factors, size_t n_rows);
size_t expert_packed_size(const ExpertSchedule *schedule, size_t factors, size_t e); /* all pieces of expert e */

/* Capacity of the block that holds the packed rows of a batch: for all assignments, or as much as limits allow, but at
 * least for one expert with all tokens. */
size_t expert_block_capacity(const Tape *tape, const ExpertSchedule *schedule, size_t factors);

/* ---- batches and turns ----------------------------------------------------------------------------------------- */

/* Expert batches inside [begin, end): the end of the one that starts at `begin` (forward), and the begin of the one
 * that ends at `end` (backward). */
size_t expert_batch_end(const ExpertSchedule *schedule, size_t factors, size_t capacity, size_t begin, size_t end);
size_t expert_batch_begin(const ExpertSchedule *schedule, size_t factors, size_t capacity, size_t begin, size_t end);

/* Sort the experts [begin, end) of a batch by their assignments, most first. */
void expert_batch_order(const ExpertSchedule *schedule, size_t begin, size_t end);

/* The next turn of a batch. A thread takes its next turn before it works on the current one, so that it knows which
 * weights to prefetch. */
size_t expert_turn_take(size_t *next);

/* The expert of a turn; NULL beyond the batch's end, and if the expert has no assignments. */
const Expert *expert_of_turn(const ExpertSchedule *schedule, size_t end, size_t turn);

/* The first expert with assignments in [e, end), or end; and one past the last of [begin, e), or begin. */
size_t expert_next_with_tokens(const ExpertSchedule *schedule, size_t e, size_t end);
size_t expert_end_with_tokens(const ExpertSchedule *schedule, size_t e, size_t begin);

/* Acquire chunk i; false after an error, which the tape keeps. */
bool expert_chunk_acquire(Tape *tape, const ExpertChunks *chunks, size_t i);
void expert_chunk_release(const ExpertChunks *chunks, size_t i);

#endif
