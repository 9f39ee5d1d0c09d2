/* Operations of T tokens. P = forward + recompute + backward passes, and a weight is out x in.
 *
 *     projections, MLP      2 T out in P: y = x W', and dx = dy W in the backward pass; frozen weights have no gradient
 *     router, q_a_proj      the same, in fp32: router always, q_a_proj where an indexer reads its result
 *     indexer               2 T out in and its scores (count_index), once: the choice of the forward pass is kept
 *     attention             documents * count_attention, over all keys or over chosen latents (model/count.h)
 *     routed experts        2 T K 3 F D (forward + 2/3 recompute + backward): down_proj's result is not needed again
 *     LoRA                  2 T r (in + out) (forward + recompute + 2 backward): gradients of the input and of A and B
 *     head                  2 T V D, twice in training: its gradient is computed in the same pass
 *
 * LoRA modules of routed experts see T K / E rows each. The factors of moved_bytes count how often a number is
 * written or read. */
#include "plan/flops.h"

#include "model/count.h"

PassCounts flops_passes(const Model *model, const Adapter *adapter, const StepWork *work, size_t l)
{
    if (!adapter || l < adapter_lowest_layer(adapter)) return (PassCounts){1, 0, 0};
    return (PassCounts){1, l + work->keep_layers >= model->n_layers ? 0 : 1, 1};
}

static double forwards(PassCounts p) { return p.forward + p.recompute; }
static double all_passes(PassCounts p) { return p.forward + p.recompute + p.backward; }

static double count_numbers(const Weight *w) { return w->data ? (double)w->rows * (double)w->cols : 0; }

static double passes_flop(PassCounts p, Cost forward, Cost backward)
{
    return forwards(p) * forward.flop + p.backward * backward.flop;
}

/* All documents as long as the longest. */
static void add_attention_flops(Flops *f, const Model *model, const Layer *x, const StepWork *work, PassCounts p)
{
    const AttentionShape *a = &model->attention;
    size_t n = work->longest, top_k = model->index.top_k, R = x->kv_up.cols;
    double tokens = (double)work->step_tokens, docs = tokens / (double)n, seen = count_scores(n, 0),
           chosen = count_scores(n, top_k);
    bool chooses = top_k && n > top_k;
    if (chooses && x->indexer) {
        f->exact += 2 * tokens *
                    (count_numbers(&x->index_q) + count_numbers(&x->index_k) + count_numbers(&x->index_heads));
        f->index += docs * count_index(n, seen, &model->index).flop;
    }
    if (chooses && a->latent_from && n >= a->latent_from) {
        f->latent += docs * passes_flop(p, count_attention_latent(n, chosen, a, R, TIMING_FORWARD),
                                        count_attention_latent(n, chosen, a, R, TIMING_BACKWARD));
    } else {
        f->attention += docs * passes_flop(p, count_attention(n, seen, a, TIMING_FORWARD),
                                           count_attention(n, seen, a, TIMING_BACKWARD));
        f->frozen += 2 * tokens * count_numbers(&x->kv_up) * all_passes(p);
    }
    f->frozen += 2 * tokens *
                 (count_numbers(&x->q_proj) + count_numbers(&x->q_up) + count_numbers(&x->kv_down) +
                  count_numbers(&x->o_proj)) *
                 all_passes(p);
    *(x->indexer ? &f->exact : &f->frozen) += 2 * tokens * count_numbers(&x->q_down) * all_passes(p);
}

static void add_mlp_flops(Flops *f, const Layer *x, const StepWork *work, PassCounts p)
{
    double tokens = (double)work->step_tokens;
    f->frozen += 2 * tokens * (count_numbers(&x->gate) + count_numbers(&x->up) + count_numbers(&x->down)) *
                 all_passes(p);
    if (!x->dense) f->exact += 2 * tokens * count_numbers(&x->router) * all_passes(p);
}

