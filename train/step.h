/* One optimizer step, layers outermost:
 *
 *     forward    for every layer:  x[l+1] = layer(l, x[l]), group by group; tapes off, but for kept ones of topmost
 *                layers
 *     head       the loss of the tokens in the loss, and its gradient on x[L]
 *     backward   for every layer:  recompute it with the tape on (or use the kept tape) and go backward, group by
 *                group; then add the layer's gradients over micro-batches and ranks, each rank its slice
 *     update     clip by the global norm, AdamW on the own slices, share the new values
 *
 * Bits never depend on ranks, threads, groups, or on kept tapes. See docs/design.md. */
#ifndef GRAFT_TRAIN_STEP_H
#define GRAFT_TRAIN_STEP_H

#include "model/model.h"
#include "train/batch.h"
#include "train/layer_inputs.h"
#include "train/grad_shards.h"
#include "train/routing_counts.h"

typedef struct {
    AdamW adamw;
    double max_grad_norm;         /* 0: no clipping */
    const BalanceValues *balance; /* [n_layers] coefficients; NULL: no balance loss. Borrowed for the step's life */
    double lora_dropout;
    uint64_t seed;
    size_t keep_layers;     /* tapes of this many topmost layers are kept from the forward pass */
    bool recompute_experts; /* experts recompute gate and up in the backward pass: K T 2F floats less on each tape */
    bool guard;
    const volatile int *stop; /* set from outside: leave between two layers. NULL: never */
    const char *scratch_dir;  /* layer inputs go to a file there; NULL: memory. Borrowed */
    Timing *timing;           /* borrowed, or NULL */
} StepConfig;

/* An observer, called for a group's rows of "hidden", "grad.hidden", "router.logits", "router.weights"
 * (floats) and "router.experts" (int32) of layer l. */
typedef struct {
    void *context;
    void (*see)(void *context, const char *what, size_t l, size_t row, size_t rows, size_t cols, const void *data);
} StepProbe;

typedef struct {
    double loss; /* mean nll of the step's tokens in the loss */
    BalanceValues balance;
    double grad_norm;
    size_t tokens, n_loss_tokens;
} StepResult;

typedef struct Step Step;

/* model and adapter are borrowed for the step's life; the step owns moments and buffers. */
MUST_USE Err *step_new(Step **step, Dp *dp, Model *model, Adapter *adapter, const StepConfig *config);
void step_free(Step *step);

/* The forward pass of a batch, the losses, and the gradient of the last hidden state. number keys the dropout. The
 * batch is borrowed until step_backward returns. probe NULL: nobody observes.
 * Collective: an error on one rank is not agreed upon here, others may be waiting for it; the caller reports it and
 * leaves with dp_close(dp, code).
 * Fails: ERR_STOPPED on all ranks, after the same layer, when somebody's `stop` was set: nothing has changed. */
MUST_USE Err *step_forward(Step *step, const Batch *batch, uint64_t number, const StepProbe *probe, StepResult *result);

/* The backward pass of the same batch: gradients, reduced over ranks, and their norm. Collective and fails as above. */
MUST_USE Err *step_backward(Step *step, StepResult *result);

/* Both, one after the other; no update. */
MUST_USE Err *step_gradients(Step *step, const Batch *batch, uint64_t number, const StepProbe *probe,
                             StepResult *result);

/* Clip and update; t counts updates from 1. Collective.
 * Fails: ERR_NUMERIC when loss or gradient norm is not finite: nothing has changed then, on any rank. */
MUST_USE Err *step_update(Step *step, uint64_t t, const StepRates *rates, StepResult *result);

/* From here on, look for numbers that are not finite after every operation, both ways. */
void step_guard(Step *step);

/* The micro-batches [first, end) that step_gradients was at when it failed; false: at none. */
bool step_failed_at(const Step *step, size_t *first, size_t *end);

/* How the whole step's tokens, all ranks', went to the experts of layer l: zeros in a dense layer. Layers below the
 * lowest trained one have no tokens with a gradient. Owner: the step, until the next one. */
LayerCounts step_counts(const Step *step, size_t l);

/* Give back what the last batch took, until the next one takes it again. */
void step_release(Step *step);

/* Bytes that tapes hold, the most of any step so far; what plan/tape_bytes counts beforehand. */
size_t step_tape_bytes(const Step *step);

/* The gradient of this rank's slice of layer l, and its moments; dp_slice says which part. */
float *step_gradient(Step *step, size_t l);
float *step_moment_m(Step *step, size_t l);
float *step_moment_v(Step *step, size_t l);

#endif
