/* One optimizer step, as the header lists it. The driver over layers is model/forward.c; here is what happens in each
 * layer:
 *
 *     forward    groups one after another: layer_forward, its result becomes the input of the next layer
 *     head       the loss of the tokens that have one, and the gradient of the last hidden state, dx
 *     backward   groups one after another: layer_forward again with the tape on (or the kept tape), seeded with dx;
 *                what it gives for its input is the next dx; then the layer's gradients are added over ranks
 *
 * What always holds: dx has the rows of all groups, and is the gradient of the output of the layer at work; a choice of
 * experts or keys is made in the forward pass and used again in the backward pass; sums over micro-batches and ranks
 * follow the forest (autograd/param.h), so no bit depends on groups, ranks or kept tapes. */
#include "train/step.h"

#include "base/memory.h"
#include "base/minmax.h"
#include "base/rng.h"
#include "model/forward.h"
#include "optim/clip.h"
#include "train/balance_sums.h"
#include "train/kept_tapes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The forward and backward pass of one batch: what is worked on, and how. */
typedef struct {
    Step *s;
    const Batch *batch;
    size_t lowest;    /* the inputs of layers below are not kept */
    size_t keep_from; /* tapes of layers from here on are kept */
    uint64_t number;
    const StepProbe *probe;
} Pass;

struct Step {
    Dp *dp;
    Model *model;
    Adapter *adapter;
    StepConfig config;
    Pool workspace; /* of all tapes */
    Tape tape;      /* of the layer and group at work */
    KeptTapes kept; /* [keep_layers][n_groups] of the topmost layers */
    Forest forest;  /* of the layer at work in the backward pass */
    Slices slices;
    LayerInputs hidden; /* [L - lowest + 1] of [T][D] */
    float *dx;          /* [T][D] */
    size_t dx_floats;
    size_t n_choices;
    Choices *choices;    /* [n_groups] */
    BalanceSums balance; /* unused without a balance loss */
    RoutingCounts counts;
    Pass pass;                       /* of the batch at work */
    size_t failed_first, failed_end; /* micro-batches at work when it failed */
};

/* ---- life ----------------------------------------------------------------------------------------------------- */

static bool balances(const Step *s) { return s->config.balance != NULL; }

static Err *make_tables(Step *s)
{
    TRY(slices_init(&s->slices, s->dp, s->adapter, s->model->n_layers));
    TRY(routing_counts_init(&s->counts, s->model->n_layers, s->model->router.E));
    return balances(s) ? balance_sums_init(&s->balance, s->model) : NULL;
}

Err *step_new(Step **step, Dp *dp, Model *model, Adapter *adapter, const StepConfig *config)
{
    TRY(mem_new(step, 1, sizeof **step));
    **step = (Step){.dp = dp, .model = model, .adapter = adapter, .config = *config};
    Err *err = make_tables(*step);
    if (err) {
        step_free(*step);
        *step = NULL;
    }
    return err;
}

static void drop_choices(Step *s)
{
    for (size_t i = 0; i < s->n_choices; i++) choices_free(&s->choices[i]);
    free(s->choices);
    s->choices = NULL;
    s->n_choices = 0;
}

void step_release(Step *s)
{
    kept_tapes_free(&s->kept);
    drop_choices(s);
    layer_inputs_free(&s->hidden);
    tape_free(&s->tape);
    pool_free(&s->workspace);
    forest_free(&s->forest);
    free(s->dx);
    s->dx = NULL;
    s->dx_floats = 0;
}

void step_free(Step *s)
{
    if (!s) return;
    step_release(s);
    slices_free(&s->slices);
    balance_sums_free(&s->balance);
    routing_counts_free(&s->counts);
    free(s);
}

size_t step_tape_bytes(const Step *s)
{
    return s->workspace.high_bytes + s->tape.node_pool.high_bytes + kept_tapes_bytes(&s->kept);
}

float *step_gradient(Step *s, size_t l) { return s->slices.gradient + s->slices.at[l]; }
float *step_moment_m(Step *s, size_t l) { return s->slices.m + s->slices.at[l]; }
float *step_moment_v(Step *s, size_t l) { return s->slices.v + s->slices.at[l]; }

LayerCounts step_counts(const Step *s, size_t l) { return routing_counts_of(&s->counts, l); }

/* ---- one batch's buffers -------------------------------------------------------------------------------------- */

static size_t width_of(const Step *s) { return (size_t)s->model->config.hidden_size; }

/* x[l], the hidden state below layer l, of this rank's rows. */
static float *layer_input(const Pass *p, size_t l)
{
    return layer_inputs_at(&p->s->hidden, l > p->lowest ? l - p->lowest : 0);
}