static void add_experts_flops(Flops *f, const Model *model, const Layer *x, const StepWork *work, PassCounts p)
{
    double N = (double)work->step_tokens * (double)model->router.K, D = (double)model->config.hidden_size,
           F = (double)x->expert_weights[0].rows;
    f->experts += 2 * N * 3 * F * D * (p.forward + p.recompute * 2 / 3 + p.backward); /* down is not recomputed */
    f->moved_bytes += sizeof(float) * N * (forwards(p) * (3 * D + 6 * F) + p.backward * (6 * D + 8 * F));
}

static double lora_size(const Lora *lora)
{
    return lora ? (double)param_count(lora->A) + (double)param_count(lora->B) : 0;
}

/* Operations for each number of A and B: forward one product; backward one for the gradient of its input and one for
 * its own. */
static double lora_passes(const StepWork *work, PassCounts p)
{
    return 2 * (double)work->step_tokens * (forwards(p) + 2 * p.backward);
}

static void add_lora_flops(Flops *f, const LayerAdapter *lora, const StepWork *work, PassCounts p)
{
    double size = 0;
    for (size_t i = 0; i < LORA_PLACES; i++) size += lora_size(lora->places[i]) + lora_size(lora->places_up[i]);
    f->lora += size * lora_passes(work, p);
}

static void add_routed_lora_flops(Flops *f, const Model *model, const LayerAdapter *lora, const StepWork *work,
                                  PassCounts p)
{
    double size = 0, share = (double)model->router.K / (double)model->router.E;
    for (size_t e = 0; lora->experts && e < model->router.E; e++)
        size += lora_size(lora->experts[e].lora_gate_up) + lora_size(lora->experts[e].lora_down);
    f->lora += share * size * lora_passes(work, p);
}

LayerFlops flops_of_layer(const Model *model, const Adapter *adapter, const StepWork *work, size_t l, size_t row,
                          PassCounts p)
{
    const Layer *x = &model->layers[l];
    LayerFlops f = {0};
    add_attention_flops(&f.core, model, x, work, p);
    add_mlp_flops(&f.core, x, work, p);
    if (adapter) add_lora_flops(&f.core, &adapter->layers[l], work, p);
    /* results: written, read. backward: results read once more; gradients written, added to (two moves) and read */
    f.core.moved_bytes += sizeof(float) * (double)work->step_tokens * (double)row * (2 * forwards(p) + 5 * p.backward);
    if (x->dense) return f;
    add_experts_flops(&f.experts, model, x, work, p);
    if (adapter) add_routed_lora_flops(&f.experts, model, &adapter->layers[l], work, p);
    return f;
}

Flops flops_of_head(const Model *model, const Adapter *adapter, const StepWork *work)
{
    double tokens = (double)work->step_tokens;
    return (Flops){.frozen = 2 * tokens * count_numbers(&model->lm_head) * (adapter ? 2 : 1),
                   .moved_bytes = sizeof(float) * tokens * (double)model->lm_head.rows * 3};
}

static void add_flops(Flops *f, const Flops *g)
{
    f->frozen += g->frozen;
    f->experts += g->experts;
    f->exact += g->exact;
    f->attention += g->attention;
    f->latent += g->latent;
    f->index += g->index;
    f->lora += g->lora;
    f->moved_bytes += g->moved_bytes;
}

Flops flops_of_step(const Model *model, const Adapter *adapter, const StepWork *work, const size_t *rows)
{
    Flops f = flops_of_head(model, adapter, work);
    for (size_t l = 0; l < model->n_layers; l++) {
        PassCounts passes = flops_passes(model, adapter, work, l);
        LayerFlops layer = flops_of_layer(model, adapter, work, l, rows ? rows[l] : 0, passes);
        add_flops(&f, &layer.core);
        add_flops(&f, &layer.experts);
    }
    return f;
}

double flops_all(const Flops *f)
{
    return f->frozen + f->experts + f->exact + f->attention + f->latent + f->index + f->lora;
}
