/* Each operation is put on a tape of its own, with the weights of layer 1 of a model and random inputs, and timed by
 * the tape's own timing: forward, then backward from a random gradient. Its cost is model/count's, and the record has
 * both.
 *
 * Every round runs all operations; the first round is a warm-up. A result is the median over the others. */
#include "bench/operations.h"

#include "base/memory.h"
#include "base/peak.h"
#include "base/rng.h"
#include "bench/sample.h"
#include "optim/adamw.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPERATION_ROUNDS = 5, LAYER = 1, R = 8, SHORT_T = 512, LONG_T = 2048 };

typedef struct {
    Model *model;
    const Layer *layer;
    Adapter *adapter;
    const LayerAdapter *lora;
    Forest forest;
    Tape tape;
    Timing timing;
    size_t T;
    size_t doc_start[2];
    Group group;
    Choices choices;
    float *noise; /* [noise_n] */
    size_t noise_n;
    float *m, *v, *g;
} OperationBench;

/* ---- inputs --------------------------------------------------------------------------------------------------- */

/* A leaf of random numbers. Starts the clock for the operation that follows. */
static Tensor *random_leaf(OperationBench *o, size_t cols)
{
    size_t n = o->T * cols;
    float *data = tape_floats(&o->tape, n);
    for (size_t at = 0; data && at < n; at += o->noise_n)
        memcpy(data + at, o->noise, (n - at < o->noise_n ? n - at : o->noise_n) * sizeof *data);
    Tensor *x = tape_leaf(&o->tape, o->T, cols, data, true);
    timing_mark(&o->timing);
    return x;
}

static size_t hidden(const OperationBench *o) { return (size_t)o->model->config.hidden_size; }
static size_t per_head(const OperationBench *o) { return o->model->attention.nope + o->model->attention.rope; }
static size_t q_width(const OperationBench *o) { return o->model->attention.n_heads * per_head(o); }
static size_t kv_width(const OperationBench *o)
{
    return o->model->attention.n_heads * (o->model->attention.nope + o->model->attention.v);
}

/* Router scores as unbalanced as those of late layers: some experts have high scores for all tokens. */
static Tensor *unbalanced_logits(OperationBench *o)
{
    size_t E = o->model->router.E;
    Tensor *z = random_leaf(o, E);
    for (size_t t = 0; t < o->T && !o->tape.err; t++)
        for (size_t e = 0; e < E; e++) z->data[t * E + e] += (float)(0.7 * rng_normal(1, e));
    timing_mark(&o->timing);
    return z;
}

/* ---- the operations ------------------------------------------------------------------------------------------- */

static Tensor *run_linear(OperationBench *o, const Weight *W, const Lora *adapted)
{
    return op_linear(&o->tape, random_leaf(o, W->cols), 1, &W, 1, &adapted);
}
static Tensor *run_q_up(OperationBench *o) { return run_linear(o, &o->layer->q_up, NULL); }
static Tensor *run_o(OperationBench *o) { return run_linear(o, &o->layer->o_proj, NULL); }
static Tensor *run_o_with_lora(OperationBench *o) { return run_linear(o, &o->layer->o_proj, o->lora->places[LORA_O]); }
static Tensor *run_router(OperationBench *o)
{
    return op_linear_trained(&o->tape, random_leaf(o, hidden(o)), &o->layer->router, NULL);
}

static Tensor *run_rmsnorm(OperationBench *o)
{
    return op_rmsnorm(&o->tape, random_leaf(o, hidden(o)), 0, hidden(o), o->layer->input_layernorm, 1e-5);
}
static Tensor *run_add(OperationBench *o)
{
    return op_add(&o->tape, random_leaf(o, hidden(o)), random_leaf(o, hidden(o)));
}

static Tensor *run_rope(OperationBench *o)
{
    return op_rope(&o->tape, random_leaf(o, q_width(o)), &o->model->rope, o->model->attention.nope,
                   o->model->attention.n_heads, per_head(o), true);
}

