/* The driver over layers, and the steps that all its callers share. No arithmetic happens here: layer_forward (model.c)
 * is a layer, model_embed, model_loss and model_logits are what stands before and behind all of them. */
#include "model/forward.h"

#include <string.h>

/* ---- the driver ------------------------------------------------------------------------------------------------ */

static Err *visit_layer(Model *model, const LayerLoop *loop, size_t l, TimingPass pass)
{
    timing_layer(loop->timing, (long)l);
    timing_mark(loop->timing);
    TRY(layer_acquire(model, l));
    timing_note(loop->timing, "weights", pass);
    Err *err = loop->layer(loop->context, l);
    layer_release(model, l);
    return err || !loop->after_layer ? err : loop->after_layer(loop->context, l);
}

Err *layers_forward(Model *model, const LayerLoop *loop)
{
    timing_layer(loop->timing, TIMING_OUTSIDE);
    layers_announce(model, loop->lowest, loop->group_passes);
    TRY(loop->embed(loop->context));
    for (size_t l = 0; l < model->n_layers; l++) {
        if (loop->before_layer) TRY(loop->before_layer(loop->context));
        TRY(err_wrap(visit_layer(model, loop, l, TIMING_FORWARD), "layer %zu", l));
    }
    timing_layer(loop->timing, TIMING_OUTSIDE);
    return NULL;
}

Err *layers_backward(Model *model, const LayerLoop *loop)
{
    for (size_t l = model->n_layers; l-- > loop->lowest;) {
        if (loop->before_layer) TRY(loop->before_layer(loop->context));
        TRY(err_wrap(visit_layer(model, loop, l, TIMING_BACKWARD), "layer %zu, backward", l));
    }
    return NULL;
}

/* ---- a group --------------------------------------------------------------------------------------------------- */

/* A tensor of [T][D] becomes the hidden states x, unless the tape failed. */
static Err *keep(Tape *tape, const Tensor *result, float *x)
{
    TRY(tape_error(tape));
    memcpy(x, result->data, result->shape[0] * result->shape[1] * sizeof *x);
    return NULL;
}

Err *group_embed(Tape *tape, const Model *model, const Group *group, const int32_t *ids, float *x)
{
    tape_begin(tape, group, TAPE_OFF);
    return keep(tape, model_embed(tape, model, ids), x);
}

Err *group_forward(Tape *tape, const Model *model, size_t l, const Adapter *adapter, const Group *group, float *x,
                   const LayerPass *pass)
{
    tape_begin(tape, group, TAPE_OFF);
    Tensor *in = tape_leaf(tape, group->T, (size_t)model->config.hidden_size, x, false);
    return keep(tape, layer_forward(tape, model, l, adapter, in, pass), x);
}

/* ---- the head -------------------------------------------------------------------------------------------------- */

Tensor *head_rows(Tape *tape, const Model *model, size_t n, const size_t *row, const float *x, bool requires_grad)
{
    size_t D = (size_t)model->config.hidden_size;
    float *gathered = tape_floats(tape, n * D);
    for (size_t i = 0; i < tape_rows(tape, n); i++) memcpy(gathered + i * D, x + row[i] * D, D * sizeof *gathered);
    return tape_leaf(tape, n, D, gathered, requires_grad);
}
