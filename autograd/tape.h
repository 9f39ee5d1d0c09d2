/* The tape: operations record themselves on the way up, one call walks back.
 *
 *     tape_begin(&tape, &group, TAPE_RECORD);
 *     Tensor *x = tape_leaf(&tape, T, D, data, wants_gradient);
 *     Tensor *y = layer_forward(&tape, ...);            // no checks: the tape keeps the first error
 *     TRY(tape_error(&tape));
 *     memcpy(tape_seed(&tape, y), dy, ...);              // the gradient to start from
 *     TRY(tape_backward(&tape));                        // x->grad and the parameters' leaves are written
 *     tape_reset(&tape);                                // everything above is gone
 *
 * A tape is an object of one layer and one group. Where nothing asks for a gradient nothing is recorded.
 *
 * What always holds:
 *   1. After an error every operation returns &tape->dummy and does nothing.
 *   2. An operation is recorded only if an input wants a gradient or a parameter of it trains.
 *   3. When a node's backward runs, its output's gradient is complete, and every input that wants one has a
 *      gradient buffer; backward adds to it. Where nobody has added before, an operation that says so (Op.writes) finds
 *      it unwritten and writes all of it (tape_first), so that zeros need not be written and read.
 *   4. An operation in place (out is also an input) is walked like any other: the gradient is shared.
 *   5. Tapes that share a room are walked back one after another: between a tape's first seed and its reset no other of
 *      them begins or is reset. What a tape that does not stay holds is gone when the next one begins.
 *   6. On the way back a tensor goes, its gradient with it, once the operation that made it has been walked: all that used
 *      it came later. Leaves stay until the reset. */
#ifndef GRAFT_AUTOGRAD_TAPE_H
#define GRAFT_AUTOGRAD_TAPE_H

#include "autograd/group.h"
#include "autograd/param.h"
#include "base/pool.h"
#include "base/timing.h"

typedef struct Tape Tape;

typedef struct Tensor {
    size_t shape[2];
    float *data;         /* [shape[0]][shape[1]], dense */
    float *grad;         /* the same shape, or NULL: nothing has asked for it yet */
    bool requires_grad;  /* a gradient is wanted */
    bool grad_unwritten; /* grad has nothing in it yet: who is given it writes it all */
    bool owned;          /* data is the tape's */
} Tensor;

typedef struct Node Node;

typedef struct {
    const char *name;
    void (*backward)(Node *node);
    unsigned overwrites_grad; /* bit i: backward can write the gradient of input i instead of adding to it */
} Op;

struct Node {
    Node *previous;
    const Op *op;
    Tape *tape;
    Tensor *out;
    void *state; /* what the operation keeps for the way back, of tape_alloc */
    size_t n_in;
    Tensor *in[]; /* borrowed, NULL entries allowed */
};

typedef enum { TAPE_OFF, TAPE_RECORD } TapeMode;

enum { TAPE_SCRATCH = 32 }; /* blocks of scratch that an operation may have at once */

struct Tape {
    Pool own; /* of a tape that stays, or has no room */
    Pool *
        workspace; /* the caller's: what only the tape at work needs, so that one serves all tapes of a step. NULL: none */
    bool resident; /* results lie in `own`, until the way back: only scratch and gradients in the room */
    Pool
        notes; /* nodes and other small blocks, apart: a number's block that goes leaves a gap that the next one fits */
    bool counts;    /* the pools of numbers count: nothing is computed */
    size_t threads; /* that blocks are counted for; 0: those of this process */
    float *scratch[TAPE_SCRATCH];
    size_t n_scratch;
    const Group *group;
    TapeMode mode;
    bool recompute_experts; /* keep little: compute on the way back what can be computed again */
    bool recomputing;       /* run again for the way back alone: nobody looks at what the last operations return */
    bool guard;             /* check every result for numbers that are not finite */
    float dropout;          /* probability; 0 outside training */
    uint64_t dropout_key;   /* of this seed and step */
    Timing *timing;         /* who asks where time goes, or NULL */
    Node *last;
    Err *err;
    Tensor dummy;
    size_t n_nodes;
};

/* An empty (all zero) Tape is valid. Begin empties it and says which rows the coming operations work on. */
void tape_begin(Tape *tape, const Group *group, TapeMode mode);
void tape_reset(Tape *tape); /* empty; memory is kept */
void tape_free(Tape *tape);

/* A tensor around data of the caller. Owner of data: the caller. */
Tensor *tape_leaf(Tape *tape, size_t rows, size_t cols, float *data, bool requires_grad);

/* Hand over the first error, if any; the tape forgets it. */
MUST_USE Err *tape_error(Tape *tape);

/* The gradient of a tensor, made (as zeros) when there is none; NULL after an error. */
float *tape_seed(Tape *tape, Tensor *tensor);

/* Walk back from the last recorded operation to the first. */
MUST_USE Err *tape_backward(Tape *tape);

/* ---- for operations ------------------------------------------------------------------------------------------- */

/* False after an error, and where blocks are only counted: an operation asks before it reads or writes a number. */
static inline bool tape_computes(const Tape *tape) { return !tape->err && !tape->counts; }

/* T rows, or none where nothing is computed: for loops over them. */
static inline size_t tape_rows(const Tape *tape, size_t T) { return tape_computes(tape) ? T : 0; }

/* How many threads an operation has room for. */
size_t tape_threads(const Tape *tape);

/* A fresh tensor, and blocks that live until the reset; not zeroed. Never NULL where it matters: when memory has run
 * out the tape fails, and tape_expect tells the operation to give up. */
Tensor *tape_tensor(Tape *tape, size_t rows, size_t cols);
void *tape_alloc(Tape *tape, size_t bytes); /* may be written to where tape_computes is false, too */
float *tape_floats(Tape *tape, size_t n);

/* True once, when x->grad is to be written; else it is to be added to. Asked by a backward that says Op.writes, always. */
static inline bool tape_first(Tensor *x)
{
    bool first = x->grad_unwritten;
    x->grad_unwritten = false;
    return first;
}

/* n floats until the operation (forward or backward) returns; one that records nothing gives them back itself. */
float *tape_scratch(Tape *tape, size_t n);
void tape_scratch_reset(Tape *tape);

/* Note a failure unless condition holds; false when the tape has failed, now or earlier. */
bool tape_expect(Tape *tape, bool condition, const char *format, ...) PRINTF(3, 4);

/* Note a failure (ERR_NUMERIC, with the place) when a number of the tensor is not finite. For what a choice is made by:
 * a comparison would swallow the NaN. */
void tape_expect_finite(Tape *tape, const Tensor *tensor, const char *what);

/* True when the operation should be prepared for the way back. trains: one of its parameters trains. */
bool tape_requires_grad(const Tape *tape, bool trains, size_t n_in, Tensor *const *in);

/* Note the operation (if tape_requires_grad); returns out. */
Tensor *tape_record(Tape *tape, const Op *op, Tensor *out, void *state, bool trains, size_t n_in, Tensor *const *in);

#endif