static Tensor *run_index(OperationBench *o)
{
    const IndexShape *shape = &o->model->index;
    Tensor *q = random_leaf(o, shape->n_heads * shape->dim), *k = random_leaf(o, shape->dim),
           *w = random_leaf(o, shape->n_heads);
    if (o->choices.keys[LAYER].of) op_index(&o->tape, shape, q, k, w, NULL, &o->choices.keys[LAYER]);
    return NULL;
}

/* The keys that the indexer of the layer chooses; NULL: all keys. */
static const Keys *chosen_keys(OperationBench *o)
{
    run_index(o);
    return o->choices.keys[LAYER].of ? &o->choices.keys[LAYER] : NULL;
}

static Tensor *run_attention_over(OperationBench *o, const Keys *keys)
{
    Tensor *q = random_leaf(o, q_width(o)), *kv = random_leaf(o, kv_width(o)),
           *kr = random_leaf(o, o->model->attention.rope);
    return op_attention(&o->tape, &o->model->attention, q, kv, kr, 0, keys);
}

static Tensor *run_attention(OperationBench *o) { return run_attention_over(o, NULL); }

static Tensor *run_chosen(OperationBench *o) { return run_attention_over(o, chosen_keys(o)); }

static Tensor *run_latent(OperationBench *o)
{
    const Keys *keys = chosen_keys(o);
    LatentInputs in = {.q = random_leaf(o, q_width(o)),
                       .latent = random_leaf(o, o->layer->kv_up.cols),
                       .kr = random_leaf(o, o->model->attention.rope),
                       .kv_up = &o->layer->kv_up};
    return op_attention_latent(&o->tape, &o->model->attention, &in, keys, NULL);
}

static Tensor *run_swiglu(OperationBench *o) { return op_swiglu(&o->tape, random_leaf(o, 2 * o->layer->gate.rows)); }

static Tensor *run_route(OperationBench *o)
{
    return op_route(&o->tape, unbalanced_logits(o), o->layer->router_bias, &o->model->router, o->choices.experts[LAYER],
                    false)
        .weights;
}

static Tensor *run_experts_of(OperationBench *o, const Expert *experts)
{
    Route route = op_route(&o->tape, unbalanced_logits(o), o->layer->router_bias, &o->model->router,
                           o->choices.experts[LAYER], false);
    Tensor *x = random_leaf(o, hidden(o));
    return op_experts(&o->tape, x, route, o->model->router.E, experts, NULL);
}

static Tensor *run_experts(OperationBench *o) { return run_experts_of(o, o->layer->experts); }
static Tensor *run_adapted(OperationBench *o) { return run_experts_of(o, o->lora->experts); }

static Tensor *run_loss(OperationBench *o)
{
    int32_t *targets = tape_alloc(&o->tape, o->T * sizeof *targets);
    for (size_t t = 0; targets && t < o->T; t++) targets[t] = (int32_t)(t * 7919 % o->model->lm_head.rows);
    return op_loss(&o->tape, random_leaf(o, hidden(o)), &o->model->lm_head, targets);
}

static Tensor *run_adamw(OperationBench *o)
{
    static const AdamW adamw = {0.9, 0.999, 1e-8, 0};
    size_t n = o->lora->n;
    timing_mark(&o->timing);
    adamw_update(&adamw, &(AdamWStep){.t = 1, .lr = 1e-4, .grad_scale = 1}, n, o->adapter->values + o->lora->offset,
                 o->m, o->v, o->g);
    timing_note(&o->timing, "update", TIMING_FORWARD);
    return NULL;
}

/* ---- their cost ------------------------------------------------------------------------------------------------ */

static double count_query_key_scores(const OperationBench *o, bool chosen)
{
    return count_scores(o->T, chosen ? o->model->index.top_k : 0);
}

