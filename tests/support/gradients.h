/* A trial: one operation on random inputs, through the tape in float and through its reference in double.
 *
 *     static Tensor *build(Tape *tape, const Trial *trial, Call *call) { return op_swiglu(tape, call->in[0]); }
 *     static void reference(const Trial *trial, void *const *in, void *out)
 *     {
 *         reference_swiglu(trial->group.T, trial->cols, out, in[0]);
 *     }
 *     static void make(Trial *trial, size_t i)
 *     {
 *         trial_init(trial, "3 1 | 5 | 2 2", build, reference, 7);   // lengths of documents | micro-batches
 *         trial_tensor(trial, "x", 14);
 *     }
 *     ...
 *     trials_check(make, 1, assert_forward);
 *     trials_check(make, 1, assert_gradients);
 *     trials_check(make, 1, assert_same_bits);
 *
 * Every tensor has the rows of the group. Owner: the trial, until trial_free. */
#ifndef GRAFT_TESTS_SUPPORT_GRADIENTS_H
#define GRAFT_TESTS_SUPPORT_GRADIENTS_H

#include "autograd/op.h"
#include "base/arena.h"
#include "tests/support/check.h"
#include "tests/support/reference.h"

enum { TRIAL_INPUTS = 40, TRIAL_DOCUMENTS = 64 };

/* One call of the operation, on some of the documents of the trial: the first is `doc`, its first row is `row`. */
typedef struct {
    size_t row, doc;
    Tensor *in[TRIAL_INPUTS]; /* NULL for a parameter */
    Param param[TRIAL_INPUTS];
} Call;

typedef struct Trial Trial;
typedef Tensor *TrialBuild(Tape *tape, const Trial *trial, Call *call);
typedef void TrialReference(const Trial *trial, void *const *in, void *out); /* doubles, [rows][cols] each */

struct Trial {
    Arena arena;
    Group group; /* the whole step */
    TrialBuild *build;
    TrialReference *reference;
    /* What the operation adds to the loss itself; NULL: nothing. */
    double (*loss)(const Trial *trial, void *const *in);
    bool only_loss; /* the result has no weight in the loss */
    size_t cols;    /* of the result */
    void *op;       /* what build and reference need */
    float dropout;
    size_t samples;                         /* elements of each input whose gradient is checked; 0: all */
    double forward_within, gradient_within; /* relative to the root mean square */
    size_t n_in;
    struct {
        char *name;
        size_t rows, cols;
        bool param;
        float *values;
    } in[TRIAL_INPUTS];
};

typedef void TrialMake(Trial *trial, size_t i);
typedef void TrialCheck(const Trial *trial);

/* documents: lengths of the group's documents, `|` between micro-batches. cols: of the result. Tolerances begin at 2e-6
 * and 1e-5: sums of tens of products, each off by 2^-24, and one or two cancellations. */
void trial_init(Trial *trial, const char *documents, TrialBuild *build, TrialReference *reference, size_t cols);
void trial_free(Trial *trial);
void *trial_alloc(Trial *trial, size_t bytes);
float *trial_normal(Trial *trial, const char *name, size_t n, double scale);
size_t trial_tensor(Trial *trial, const char *name, size_t cols); /* returns its number */
size_t trial_param(Trial *trial, const char *name, size_t rows, size_t cols);
Weight *trial_weight(Trial *trial, const char *name, DType dtype, size_t rows, size_t cols);

/* Documents and micro-batches, written as in trial_init. Owner: the trial. */
Group group_of(Trial *trial, const char *documents);

/* What one call gives: out [T][cols], grad[i] in the shape of input i. Owner: the arena. */
typedef struct {
    float *out, *grad[TRIAL_INPUTS];
} Outcome;
Outcome trial_run(const Trial *trial, Arena *arena);

/* The float result agrees with the reference. */
TrialCheck assert_forward;

/* Gradients of a randomly weighted sum of the result agree with central differences of the reference. */
TrialCheck assert_gradients;

/* The same bits with any number of threads, with micro-batches in any grouping of calls, with each document alone, and
 * with gradients required of any of the inputs. */
TrialCheck assert_same_bits;

void trials_check(TrialMake *make, size_t n, TrialCheck *check);

#endif