static Err *prepare(Pass *p)
{
    Step *s = p->s;
    const Batch *batch = p->batch;
    size_t L = s->model->n_layers, floats = batch->T * width_of(s);
    TRY(model_reserve_positions(s->model, batch->longest));
    TRY(layer_inputs_begin(&s->hidden, L - p->lowest + 1, floats, s->config.scratch_dir));
    TRY(mem_renew(&s->dx, &s->dx_floats, floats, sizeof *s->dx));
    drop_choices(s);
    TRY(mem_new(&s->choices, batch->n_groups, sizeof *s->choices));
    for (; s->n_choices < batch->n_groups; s->n_choices++)
        TRY(choices_new(&s->choices[s->n_choices], s->model, &batch->groups[s->n_choices].group));
    TRY(kept_tapes_begin(&s->kept, (L - p->keep_from) * batch->n_groups));
    return balances(s) ? balance_sums_begin(&s->balance, batch) : NULL;
}

/* The kept tape of layer l and group i; NULL: it is recomputed. */
static KeptTape *kept_tape(const Pass *p, size_t l, size_t i)
{
    return l >= p->keep_from ? &p->s->kept.tapes[(l - p->keep_from) * p->batch->n_groups + i] : NULL;
}

/* A tape of this step, before it begins. resident: it is kept. */
static void set_up_tape(const Pass *p, Tape *tape, bool resident)
{
    const StepConfig *c = &p->s->config;
    tape->timing = c->timing;
    tape->workspace = &p->s->workspace;
    tape->resident = resident;
    tape->recompute_experts = c->recompute_experts;
    tape->recomputing = false;
    tape->guard = c->guard;
    tape->dropout = (float)c->lora_dropout;
    tape->dropout_key = rng_key(rng_name(c->seed, "dropout"), p->number);
}

static void start_tape(const Pass *p, Tape *tape, const Group *group, TapeMode mode, bool resident)
{
    set_up_tape(p, tape, resident);
    tape_begin(tape, group, mode);
}

static void show(const Pass *p, const char *what, size_t l, const BatchGroup *g, size_t cols, const void *data)
{
    if (p->probe && data) p->probe->see(p->probe->context, what, l, g->row, g->group.T, cols, data);
}

/* An error inside a group belongs to its micro-batches. */
static Err *in_group(const Pass *p, const BatchGroup *g, Err *err)
{
    if (!err) return NULL;
    p->s->failed_first = g->group.first_micro_batch;
    p->s->failed_end = g->group.first_micro_batch + g->group.n_micro_batches;
    return err;
}

/* Layer l over group i on a tape that has begun: from its input *in to what is returned. made: choices stand. */
static Tensor *run_layer(const Pass *p, Tape *tape, size_t l, size_t i, bool made, Tensor **in)
{
    Step *s = p->s;
    const BatchGroup *g = &p->batch->groups[i];
    size_t D = width_of(s), K = s->model->router.K;
    bool sparse = !s->model->layers[l].dense;
    LayerTrace trace = {0};
    LayerPass pass = {.choices = &s->choices[i], .made = made, .trace = &trace};
    if (sparse && balances(s)) {
        pass.coefficient = &s->config.balance[l];
        pass.balance = &s->balance.layers[l];
        if (!made) pass.balance_stats = balance_sums_at(&s->balance, p->batch, l, g->group.first_micro_batch);
    }
    *in = tape_leaf(tape, g->group.T, D, layer_input(p, l) + g->row * D, p->probe || l > p->lowest);
    Tensor *out = layer_forward(tape, s->model, l, s->adapter, *in, &pass);
    if (!made && sparse && !tape->err) {
        show(p, "router.logits", l, g, s->model->router.E, trace.router_logits->data);
        show(p, "router.weights", l, g, K, trace.route.weights->data);
        show(p, "router.experts", l, g, K, trace.route.ids);
    }
    return out;
}

/* ---- forward -------------------------------------------------------------------------------------------------- */

static Err *embed(void *context)
{
    const Pass *p = context;
    Step *s = p->s;
    size_t D = width_of(s);
    for (size_t i = 0; i < p->batch->n_groups; i++) {
        const BatchGroup *g = &p->batch->groups[i];
        float *x = layer_input(p, 0) + g->row * D;
        set_up_tape(p, &s->tape, false);
        TRY(in_group(p, g, group_embed(&s->tape, s->model, &g->group, g->ids, x)));
        show(p, "hidden", 0, g, D, x);
    }
    return NULL;
}

