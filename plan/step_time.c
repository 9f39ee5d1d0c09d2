#include "plan/step_time.h"

#include "base/memory.h"
#include "plan/tape_bytes.h"
#include "plan/stream_time.h"

#include <math.h>
#include <stdlib.h>

const char *const bound_names[BOUNDS] = {"arithmetic", "disk", "memory", "network"};

/* FP8 codes are widened on their way, which costs so much of the bf16 path's rate; in fp32 nothing (`graft bench --parts products`). */
static const double fp8_share = 0.91;

/* Shares of the fp32 peak that operations beside products with frozen weights reach (`graft bench --parts operations`; docs/speed.md). */
static const double attention_share = 0.7, latent_share = 0.65, index_share = 0.7, lora_share = 0.4;

/* What it takes to know how long arithmetic takes. */
typedef struct {
    const Model *model;
    const Adapter *adapter;
    const StepWork *work;
    const Machine *machine;
    bool bf16;
    double rows;  /* of a group */
    double share; /* of the machine's rates that products with frozen weights reach */
    size_t hosts;
} Clock;

/* Layers are alike, and so are their weights. */
static double share_of(const Model *model, bool bf16)
{
    return bf16 && model->layers[model->n_layers - 1].kv_up.dtype == DTYPE_F8_E4M3 ? fp8_share : 1;
}

static double seconds_of(const Clock *c, const Flops *f)
{
    const Machine *m = c->machine;
    double experts = c->model->router.E ? c->rows * (double)c->model->router.K / (double)c->model->router.E : c->rows;
    double frozen = (f->experts / machine_rate(m, c->bf16, experts) + f->frozen / machine_rate(m, c->bf16, c->rows)) /
                    c->share;
    double products = frozen + f->exact / machine_rate(m, false, c->rows);
    double others = (f->attention / attention_share + f->latent / latent_share + f->index / index_share +
                     f->lora / lora_share) /
                    m->gflops;
    return 1e-9 * (products + others + (m->memory_gbs > 0 ? f->moved_bytes / m->memory_gbs : 0)) / (double)c->hosts;
}

/* The head sees fewer rows at once, and is never FP8. */
static double head_seconds(const Clock *c)
{
    Flops head = flops_of_head(c->model, c->adapter, c->work);
    Clock few = *c;
    few.share = 1;
    few.rows = fmin(c->rows, (double)op_loss_rows(c->model->lm_head.rows));
    return seconds_of(&few, &head);
}

/* Seconds of one kind of pass of a layer. */
static void pass_seconds(const Clock *c, size_t l, size_t row, PassCounts p, double *core, double *experts)
{
    Flops of_core, of_experts;
    flops_of_layer(&of_core, &of_experts, c->model, c->adapter, c->work, l, row, p);
    *core = seconds_of(c, &of_core);
    *experts = seconds_of(c, &of_experts);
}

static LayerSeconds layer_seconds(const Clock *c, size_t l, size_t row)
{
    PassCounts p = flops_passes(c->model, c->adapter, c->work, l);
    LayerSeconds s;
    double recompute;
    pass_seconds(c, l, row, (PassCounts){p.forward, 0, 0}, &s.core_forward, &s.experts_forward);
    pass_seconds(c, l, row, (PassCounts){0, p.recompute, 0}, &s.core_recompute, &recompute);
    pass_seconds(c, l, row, (PassCounts){0, 0, p.backward}, &s.core_backward, &s.experts_backward);
    s.experts_backward += recompute; /* gate and up are computed again when the experts are there */
    return s;
}

