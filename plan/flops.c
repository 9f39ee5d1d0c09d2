#include "plan/flops.h"

#include "model/count.h"

PassCounts flops_passes(const Model *model, const Adapter *adapter, const StepWork *work, size_t l)
{
    if (!adapter || l < adapter_lowest_layer(adapter)) return (PassCounts){1, 0, 0};
    return (PassCounts){1, l + work->keep_layers >= model->n_layers ? 0 : 1, 1};
}

static double forwards(PassCounts p) { return p.forward + p.recompute; }
static double all(PassCounts p) { return p.forward + p.recompute + p.backward; }

static double size_of(const Weight *w) { return w->data ? (double)w->rows * (double)w->cols : 0; }

static double both_ways(PassCounts p, Cost forward, Cost backward)
{
    return forwards(p) * forward.flop + p.backward * backward.flop;
}

/* Documents as long as the longest. */
static void add_attention(Flops *f, const Model *model, const Layer *x, const StepWork *work, PassCounts p)
{
    const AttentionShape *a = &model->attention;
    size_t n = work->longest, top_k = model->index.top_k, R = x->kv_up.cols;
    double tokens = (double)work->step_tokens, docs = tokens / (double)n, seen = count_scores(n, 0),
           chosen = count_scores(n, top_k);
    bool chooses = top_k && n > top_k;
    if (chooses && x->indexer) {
        f->exact += 2 * tokens * (size_of(&x->index_q) + size_of(&x->index_k) + size_of(&x->index_heads));
        f->index += docs * count_index(n, seen, &model->index).flop;
    }
    if (chooses && a->latent_from && n >= a->latent_from) {
        f->latent += docs * both_ways(p, count_attention_latent(n, chosen, a, R, TIMING_FORWARD),
                                      count_attention_latent(n, chosen, a, R, TIMING_BACKWARD));
    } else {
        f->attention += docs * both_ways(p, count_attention(n, seen, a, TIMING_FORWARD),
                                         count_attention(n, seen, a, TIMING_BACKWARD));
        f->frozen += 2 * tokens * size_of(&x->kv_up) * all(p);
    }
    f->frozen += 2 * tokens * (size_of(&x->q_proj) + size_of(&x->q_up) + size_of(&x->kv_down) + size_of(&x->o_proj)) *
                 all(p);
    *(x->indexer ? &f->exact : &f->frozen) += 2 * tokens * size_of(&x->q_down) * all(p);
}

static void add_mlp(Flops *f, const Layer *x, const StepWork *work, PassCounts p)
{
    double tokens = (double)work->step_tokens;
    f->frozen += 2 * tokens * (size_of(&x->gate) + size_of(&x->up) + size_of(&x->down)) * all(p);
    if (!x->dense) f->exact += 2 * tokens * size_of(&x->router) * all(p);
}

static void add_experts(Flops *f, const Model *model, const Layer *x, const StepWork *work, PassCounts p)
{
    double lora = (double)work->step_tokens * (double)model->router.K, D = (double)model->config.hidden_size,
           F = (double)x->expert_weights[0].rows;
    f->experts += 2 * lora * 3 * F * D * (p.forward + p.recompute * 2 / 3 + p.backward); /* down is not needed again */
    f->moved_bytes += sizeof(float) * lora * (forwards(p) * (3 * D + 6 * F) + p.backward * (6 * D + 8 * F));
}

static double lora_size(const Lora *lora)
{
    return lora ? (double)param_count(lora->A) + (double)param_count(lora->B) : 0;
}

/* Inner and outer side up; on the way back the same two for gradients of inputs, and two sums. */
static double lora_passes(const StepWork *work, PassCounts p)
{
    return 2 * (double)work->step_tokens * (forwards(p) + 2 * p.backward);
}

static void add_lora(Flops *f, const LayerAdapter *lora, const StepWork *work, PassCounts p)
{
    double size = 0;
    for (size_t i = 0; i < LORA_PLACES; i++) size += lora_size(lora->places[i]) + lora_size(lora->places_up[i]);
    f->lora += size * lora_passes(work, p);
}

static void add_routed_lora(Flops *f, const Model *model, const LayerAdapter *lora, const StepWork *work, PassCounts p)
{
    double size = 0, share = (double)model->router.K / (double)model->router.E;
    for (size_t e = 0; lora->experts && e < model->router.E; e++)
        size += lora_size(lora->experts[e].lora_gate_up) + lora_size(lora->experts[e].lora_down);
    f->lora += share * size * lora_passes(work, p);
}

void flops_of_layer(Flops *core, Flops *experts, const Model *model, const Adapter *adapter, const StepWork *work,
                    size_t l, size_t row, PassCounts p)
{
    const Layer *x = &model->layers[l];
    *core = *experts = (Flops){0};
    add_attention(core, model, x, work, p);
    add_mlp(core, x, work, p);
    if (adapter) add_lora(core, &adapter->layers[l], work, p);
    /* results are written and read; on the way back read once more, and their gradients written, added to and read */
    core->moved_bytes += sizeof(float) * (double)work->step_tokens * (double)row * (2 * forwards(p) + 5 * p.backward);
    if (x->dense) return;
    add_experts(experts, model, x, work, p);
    if (adapter) add_routed_lora(experts, model, &adapter->layers[l], work, p);
}

Flops flops_of_head(const Model *model, const Adapter *adapter, const StepWork *work)
{
    double tokens = (double)work->step_tokens;
    return (Flops){.frozen = 2 * tokens * size_of(&model->lm_head) * (adapter ? 2 : 1),
                   .moved_bytes = sizeof(float) * tokens * (double)model->lm_head.rows * 3};
}

static void add(Flops *f, const Flops *g)
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
        Flops core, experts;
        flops_of_layer(&core, &experts, model, adapter, work, l, rows ? rows[l] : 0,
                       flops_passes(model, adapter, work, l));
        add(&f, &core);
        add(&f, &experts);
    }
    return f;
}

double flops_all(const Flops *f)
{
    return f->frozen + f->experts + f->exact + f->attention + f->latent + f->index + f->lora;
}