static Err *forward_group(const Pass *p, size_t l, size_t i)
{
    Step *s = p->s;
    const BatchGroup *g = &p->batch->groups[i];
    KeptTape *kept = kept_tape(p, l, i);
    Tape *tape = kept ? &kept->tape : &s->tape;
    size_t D = width_of(s);
    float *x = layer_input(p, l + 1) + g->row * D;
    Tensor *in;
    start_tape(p, tape, &g->group, kept ? TAPE_RECORD : TAPE_OFF, kept != NULL);
    Tensor *out = run_layer(p, tape, l, i, false, &in);
    TRY(tape_error(tape));
    if (kept) {
        kept->in = in;
        kept->out = out;
    }
    memcpy(x, out->data, g->group.T * D * sizeof *x);
    show(p, "hidden", l + 1, g, D, x);
    return NULL;
}

static Err *forward_layer(void *context, size_t l)
{
    const Pass *p = context;
    Step *s = p->s;
    if (l >= p->lowest) TRY(layer_inputs_store(&s->hidden, l - p->lowest));
    if (l >= p->keep_from) adapter_set_forest(s->adapter, l, s->adapter->layers[l].n ? &s->forest : NULL);
    for (size_t i = 0; i < p->batch->n_groups; i++) TRY(in_group(p, &p->batch->groups[i], forward_group(p, l, i)));
    return NULL;
}

/* A step may take minutes, a signal leaves seconds: so ask between layers, all ranks together. */
static Err *stop_between_layers(void *context)
{
    const Step *s = ((const Pass *)context)->s;
    if (!s->config.stop || !dp_any(s->dp, *s->config.stop != 0)) return NULL;
    return err_new(ERR_STOPPED, "stopped inside a step");
}

static Err *forward_pass(Pass *p)
{
    return layers_forward(p->s->model, &(LayerLoop){.lowest = p->lowest,
                                                    .group_passes = p->batch->max_groups,
                                                    .timing = p->s->config.timing,
                                                    .embed = embed,
                                                    .before_layer = stop_between_layers,
                                                    .layer = forward_layer,
                                                    .context = p});
}

/* ---- head ----------------------------------------------------------------------------------------------------- */

/* The loss of one group's tokens that have one, and its gradient into dx. nll: sums per document. */
static Err *head_group(const Pass *p, const BatchGroup *g, double *nll)
{
    Step *s = p->s;
    Tape *tape = &s->tape;
    size_t D = width_of(s), T = g->group.T, n = 0;
    float *dx = s->dx + g->row * D, share = (float)(1 / (double)p->batch->n_loss_tokens);
    start_tape(p, tape, &g->group, TAPE_RECORD, false);
    int32_t *targets = tape_alloc(tape, T * sizeof *targets);
    size_t *row = tape_alloc(tape, T * sizeof *row);
    TRY(tape_error(tape));
    for (size_t t = 0; t < T; t++) {
        if (g->targets[t] < 0) continue;
        targets[n] = g->targets[t];
        row[n++] = t;
    }
    memset(dx, 0, T * D * sizeof *dx);
    if (n == 0) return NULL;
    Tensor *in = head_rows(tape, s->model, n, row, layer_input(p, s->model->n_layers) + g->row * D, true);
    Tensor *loss = model_loss(tape, s->model, in, targets);
    TRY(tape_error(tape));
    for (size_t i = 0, d = 0; i < n; i++) {
        while (row[i] >= g->group.doc_start[d + 1]) d++;
        nll[g->group.first_doc + d] += (double)loss->data[i];
    }
    float *dloss = tape_seed(tape, loss);
    for (size_t i = 0; i < n && dloss; i++) dloss[i] = share;
    TRY(tape_backward(tape));
    for (size_t i = 0; i < n; i++) memcpy(dx + row[i] * D, in->grad + i * D, D * sizeof *dx);
    return NULL;
}

/* The mean loss of the whole step's tokens in the loss: document by document, whichever rank has them. */
static Err *head(const Pass *p, double *loss)
{
    const Batch *batch = p->batch;
    double *nll, sum = 0;
    Err *err = NULL;
    TRY(mem_new(&nll, batch->n_docs, sizeof *nll));
    for (size_t i = 0; i < batch->n_groups && !err; i++) {
        err = in_group(p, &batch->groups[i], head_group(p, &batch->groups[i], nll));
        if (!err) tape_reset(&p->s->tape); /* the workspace is the next tape's */
    }
    if (!err) err = dp_share_rows(p->s->dp, batch->rank_doc, 1, nll);
    for (size_t d = 0; d < batch->n_docs; d++) sum += nll[d];
    *loss = sum / (double)batch->n_loss_tokens;
    free(nll);
    return err;
}

/* ---- backward ------------------------------------------------------------------------------------------------- */