static Cost cost_q_up(const OperationBench *o, TimingPass pass) { return count_linear(o->T, &o->layer->q_up, pass); }
static Cost cost_o(const OperationBench *o, TimingPass pass) { return count_linear(o->T, &o->layer->o_proj, pass); }
static Cost cost_router(const OperationBench *o, TimingPass pass)
{
    return count_linear(o->T, &o->layer->router, pass);
}
static Cost cost_o_with_lora(const OperationBench *o, TimingPass pass)
{
    Cost product = cost_o(o, pass), adapted = count_lora(o->T, o->layer->o_proj.cols, o->layer->o_proj.rows, R, pass);
    return (Cost){product.flop + adapted.flop, product.bytes + adapted.bytes};
}
static Cost cost_rmsnorm(const OperationBench *o, TimingPass pass)
{
    return count_elements(o->T * hidden(o), pass == TIMING_FORWARD ? 4 : 8, pass == TIMING_FORWARD ? 2 : 4);
}
static Cost cost_add(const OperationBench *o, TimingPass pass)
{
    (void)pass;
    return count_elements(o->T * hidden(o), 1, 3);
}
static Cost cost_rope(const OperationBench *o, TimingPass pass)
{
    (void)pass;
    return count_elements(o->T * o->model->attention.n_heads * o->model->attention.rope, 3, 2);
}
static Cost cost_index(const OperationBench *o, TimingPass pass)
{
    (void)pass;
    return count_index(o->T, count_query_key_scores(o, false), &o->model->index);
}
static Cost cost_attention(const OperationBench *o, TimingPass pass)
{
    return count_attention(o->T, count_query_key_scores(o, false), &o->model->attention, pass);
}
static Cost cost_chosen(const OperationBench *o, TimingPass pass)
{
    return count_attention(o->T, count_query_key_scores(o, true), &o->model->attention, pass);
}
static Cost cost_latent(const OperationBench *o, TimingPass pass)
{
    return count_attention_latent(o->T, count_query_key_scores(o, true), &o->model->attention, o->layer->kv_up.cols,
                                  pass);
}
static Cost cost_swiglu(const OperationBench *o, TimingPass pass)
{
    return count_elements(o->T * o->layer->gate.rows, pass == TIMING_FORWARD ? 12 : 20, pass == TIMING_FORWARD ? 3 : 7);
}
static Cost cost_route(const OperationBench *o, TimingPass pass)
{
    return count_elements(o->T * o->model->router.E, pass == TIMING_FORWARD ? 12 : 4, pass == TIMING_FORWARD ? 1 : 2);
}
static Cost cost_experts(const OperationBench *o, TimingPass pass)
{
    return count_experts(o->T, o->model->router.K, o->model->router.E, o->layer->experts, 0, pass);
}
static Cost cost_adapted(const OperationBench *o, TimingPass pass)
{
    return count_experts(o->T, o->model->router.K, o->model->router.E, o->layer->experts, R, pass);
}
static Cost cost_loss(const OperationBench *o, TimingPass pass)
{
    (void)pass;
    return count_loss(o->T, &o->model->lm_head);
}
static Cost cost_adamw(const OperationBench *o, TimingPass pass)
{
    (void)pass;
    return count_elements(o->lora->n, 14, 7);
}

/* name: the operation's name on the tape and in its timing. frozen: it multiplies frozen weights, on the current
 * path; other operations compute in fp32. */
typedef struct {
    const char *name, *label;
    size_t T;
    bool frozen, has_backward;
    Tensor *(*run)(OperationBench *);
    Cost (*cost)(const OperationBench *, TimingPass);
} Operation;

static const Operation operations[] = {
    {"linear", "q_b_proj", SHORT_T, true, true, run_q_up, cost_q_up},
    {"linear", "o_proj", SHORT_T, true, true, run_o, cost_o},
    {"linear", "router", SHORT_T, false, true, run_router, cost_router},
    {"linear", "o_proj, LoRA of r 8", SHORT_T, true, true, run_o_with_lora, cost_o_with_lora},
    {"rmsnorm", "hidden", SHORT_T, false, true, run_rmsnorm, cost_rmsnorm},
    {"add", "hidden", SHORT_T, false, true, run_add, cost_add},
    {"rope", "queries", SHORT_T, false, true, run_rope, cost_rope},
    {"index", "scores and choice", SHORT_T, false, false, run_index, cost_index},
    {"index", "scores and choice", LONG_T, false, false, run_index, cost_index},
    {"attention", "all keys", SHORT_T, false, true, run_attention, cost_attention},
    {"attention", "all keys", LONG_T, false, true, run_attention, cost_attention},
    {"attention", "chosen keys", SHORT_T, false, true, run_chosen, cost_chosen},
    {"attention_latent", "chosen keys", LONG_T, false, true, run_latent, cost_latent},
    {"swiglu", "shared expert", SHORT_T, false, true, run_swiglu, cost_swiglu},
    {"route", "unbalanced", SHORT_T, false, true, run_route, cost_route},
    {"experts", "frozen", SHORT_T, true, true, run_experts, cost_experts},
    {"experts", "LoRA of r 8", SHORT_T, true, true, run_adapted, cost_adapted},
    {"experts", "frozen", LONG_T, true, true, run_experts, cost_experts},
    {"loss", "head", SHORT_T, true, false, run_loss, cost_loss},
    {"update", "LoRA of a layer", SHORT_T, false, false, run_adamw, cost_adamw},
};
enum { N_OPERATIONS = sizeof operations / sizeof *operations };

