/* A parameter on the tape: one tensor for each micro-batch. Its gradient becomes the leaf of that micro-batch in the
 * parameter's forest once every operation that uses the tensor has added to it.
 * The nodes are recorded from the last micro-batch to the first: the backward pass starts at the last node, so leaves
 * come in order of micro-batches, as param_leaf requires. */
#include "autograd/op.h"

#include <string.h>

typedef struct {
    const Param *param;
    size_t number; /* of the micro-batch in its step */
} ParamState;

static void param_backward(Node *node)
{
    const ParamState *state = node->state;
    if (!tape_computes(node->tape)) return;
    memcpy(param_leaf(state->param, state->number), node->out->grad, param_count(state->param) * sizeof(float));
    param_merge(state->param, state->number);
}

static const Op param_op = {.name = "param", .backward = param_backward};

Tensor *const *op_param(Tape *tape, const Param *param)
{
    size_t n = tape->group->n_micro_batches;
    Tensor **of = tape_alloc(tape, (n + 1) * sizeof *of);
    ParamState *state = tape_alloc(tape, (n + 1) * sizeof *state);
    for (size_t m = n; m-- > 0 && !tape->err;) {
        state[m] = (ParamState){param, group_span(tape->group, m).number};
        of[m] = tape_record(tape, &param_op, tape_leaf(tape, param->rows, param->cols, param->data, false), state + m,
                            param_trains(param), 0, (Tensor *[]){NULL});
    }
    return of;
}