static Err *backward_group(const Pass *p, size_t l, size_t i)
{
    Step *s = p->s;
    const BatchGroup *g = &p->batch->groups[i];
    KeptTape *kept = kept_tape(p, l, i);
    Tape *tape = kept ? &kept->tape : &s->tape;
    Tensor *in = kept ? kept->in : NULL, *out = kept ? kept->out : NULL;
    size_t D = width_of(s), bytes = g->group.T * D * sizeof *s->dx;
    float *dx = s->dx + g->row * D;
    if (!kept) {
        start_tape(p, tape, &g->group, TAPE_RECORD, false);
        tape->recomputing = true;
        out = run_layer(p, tape, l, i, true, &in);
    }
    float *seed = tape_seed(tape, out);
    if (seed) memcpy(seed, dx, bytes);
    show(p, "grad.hidden", l + 1, g, D, seed);
    routing_counts_live(&s->counts, s->model, l, &g->group, &s->choices[i], dx);
    TRY(tape_backward(tape));
    if (in->grad) memcpy(dx, in->grad, bytes);
    if (l == p->lowest && in->grad) show(p, "grad.hidden", l, g, D, in->grad);
    tape_reset(tape);
    return NULL;
}

static Err *backward_layer(void *context, size_t l)
{
    const Pass *p = context;
    Step *s = p->s;
    const size_t *first = p->batch->rank_micro;
    size_t n = s->adapter->layers[l].n;
    TRY(forest_begin(&s->forest, n, first[s->dp->rank], first[s->dp->rank + 1]));
    adapter_set_forest(s->adapter, l, n ? &s->forest : NULL);
    Err *err = layer_inputs_load(&s->hidden, l - p->lowest);
    for (size_t i = 0; i < p->batch->n_groups && !err; i++)
        err = in_group(p, &p->batch->groups[i], backward_group(p, l, i));
    adapter_set_forest(s->adapter, l, NULL);
    return err;
}

/* The layer's gradients over micro-batches and ranks; each rank keeps its slice. */
static Err *reduce_layer(void *context, size_t l)
{
    const Pass *p = context;
    Step *s = p->s;
    if (s->adapter->layers[l].n == 0) return NULL;
    timing_mark(s->config.timing);
    TRY(slices_reduce(&s->slices, l, &s->forest, p->batch->rank_micro, s->config.guard));
    timing_note(s->config.timing, "reduce", TIMING_BACKWARD);
    return NULL;
}

static Err *backward_pass(Pass *p)
{
    return layers_backward(p->s->model, &(LayerLoop){.lowest = p->lowest,
                                                     .timing = p->s->config.timing,
                                                     .before_layer = stop_between_layers,
                                                     .layer = backward_layer,
                                                     .after_layer = reduce_layer,
                                                     .context = p});
}

/* ---- the step ------------------------------------------------------------------------------------------------- */

Err *step_forward(Step *s, const Batch *batch, uint64_t number, const StepProbe *probe, StepResult *result)
{
    size_t L = s->model->n_layers, lowest = probe ? 0 : adapter_lowest_layer(s->adapter); /* a probe sees all layers */
    size_t keep = size_min(s->config.keep_layers, L - lowest);
    Pass *p = &s->pass;
    *p = (Pass){.s = s, .batch = batch, .lowest = lowest, .keep_from = L - keep, .number = number, .probe = probe};
    *result = (StepResult){.tokens = batch->tokens, .n_loss_tokens = batch->n_loss_tokens};
    s->failed_first = s->failed_end = 0;
    TRY(prepare(p));
    TRY(forward_pass(p));
    routing_counts_load(&s->counts, s->model, batch, s->choices);
    if (balances(s)) TRY(balance_sums_gather(&s->balance, s->model, batch, s->dp, &result->balance));
    return head(p, &result->loss);
}

Err *step_backward(Step *s, StepResult *result)
{
    TRY(backward_pass(&s->pass));
    routing_counts_agree(&s->counts, s->dp);
    return slices_norm(&s->slices, &result->grad_norm);
}

Err *step_gradients(Step *s, const Batch *batch, uint64_t number, const StepProbe *probe, StepResult *result)
{
    TRY(step_forward(s, batch, number, probe, result));
    return step_backward(s, result);
}

Err *step_update(Step *s, uint64_t t, const StepRates *rates, StepResult *result)
{
    if (!isfinite(result->loss)) return err_new(ERR_NUMERIC, "the loss is %g", result->loss);
    if (!isfinite(result->grad_norm)) return err_new(ERR_NUMERIC, "the gradient's norm is %g", result->grad_norm);
    double scale = clip_scale(result->grad_norm, s->config.max_grad_norm);
    timing_layer(s->config.timing, TIMING_OUTSIDE);
    timing_mark(s->config.timing);
    TRY(slices_update(&s->slices, &s->config.adamw, t, rates, scale));
    timing_note(s->config.timing, "update", TIMING_BACKWARD);
    return NULL;
}

void step_guard(Step *s) { s->config.guard = true; }

bool step_failed_at(const Step *s, size_t *first, size_t *end)
{
    *first = s->failed_first;
    *end = s->failed_end;
    return *end != 0;
}