/* ---- measuring ------------------------------------------------------------------------------------------------ */

/* Begin a group of one document of T tokens. */
static Err *begin_group(OperationBench *o, size_t T)
{
    choices_free(&o->choices);
    o->T = T;
    o->doc_start[1] = T;
    o->group = group_init(1, o->doc_start, 1, o->doc_start);
    TRY(model_reserve_positions(o->model, T));
    TRY(choices_new(&o->choices, o->model, &o->group));
    return forest_begin(&o->forest, o->lora->n, 0, 1);
}

static Err *measure_once(OperationBench *o, const Operation *op, double seconds[TIMING_PASSES])
{
    TRY(begin_group(o, op->T));
    adapter_set_forest(o->adapter, LAYER, &o->forest);
    timing_clear(&o->timing);
    o->tape.timing = &o->timing;
    tape_begin(&o->tape, &o->group, TAPE_RECORD);
    Tensor *out = op->run(o);
    Err *err = tape_error(&o->tape);
    if (!err) seconds[TIMING_FORWARD] = timing_seconds(&o->timing, op->name, TIMING_ALL);
    if (!err && op->has_backward) {
        float *seed = tape_seed(&o->tape, out);
        for (size_t i = 0; i < out->shape[0] * out->shape[1]; i++) seed[i] = o->noise[i % o->noise_n];
        err = tape_backward(&o->tape);
        if (!err) seconds[TIMING_BACKWARD] = timing_seconds(&o->timing, op->name, TIMING_ALL) - seconds[TIMING_FORWARD];
    }
    adapter_set_forest(o->adapter, LAYER, NULL);
    tape_reset(&o->tape);
    return err_wrap(err, "%s, %s", op->name, op->label);
}

typedef struct {
    double seconds[N_OPERATIONS][TIMING_PASSES][OPERATION_ROUNDS];
    double fp32[OPERATION_ROUNDS], path[OPERATION_ROUNDS];
} OperationTimes;

static Err *measure(OperationBench *o, OperationTimes *times)
{
    bool bf16 = dispatch_is_bf16();
    double seconds[TIMING_PASSES] = {0};
    for (int round = -1; round < OPERATION_ROUNDS; round++) { /* the first warms up */
        if (round >= 0) times->fp32[round] = 2 * peak_of_team(false, PEAK_ROUNDS);
        if (round >= 0) times->path[round] = bf16 ? 2 * peak_of_team(true, PEAK_ROUNDS) : times->fp32[round];
        for (size_t i = 0; i < N_OPERATIONS; i++) {
            TRY(measure_once(o, &operations[i], seconds));
            for (int pass = 0; pass < TIMING_PASSES && round >= 0; pass++)
                times->seconds[i][pass][round] = seconds[pass];
        }
    }
    return NULL;
}

