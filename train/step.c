#include "train/step.h"

#include "base/memory.h"
#include "base/rng.h"
#include "optim/clip.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

struct Step {
    Dp *dp;
    Model *model;
    Adapter *adapter;
    StepConfig config;
    Pool workspace; /* of all tapes */
    Tape tape;      /* of the layer and group at work */
    size_t n_kept;
    Tape *kept; /* [n_kept], the first [keep_layers][n_groups] of them for the step at work */
    Tensor **kept_out, **kept_in;
    Forest forest;
    Slices slices;
    /* buffers of a batch */
    size_t n_choices;
    LayerInputs hidden; /* [L - lowest + 1] of [T][D] */
    float *dx;          /* [T][D] */
    size_t dx_floats;
    Choices *choices;                /* [n_groups] */
    double *stats;                   /* [L sparse][n_micro_batches][width] */
    double *totals;                  /* [L sparse][width] */
    double *load_all;                /* [E] */
    BalanceStep *balance;            /* [L] */
    uint64_t *counts;                /* [L][2 E + 1] load, live, tokens with a gradient */
    size_t failed_first, failed_end; /* micro-batches at work when it failed */
};

/* ---- life ----------------------------------------------------------------------------------------------------- */

static size_t count_width(const Step *s) { return 2 * s->model->router.E + 1; }

