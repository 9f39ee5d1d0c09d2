/* The tape: operations record themselves in the forward pass; one call runs the backward pass.
 *
 *     tape_begin(&tape, &group, TAPE_RECORD);
 *     Tensor *x = tape_leaf(&tape, T, D, data, requires_grad);
 *     Tensor *y = layer_forward(&tape, ...);            // no checks: the tape keeps the first error
 *     TRY(tape_error(&tape));
 *     memcpy(tape_seed(&tape, y), dy, ...);              // the gradient to start from
 *     TRY(tape_backward(&tape));                        // x->grad and the parameters' leaves are written
 *     tape_reset(&tape);                                // everything above is gone
 *
 * A tape holds one layer and one group at a time. Where nothing requires a gradient, nothing is recorded.
 *
 * What always holds:
 *   1. After an error every operation returns &tape->dummy and does nothing.
 *   2. An operation is recorded only if an input requires a gradient or one of its parameters is trained.
 *   3. When a node's backward function runs, the gradient of its output is complete, and every input that requires a
 *      gradient has a gradient buffer. Gradients accumulate: backward adds to the buffer. If an operation has declared
 *      that it can write the gradient of an input (Op.overwrites_grad) and nothing has been added yet, the buffer is
 *      unwritten, and backward writes all of it (tape_first_write). This saves clearing the buffer.
 *   4. An operation that works in place (out is also an input) needs no special case: both share one gradient.
 *   5. Tapes that share a workspace run backward one after another: between the first tape_seed of one tape and its
 *   reset,
 *      no other tape begins or is reset. Results of a tape that is not resident are lost when the next tape begins.
 *   6. In the backward pass a tensor and its gradient are freed as soon as the operation that made it is done: every
 *   use
 *      of the tensor was recorded later and has been handled. Leaves stay until the reset. */
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
    float *grad;         /* the same shape; NULL until it is first needed */
    bool requires_grad;  /* backward computes its gradient */
    bool grad_unwritten; /* grad holds nothing yet: the next operation writes all of it */
    bool owned;          /* data belongs to the tape */
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
    const void *state; /* saved for backward, from tape_alloc */
    size_t n_in;
    Tensor *in[]; /* borrowed, NULL entries allowed */
};

typedef enum { TAPE_OFF, TAPE_RECORD } TapeMode;

enum { TAPE_SCRATCH = 32 }; /* blocks of scratch that an operation may hold at once */

struct Tape {
    Pool own_pool;   /* results of a resident tape; of a tape without a workspace everything */
    Pool *workspace; /* the caller's, or NULL: what only the running tape needs; all tapes of a step share it */
    Pool node_pool;  /* nodes and other small blocks: apart, so that freed floats leave gaps of useful sizes */
    bool resident;   /* results lie in own_pool until backward; only scratch and gradients lie in the workspace */
    bool count_only; /* the pools of floats only count bytes: nothing is computed */
    size_t threads;  /* number of threads that scratch is counted for; 0: the threads of this process */
    float *scratch[TAPE_SCRATCH];
    size_t n_scratch;
    const Group *group;
    TapeMode mode;
    bool recompute_experts; /* save little: backward recomputes the experts' activations */
    bool recomputing;       /* this forward pass only serves backward: nobody reads what the last operations return */
    bool guard;             /* check that every result is finite */
    float dropout;          /* probability; 0 outside training */
    uint64_t dropout_key;   /* of this seed and step */
    Timing *timing;         /* times operations, or NULL */
    Node *last;
    Err *err;
    Tensor dummy;
    size_t n_nodes;
};

/* An all-zero Tape is valid. tape_begin empties it and sets the rows that the next operations work on. */
void tape_begin(Tape *tape, const Group *group, TapeMode mode);
void tape_reset(Tape *tape); /* empties it; memory is kept */
void tape_free(Tape *tape);

/* A tensor around data of the caller.
 * Owner of data: the caller. */
Tensor *tape_leaf(Tape *tape, size_t rows, size_t cols, float *data, bool requires_grad);

/* Returns the first error, or NULL, and clears it. */
MUST_USE Err *tape_error(Tape *tape);

/* The gradient of a tensor, allocated as zeros if there is none; NULL after an error. */
float *tape_seed(Tape *tape, Tensor *tensor);

/* The backward pass: calls backward of every recorded operation, from the last to the first. */
MUST_USE Err *tape_backward(Tape *tape);

/* ---- for operations -------------------------------------------------------------------------------------------- */

/* False after an error, and if memory is only counted. An operation checks this before it reads or writes floats. */
static inline bool tape_computes(const Tape *tape) { return !tape->err && !tape->count_only; }

/* T rows, or 0 if nothing is computed: the limit of loops over rows. */
static inline size_t tape_rows(const Tape *tape, size_t T) { return tape_computes(tape) ? T : 0; }

/* Number of threads to allocate scratch for. */
size_t tape_threads(const Tape *tape);

/* A new tensor, and blocks that live until the reset; not zeroed. NULL or the dummy when memory has run out: the tape
 * then keeps the error, and the operation stops at its next tape_expect or check of tape->err. */
Tensor *tape_tensor(Tape *tape, size_t rows, size_t cols);
void *tape_alloc(Tape *tape, size_t bytes); /* may be written to even if the tape only counts */
float *tape_floats(Tape *tape, size_t n);

/* True at the first write to x->grad, which must store; later writes add. A backward function with Op.overwrites_grad
 * always calls it. */
static inline bool tape_first_write(Tensor *x)
{
    bool first = x->grad_unwritten;
    x->grad_unwritten = false;
    return first;
}

/* n floats until the operation (forward or backward) returns. An operation that does not call tape_record frees its
 * scratch itself, with tape_scratch_reset. */
float *tape_scratch(Tape *tape, size_t n);
void tape_scratch_reset(Tape *tape);

/* Record an error unless condition holds; false if the tape has failed, now or earlier. */
bool tape_expect(Tape *tape, bool condition, const char *format, ...) PRINTF(3, 4);

/* Record an error (ERR_NUMERIC, with row and column) if a value of the tensor is not finite. For scores that a choice
 * is made by: a comparison would ignore a NaN. */
void tape_expect_finite(Tape *tape, const Tensor *tensor, const char *what);

/* True if the operation must save what backward needs. trains: one of its parameters is trained. */
bool tape_requires_grad(const Tape *tape, bool trains, size_t n_in, Tensor *const *in);

/* Record the operation if tape_requires_grad; returns out. */
Tensor *tape_record(Tape *tape, const Op *op, Tensor *out, const void *state, bool trains, size_t n_in,
                    Tensor *const *in);

#endif