/* The walk of a step whose weights stream. */
static Err *walk_of(Plan *p, Model *model, const Clock *c, const LayerSeconds *layers)
{
    const StreamBudget *w = &p->budget.weights;
    StreamedParts parts = {0};
    StreamBudget plan;
    bool *resident = NULL;
    size_t rows = (c->work->step_tokens + c->work->ranks - 1) / c->work->ranks;
    double scratch = (double)p->budget.scratch_bytes / (1e9 * c->machine->disk_gbs);
    Err *err = parts_cut(&parts, model, w->part_bytes, true);
    if (!err) err = mem_new(&resident, parts.n, sizeof *resident);
    if (!err) err = parts_budget(&parts, w->limit_bytes, &plan, resident);
    StreamTimeInput work = {.parts = &parts,
                            .resident = resident,
                            .budget = &plan,
                            .layers = layers,
                            .head = head_seconds(c) + scratch,
                            .lowest = c->adapter ? adapter_lowest_layer(c->adapter) : model->n_layers,
                            .group_passes = (rows + (size_t)c->rows - 1) / (size_t)c->rows,
                            .bytes_per_second = 1e9 * c->machine->disk_gbs};
    if (!err) err = stream_time(&p->step_seconds, &work);
    free(resident);
    parts_free(&parts);
    return err;
}

/* Arithmetic, and the step that it and the disk make. layers [n_layers] is filled. */
static Err *time_layers(Plan *p, Model *model, const Clock *c, const size_t *rows, LayerSeconds *layers)
{
    double sum = head_seconds(c);
    for (size_t l = 0; l < model->n_layers; l++) {
        LayerSeconds s = layers[l] = layer_seconds(c, l, rows[l]);
        sum += s.core_forward + s.experts_forward + s.core_recompute + s.core_backward + s.experts_backward;
    }
    p->flops = flops_of_step(model, c->adapter, c->work, rows);
    p->step_seconds = p->seconds[BOUND_ARITHMETIC] = sum;
    return p->budget.streamed && c->machine->disk_gbs > 0 ? walk_of(p, model, c, layers) : NULL;
}

static Err *time_step(Plan *p, Model *model, const Clock *c)
{
    size_t *rows = NULL;
    LayerSeconds *layers = NULL;
    Err *err = mem_new(&rows, model->n_layers, sizeof *rows);
    if (!err) err = mem_new(&layers, model->n_layers, sizeof *layers);
    if (!err) err = tapes_rows(rows, model, c->work->longest);
    if (!err) err = time_layers(p, model, c, rows, layers);
    free(rows);
    free(layers);
    return err;
}

Err *plan_times(Plan *p, Model *model, const Adapter *adapter, const StepWork *work, const Machine *m, bool bf16,
                size_t hosts, double network_gbs)
{
    const Budget *b = &p->budget;
    double rows = (double)work->step_tokens / (double)work->ranks;
    if (b->group_tokens && (double)b->group_tokens < rows) rows = (double)b->group_tokens;
    if (rows < 1) rows = 1; /* more ranks than tokens */
    TRY(time_step(p, model, &(Clock){model, adapter, work, m, bf16, rows, share_of(model, bf16), hosts}));
    p->share = 1e-9 * flops_all(&p->flops) / (p->seconds[BOUND_ARITHMETIC] * m->gflops * (double)hosts);
    p->seconds[BOUND_DISK] = m->disk_gbs > 0 ? (double)(b->read_bytes + b->scratch_bytes) / (1e9 * m->disk_gbs) : 0;
    p->seconds[BOUND_MEMORY] = m->memory_gbs > 0
                                   ? 3 * (double)stream_budget_layer_bytes(&b->weights) / (1e9 * m->memory_gbs)
                                   : 0;
    p->seconds[BOUND_NETWORK] = hosts > 1 && network_gbs > 0 && adapter
                                    ? 2 * 4 * (double)adapter->n / (1e9 * network_gbs)
                                    : 0;
    p->bound = BOUND_ARITHMETIC;
    for (Bound i = 0; i < BOUNDS; i++)
        if (p->seconds[i] > p->seconds[p->bound]) p->bound = i;
    p->step_seconds = fmax(p->step_seconds, fmax(p->seconds[BOUND_MEMORY], p->seconds[BOUND_NETWORK]));
    p->tokens_per_second = (double)work->step_tokens / p->step_seconds;
    return NULL;
}

Err *plan_make(Plan *p, Model *model, const Adapter *adapter, const StepWork *work, const Machine *m, bool bf16,
               size_t hosts, double network_gbs, size_t limit)
{
    *p = (Plan){0};
    TRY(budget_make(&p->budget, model, adapter, work, limit));
    return plan_times(p, model, adapter, work, m, bf16, hosts, network_gbs);
}