static Err *make_tables(Step *s)
{
    size_t L = s->model->n_layers;
    TRY(slices_init(&s->slices, s->dp, s->adapter, L));
    TRY(mem_new(&s->balance, L, sizeof *s->balance));
    TRY(mem_new(&s->counts, L * count_width(s), sizeof *s->counts));
    return mem_new(&s->load_all, s->model->router.E + 1, sizeof *s->load_all);
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

static void drop_kept(Step *s)
{
    for (size_t i = 0; i < s->n_kept; i++) tape_free(&s->kept[i]);
    free(s->kept);
    free(s->kept_out);
    free(s->kept_in);
    s->kept = NULL;
    s->kept_out = s->kept_in = NULL;
    s->n_kept = 0;
}

/* n tapes. Those of the last step serve again when it had as many groups: fresh memory would cost more than zeroing it. */
static Err *make_kept(Step *s, size_t n)
{
    if (n == s->n_kept) return NULL;
    drop_kept(s);
    TRY(mem_new(&s->kept, n, sizeof *s->kept));
    TRY(mem_new(&s->kept_out, n, sizeof *s->kept_out));
    TRY(mem_new(&s->kept_in, n, sizeof *s->kept_in));
    s->n_kept = n;
    return NULL;
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
    drop_kept(s);
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
    void *owned[] = {s->stats, s->totals, s->load_all, s->balance, s->counts};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    free(s);
}

size_t step_tape_bytes(const Step *s)
{
    size_t bytes = s->workspace.high_bytes + s->tape.node_pool.high_bytes;
    for (size_t i = 0; i < s->n_kept; i++) bytes += s->kept[i].own_pool.high_bytes;
    return bytes;
}

float *step_gradient(Step *s, size_t l) { return s->slices.gradient + s->slices.at[l]; }
float *step_moment_m(Step *s, size_t l) { return s->slices.m + s->slices.at[l]; }
float *step_moment_v(Step *s, size_t l) { return s->slices.v + s->slices.at[l]; }

/* ---- one batch's buffers -------------------------------------------------------------------------------------- */

static Err *grow_floats(float **at, size_t *have, size_t need)
{
    if (need <= *have) return NULL;
    free(*at);
    *at = NULL;
    *have = 0;
    TRY(mem_new(at, need, sizeof **at));
    *have = need;
    return NULL;
}

static size_t width_of(const Step *s) { return (size_t)s->model->config.hidden_size; }

/* One run over a batch: what it works on, and how. */
typedef struct {
    Step *s;
    const Batch *batch;
    size_t lowest;    /* boundaries below are not kept */
    size_t keep_from; /* tapes of layers from here on are kept */
    uint64_t number;
    const StepProbe *probe;
} Run;

/* x[l], the hidden state below layer l, of this rank's rows. */
static float *layer_input(const Run *run, size_t l)
{
    return layer_inputs_at(&run->s->hidden, l > run->lowest ? l - run->lowest : 0);
}

static bool balances(const StepConfig *c) { return c->balance != NULL; }

static Err *prepare(Run *run)
{
    Step *s = run->s;
    const Batch *batch = run->batch;
    size_t L = s->model->n_layers, floats = batch->T * width_of(s);
    TRY(model_reserve_positions(s->model, batch->longest));
    TRY(layer_inputs_begin(&s->hidden, L - run->lowest + 1, floats, s->config.scratch_dir));
    TRY(grow_floats(&s->dx, &s->dx_floats, floats));
    drop_choices(s);
    TRY(mem_new(&s->choices, batch->n_groups, sizeof *s->choices));
    for (; s->n_choices < batch->n_groups; s->n_choices++)
        TRY(choices_new(&s->choices[s->n_choices], s->model, &batch->groups[s->n_choices].group));
    TRY(make_kept(s, (L - run->keep_from) * batch->n_groups));
    if (!balances(&s->config)) return NULL;
    size_t width = balance_width(s->model->router.E);
    free(s->stats);
    free(s->totals);
    s->stats = s->totals = NULL;
    TRY(mem_new(&s->stats, L * batch->n_micro_batches * width, sizeof *s->stats));
    return mem_new(&s->totals, L * width, sizeof *s->totals);
}

static void start_tape(const Run *run, Tape *tape, const Group *group, TapeMode mode, bool resident)
{
    const StepConfig *c = &run->s->config;
    tape->timing = c->timing;
    tape->workspace = &run->s->workspace;
    tape->resident = resident;
    tape_begin(tape, group, mode);
    tape->recompute_experts = c->recompute_experts;
    tape->recomputing = false;
    tape->guard = c->guard;
    tape->dropout = (float)c->lora_dropout;
    tape->dropout_key = rng_key(rng_name(c->seed, "dropout"), run->number);
}

static void show(const Run *run, const char *what, size_t l, const BatchGroup *g, size_t cols, const void *data)
{
    if (run->probe && data) run->probe->see(run->probe->context, what, l, g->row, g->group.T, cols, data);
}

/* Statistics of one layer: rows of all micro-batches of the step. */
static double *layer_stats(const Run *run, size_t l)
{
    return run->s->stats + l * run->batch->n_micro_batches * balance_width(run->s->model->router.E);
}

/* An error inside a group belongs to its micro-batches. */
static Err *in_group(const Run *run, const BatchGroup *g, Err *err)
{
    if (!err) return NULL;
    run->s->failed_first = g->group.first_micro_batch;
    run->s->failed_end = g->group.first_micro_batch + g->group.n_micro_batches;
    return err;
}

/* Run layer l over group i of the batch; x is boundary l. */
static Tensor *run_layer(const Run *run, Tape *tape, size_t l, size_t i, bool made, Tensor **in)
{
    Step *s = run->s;
    const BatchGroup *g = &run->batch->groups[i];
    size_t D = width_of(s), E = s->model->router.E;
    bool sparse = !s->model->layers[l].dense, balance = sparse && balances(&s->config);
    LayerTrace trace = {0};
    LayerPass pass = {.choices = &s->choices[i], .made = made, .trace = &trace};
    if (balance) {
        pass.coefficient = &s->config.balance[l];
        pass.balance = &s->balance[l];
        if (!made) pass.balance_stats = layer_stats(run, l) + g->group.first_micro_batch * balance_width(E);
    }
    *in = tape_leaf(tape, g->group.T, D, layer_input(run, l) + g->row * D, run->probe || l > run->lowest);
    Tensor *out = layer_forward(tape, s->model, l, s->adapter, *in, &pass);
    if (!made && sparse && !tape->err) {
        show(run, "router.logits", l, g, E, trace.router_logits->data);
        show(run, "router.weights", l, g, s->model->router.K, trace.route.weights->data);
        show(run, "router.experts", l, g, s->model->router.K, trace.route.ids);
    }
    return out;
}

/* ---- up ------------------------------------------------------------------------------------------------------- */

static Err *embed(const Run *run)
{
    Step *s = run->s;
    size_t D = width_of(s);
    for (size_t i = 0; i < run->batch->n_groups; i++) {
        const BatchGroup *g = &run->batch->groups[i];
        start_tape(run, &s->tape, &g->group, TAPE_OFF, false);
        Tensor *x = model_embed(&s->tape, s->model, g->ids);
        TRY(in_group(run, g, tape_error(&s->tape)));
        memcpy(layer_input(run, 0) + g->row * D, x->data, g->group.T * D * sizeof *x->data);
        show(run, "hidden", 0, g, D, x->data);
    }
    return NULL;
}

static Err *forward_layer(const Run *run, size_t l)
{
    Step *s = run->s;
    size_t D = width_of(s);
    bool keep = l >= run->keep_from;
    if (l >= run->lowest) TRY(layer_inputs_store(&s->hidden, l - run->lowest));
    for (size_t i = 0; i < run->batch->n_groups; i++) {
        const BatchGroup *g = &run->batch->groups[i];
        size_t k = keep ? (l - run->keep_from) * run->batch->n_groups + i : 0;
        Tape *tape = keep ? &s->kept[k] : &s->tape;
        Tensor *in;
        start_tape(run, tape, &g->group, keep ? TAPE_RECORD : TAPE_OFF, keep);
        if (keep) adapter_set_forest(s->adapter, l, s->adapter->layers[l].n ? &s->forest : NULL);
        Tensor *out = run_layer(run, tape, l, i, false, &in);
        TRY(in_group(run, g, tape_error(tape)));
        if (keep) {
            s->kept_out[k] = out;
            s->kept_in[k] = in;
        }
        memcpy(layer_input(run, l + 1) + g->row * D, out->data, g->group.T * D * sizeof *out->data);
        show(run, "hidden", l + 1, g, D, out->data);
    }
    return NULL;
}

/* A step may take minutes, a signal leaves seconds: so ask between layers, all ranks together. */
static Err *stop_between_layers(const Run *run)
{
    const StepConfig *c = &run->s->config;
    if (!c->stop || !dp_any(run->s->dp, *c->stop != 0)) return NULL;
    return err_new(ERR_STOPPED, "stopped inside a step");
}

/* The weights of a layer; what a profile notes from here on is this layer's, and so is the wait. */
static Err *acquire(const Run *run, size_t l, TimingPass way)
{
    Timing *timing = run->s->config.timing;
    timing_layer(timing, (long)l);
    timing_mark(timing);
    TRY(layer_acquire(run->s->model, l));
    timing_note(timing, "weights", way);
    return NULL;
}

static Err *forward_pass(const Run *run)
{
    timing_layer(run->s->config.timing, TIMING_OUTSIDE);
    layers_announce(run->s->model, run->lowest, run->batch->most_groups);
    TRY(embed(run));
    for (size_t l = 0; l < run->s->model->n_layers; l++) {
        TRY(stop_between_layers(run));
        TRY(acquire(run, l, TIMING_FORWARD));
        Err *err = forward_layer(run, l);
        layer_release(run->s->model, l);
        if (err) return err_wrap(err, "layer %zu", l);
    }
    timing_layer(run->s->config.timing, TIMING_OUTSIDE);
    return NULL;
}

/* Everyone's statistics of all layers, added over micro-batches in their order. */
static Err *gather_balance(const Run *run, StepResult *result)
{
    Step *s = run->s;
    const Batch *batch = run->batch;
    size_t L = s->model->n_layers, E = s->model->router.E, width = balance_width(E), sparse = 0;
    memset(s->load_all, 0, E * sizeof *s->load_all);
    for (size_t l = 0; l < L; l++) {
        if (s->model->layers[l].dense) continue;
        double *stats = layer_stats(run, l), *total = s->totals + sparse++ * width;
        TRY(dp_share_rows(s->dp, batch->rank_micro, width, stats));
        for (size_t m = 0; m < batch->n_micro_batches; m++)
            for (size_t i = 0; i < width; i++) total[i] += stats[m * width + i];
        for (size_t e = 0; e < E; e++) s->load_all[e] += total[2 * E + e];
        s->balance[l] = (BalanceStep){batch->tokens, batch->n_docs, 0, total + 2 * E, s->load_all};
    }
    for (size_t l = 0; l < L; l++) s->balance[l].sparse_layers = sparse;
    result->balance = balance_values(sparse, E, s->model->router.K, batch->tokens, batch->n_docs, s->totals);
    return NULL;
}

/* ---- head ----------------------------------------------------------------------------------------------------- */

/* Loss of one group's scored rows, and its gradient into dx. nll: sums per document. */
static Err *head_group(const Run *run, const BatchGroup *g, double *nll)
{
    Step *s = run->s;
    Tape *tape = &s->tape;
    size_t D = width_of(s), T = g->group.T, n = 0;
    start_tape(run, tape, &g->group, TAPE_RECORD, false);
    float *x = tape_floats(tape, T * D);
    int32_t *targets = tape_alloc(tape, T * sizeof *targets);
    size_t *row = tape_alloc(tape, T * sizeof *row);
    TRY(tape_error(tape));
    const float *last = layer_input(run, s->model->n_layers) + g->row * D;
    for (size_t t = 0; t < T; t++) {
        if (g->targets[t] < 0) continue;
        memcpy(x + n * D, last + t * D, D * sizeof *x);
        targets[n] = g->targets[t];
        row[n++] = t;
    }
    memset(s->dx + g->row * D, 0, T * D * sizeof *s->dx);
    if (n == 0) return NULL;
    Tensor *in = tape_leaf(tape, n, D, x, true);
    Tensor *loss = model_loss(tape, s->model, in, targets);
    TRY(tape_error(tape));
    for (size_t i = 0, d = 0; i < n; i++) {
        while (row[i] >= g->group.doc_start[d + 1]) d++;
        nll[g->group.first_doc + d] += (double)loss->data[i];
    }
    float *dloss = tape_seed(tape, loss), share = (float)(1 / (double)run->batch->n_loss_tokens);
    for (size_t i = 0; i < n && dloss; i++) dloss[i] = share;
    TRY(tape_backward(tape));
    for (size_t i = 0; i < n; i++) memcpy(s->dx + (g->row + row[i]) * D, in->grad + i * D, D * sizeof *s->dx);
    return NULL;
}

static Err *head(const Run *run, double *nll)
{
    for (size_t i = 0; i < run->batch->n_groups; i++) {
        TRY(in_group(run, &run->batch->groups[i], head_group(run, &run->batch->groups[i], nll)));
        tape_reset(&run->s->tape); /* the room is the next tape's */
    }
    return dp_share_rows(run->s->dp, run->batch->rank_doc, 1, nll);
}

/* ---- counts --------------------------------------------------------------------------------------------------- */

static uint64_t *layer_counts(const Step *s, size_t l) { return s->counts + l * count_width(s); }

static void count_load(const Run *run)
{
    Step *s = run->s;
    memset(s->counts, 0, s->model->n_layers * count_width(s) * sizeof *s->counts);
    for (size_t l = 0; l < s->model->n_layers; l++) {
        uint64_t *load = layer_counts(s, l);
        if (s->model->layers[l].dense) continue;
        for (size_t i = 0; i < run->batch->n_groups; i++) {
            const int32_t *ids = s->choices[i].experts[l];
            for (size_t j = 0; j < run->batch->groups[i].group.T * s->model->router.K; j++) load[ids[j]]++;
        }
    }
}

static bool any_not_zero(size_t n, const float *x)
{
    size_t i = 0;
    while (i < n && x[i] == 0) i++;
    return i < n;
}

/* Which rows of group i the gradient of layer l's output reaches. A token that nothing scored depends on has none. */
static void count_live(const Run *run, size_t l, size_t i)
{
    Step *s = run->s;
    const BatchGroup *g = &run->batch->groups[i];
    size_t D = width_of(s), E = s->model->router.E, K = s->model->router.K;
    uint64_t *counts = layer_counts(s, l), *live = counts + E;
    for (size_t t = 0; t < g->group.T; t++) {
        if (!any_not_zero(D, s->dx + (g->row + t) * D)) continue;
        counts[2 * E]++;
        for (size_t k = 0; k < K && !s->model->layers[l].dense; k++) live[s->choices[i].experts[l][t * K + k]]++;
    }
}

const uint64_t *step_load(const Step *s, size_t l) { return s->model->layers[l].dense ? NULL : layer_counts(s, l); }
const uint64_t *step_live(const Step *s, size_t l)
{
    return s->model->layers[l].dense ? NULL : layer_counts(s, l) + s->model->router.E;
}
uint64_t step_live_tokens(const Step *s, size_t l) { return layer_counts(s, l)[2 * s->model->router.E]; }

/* ---- down ----------------------------------------------------------------------------------------------------- */

static Err *backward_layer(const Run *run, size_t l)
{
    Step *s = run->s;
    size_t D = width_of(s);
    const Batch *batch = run->batch;
    bool kept = l >= run->keep_from;
    TRY(layer_inputs_load(&s->hidden, l - run->lowest));
    for (size_t i = 0; i < batch->n_groups; i++) {
        const BatchGroup *g = &batch->groups[i];
        size_t k = kept ? (l - run->keep_from) * batch->n_groups + i : 0;
        Tape *tape = kept ? &s->kept[k] : &s->tape;
        Tensor *in = kept ? s->kept_in[k] : NULL, *out = kept ? s->kept_out[k] : NULL;
        if (!kept) {
            start_tape(run, tape, &g->group, TAPE_RECORD, false);
            tape->recomputing = true;
            out = run_layer(run, tape, l, i, true, &in);
        }
        float *seed = tape_seed(tape, out);
        if (seed) memcpy(seed, s->dx + g->row * D, g->group.T * D * sizeof *seed);
        show(run, "grad.hidden", l + 1, g, D, seed);
        count_live(run, l, i);
        TRY(in_group(run, g, tape_backward(tape)));
        if (in->grad) memcpy(s->dx + g->row * D, in->grad, g->group.T * D * sizeof *s->dx);
        if (l == run->lowest && in->grad) show(run, "grad.hidden", l, g, D, in->grad);
        tape_reset(tape);
    }
    return NULL;
}

static Err *backward_and_reduce(const Run *run, size_t l)
{
    Step *s = run->s;
    const size_t *first = run->batch->rank_micro;
    size_t n = s->adapter->layers[l].n;
    TRY(forest_begin(&s->forest, n, first[s->dp->rank], first[s->dp->rank + 1]));
    adapter_set_forest(s->adapter, l, n ? &s->forest : NULL);
    TRY(acquire(run, l, TIMING_BACKWARD));
    Err *err = backward_layer(run, l);
    layer_release(s->model, l);
    adapter_set_forest(s->adapter, l, NULL);
    if (err || n == 0) return err;
    timing_mark(s->config.timing);
    TRY(slices_reduce(&s->slices, l, &s->forest, first, s->config.guard));
    timing_note(s->config.timing, "reduce", TIMING_BACKWARD);
    return NULL;
}

static Err *backward_pass(const Run *run)
{
    for (size_t l = run->s->model->n_layers; l-- > run->lowest;) {
        TRY(stop_between_layers(run));
        TRY(err_wrap(backward_and_reduce(run, l), "layer %zu, on the way down", l));
    }
    return NULL;
}

/* ---- the step ------------------------------------------------------------------------------------------------- */

static double sum_of(size_t n, const double *x)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    return sum;
}