static Err *report_one(OperationBench *o, const Operation *op, TimingPass pass, double seconds, double peak,
                       double memory_gbs, BenchReport *report)
{
    o->T = op->T;
    Cost cost = op->cost(o, pass);
    Json *record = report_record("operation");
    json_add_string(record, "operation", op->name);
    json_add_string(record, "shape", op->label);
    json_add_number(record, "tokens", (double)op->T);
    json_add_string(record, "way", report_pass(pass));
    json_add_string(record, "path", op->frozen ? dispatch_path() : "fp32");
    json_add_number(record, "threads", omp_get_max_threads());
    report_measure(record, cost, seconds, peak);
    printf("%-16s %-20s %5zu  %-8s %9.3f ms %8.1f GFLOP/s %6.3f of %-4s %7.1f GB/s %6.2f of memory %8.1f FLOP/B\n",
           op->name, op->label, op->T, report_pass(pass), 1e3 * seconds, 1e-9 * cost.flop / seconds,
           cost.flop / seconds / peak, op->frozen && dispatch_is_bf16() ? "bf16" : "fp32", 1e-9 * cost.bytes / seconds,
           1e-9 * cost.bytes / seconds / memory_gbs, cost.flop / cost.bytes);
    return report_add(report, record);
}

static Err *report_all(OperationBench *o, OperationTimes *times, double memory_gbs, BenchReport *report)
{
    double fp32 = sample_median(OPERATION_ROUNDS, times->fp32), path = sample_median(OPERATION_ROUNDS, times->path);
    printf("Operations of %s, %d threads, shares of the peak of all threads (fp32 %.0f, this path %.0f GFLOP/s) and "
           "of the memory's %.1f GB/s\n",
           dispatch_path(), omp_get_max_threads(), 1e-9 * fp32, 1e-9 * path, memory_gbs);
    for (size_t i = 0; i < N_OPERATIONS; i++)
        for (TimingPass pass = 0; pass < (operations[i].has_backward ? TIMING_PASSES : TIMING_BACKWARD); pass++)
            TRY(report_one(o, &operations[i], pass, sample_median(OPERATION_ROUNDS, times->seconds[i][pass]),
                           operations[i].frozen ? path : fp32, memory_gbs, report));
    printf("\n");
    fflush(stdout);
    return NULL;
}

/* ---- opening and closing --------------------------------------------------------------------------------------- */

static Err *attach_lora(OperationBench *o)
{
    Json *names = json_new_array(), *experts = json_new_object();
    json_add_string(names, NULL, "o_proj");
    json_add_string(experts, "experts", "all");
    LoraConfig lora = {.r = R, .lora_alpha = 2 * R, .target_modules = names, .experts = json_find(experts, "experts")};
    Err *err = adapter_new(&o->adapter, o->model, &lora, 1);
    json_free(names);
    json_free(experts);
    return err;
}

static Err *open_bench(OperationBench *o, const char *directory)
{
    TRY(model_open(&o->model, directory));
    if (o->model->n_layers <= LAYER || o->model->layers[LAYER].dense || !o->model->layers[LAYER].indexer)
        return err_new(ERR_USAGE, "%s: layer %d must have an indexer and routed experts", directory, LAYER);
    o->layer = &o->model->layers[LAYER];
    TRY(attach_lora(o));
    o->lora = &o->adapter->layers[LAYER];
    o->noise_n = 1 << 20;
    TRY(mem_new(&o->noise, o->noise_n, sizeof *o->noise));
    for (size_t i = 0; i < o->noise_n; i++) o->noise[i] = 2 * rng_uniform(7, i) - 1;
    TRY(mem_new(&o->m, o->lora->n, sizeof *o->m));
    TRY(mem_new(&o->v, o->lora->n, sizeof *o->v));
    return mem_new(&o->g, o->lora->n, sizeof *o->g);
}

static void close_bench(OperationBench *o)
{
    void *owned[] = {o->noise, o->m, o->v, o->g};
    tape_free(&o->tape);
    timing_free(&o->timing);
    choices_free(&o->choices);
    forest_free(&o->forest);
    if (o->adapter) adapter_free(o->adapter);
    if (o->model) model_close(o->model);
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

Err *operations_measure(BenchReport *report, const char *directory, double memory_gbs)
{
    OperationBench o = {0};
    OperationTimes times;
    Err *err = open_bench(&o, directory);
    if (!err) err = measure(&o, &times);
    if (!err) err = report_all(&o, &times, memory_gbs, report);
    close_bench(&o);
    return err_wrap(err, "measure operations");
}