static Err *gradients(Run *run, StepResult *result)
{
    Step *s = run->s;
    const Batch *batch = run->batch;
    double *nll;
    *result = (StepResult){.tokens = batch->tokens, .n_loss_tokens = batch->n_loss_tokens};
    TRY(prepare(run));
    TRY(forward_pass(run));
    count_load(run);
    if (balances(&s->config)) TRY(gather_balance(run, result));
    TRY(mem_new(&nll, batch->n_docs, sizeof *nll));
    Err *err = head(run, nll);
    result->loss = sum_of(batch->n_docs, nll) / (double)batch->n_loss_tokens;
    free(nll);
    if (!err) err = backward_pass(run);
    if (!err) dp_add_counts(s->dp, s->model->n_layers * count_width(s), s->counts);
    return err;
}

Err *step_gradients(Step *s, const Batch *batch, uint64_t number, const StepProbe *probe, StepResult *result)
{
    size_t L = s->model->n_layers, lowest = probe ? 0 : adapter_lowest_layer(s->adapter); /* who looks sees all */
    size_t keep = s->config.keep_layers < L - lowest ? s->config.keep_layers : L - lowest;
    Run run = {.s = s, .batch = batch, .lowest = lowest, .keep_from = L - keep, .number = number, .probe = probe};
    s->failed_first = s->failed_end = 0;
    TRY(gradients(&run, result));
    return slices_norm(&s->slices, &result->grad_norm);
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
