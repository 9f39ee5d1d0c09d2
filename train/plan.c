#include "train/plan.h"

#include "base/memory.h"
#include "train/walk.h"

#include <math.h>
#include <stdlib.h>

const char *const bound_names[BOUNDS] = {"arithmetic", "disk", "memory", "network"};

/* FP8 codes are widened on their way, which costs so much of the bf16 path's rate; in fp32 nothing (`graft bench --parts products`). */
static const double fp8_share = 0.91;

/* Shares of the fp32 peak that operations beside products with frozen weights reach (`graft bench --parts operations`; docs/speed.md). */
static const double attention_share = 0.7, latent_share = 0.65, index_share = 0.7, pairs_share = 0.4;

/* What it takes to know how long arithmetic takes. */
typedef struct {
    const Model *model;
    const Adapter *adapter;
    const Work *work;
    const Machine *machine;
    bool bf16;
    double rows;   /* of a group */
    double share;  /* of the machine's rates that products with frozen weights reach */
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
    double frozen = (f->experts / machine_rate(m, c->bf16, experts) + f->frozen / machine_rate(m, c->bf16, c->rows)) / c->share;
    double products = frozen + f->exact / machine_rate(m, false, c->rows);
    double others = (f->attention / attention_share + f->latent / latent_share + f->index / index_share + f->pairs / pairs_share) / m->gflops;
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
static Err *pass_seconds(const Clock *c, size_t l, Passes p, double *core, double *experts)
{
    Flops of_core, of_experts;
    TRY(flops_of_layer(&of_core, &of_experts, c->model, c->adapter, c->work, l, p));
    *core = seconds_of(c, &of_core);
    *experts = seconds_of(c, &of_experts);
    return NULL;
}

static Err *layer_seconds(const Clock *c, size_t l, LayerSeconds *s)
{
    Passes p = flops_passes(c->model, c->adapter, c->work, l);
    double again = 0;
    TRY(pass_seconds(c, l, (Passes){p.up, 0, 0}, &s->core_up, &s->experts_up));
    TRY(pass_seconds(c, l, (Passes){0, p.again, 0}, &s->core_again, &again));
    TRY(pass_seconds(c, l, (Passes){0, 0, p.back}, &s->core_back, &s->experts_back));
    s->experts_back += again; /* gate and up are computed again when the experts are there */
    return NULL;
}

/* The walk of a step whose weights stream. */
static Err *walk_of(Plan *p, Model *model, const Clock *c)
{
    const StreamPlan *w = &p->budget.weights;
    Parts parts = {0};
    StreamPlan plan;
    bool *resident = NULL;
    size_t L = model->n_layers, rows = (c->work->step_tokens + c->work->ranks - 1) / c->work->ranks;
    LayerSeconds *layers = NULL;
    Err *err = parts_cut(&parts, model, w->part_bytes, true);
    if (!err) err = mem_new(&resident, parts.n, sizeof *resident);
    if (!err) err = mem_new(&layers, L, sizeof *layers);
    if (!err) err = parts_plan(&parts, w->limit_bytes, &plan, resident);
    for (size_t l = 0; l < L && !err; l++) err = layer_seconds(c, l, &layers[l]);
    double scratch = (double)p->budget.scratch_bytes / (1e9 * c->machine->disk_gbs);
    WalkWork work = {.parts = &parts, .resident = resident, .plan = &plan, .layers = layers, .head = head_seconds(c) + scratch,
                     .lowest = c->adapter ? adapter_lowest_layer(c->adapter) : L, .laps = (rows + (size_t)c->rows - 1) / (size_t)c->rows, .bytes_per_second = 1e9 * c->machine->disk_gbs};
    if (!err) err = walk_seconds(&p->step_seconds, &work);
    free(layers);
    free(resident);
    parts_free(&parts);
    return err;
}

Err *plan_times(Plan *p, Model *model, const Adapter *adapter, const Work *work, const Machine *m, bool bf16, size_t hosts, double network_gbs)
{
    const Budget *b = &p->budget;
    double rows = (double)work->step_tokens / (double)work->ranks;
    if (b->group_tokens && (double)b->group_tokens < rows) rows = (double)b->group_tokens;
    if (rows < 1) rows = 1; /* more ranks than tokens */
    Clock clock = {model, adapter, work, m, bf16, rows, share_of(model, bf16), hosts};
    TRY(flops_of_step(&p->flops, model, adapter, work));
    Flops head = flops_of_head(model, adapter, work);
    p->seconds[BOUND_ARITHMETIC] = seconds_of(&clock, &p->flops) - seconds_of(&clock, &head) + head_seconds(&clock);
    p->share = 1e-9 * flops_all(&p->flops) / (p->seconds[BOUND_ARITHMETIC] * m->gflops * (double)hosts);
    p->seconds[BOUND_DISK] = m->disk_gbs > 0 ? (double)(b->read_bytes + b->scratch_bytes) / (1e9 * m->disk_gbs) : 0;
    p->seconds[BOUND_MEMORY] = m->memory_gbs > 0 ? 3 * (double)stream_layer_bytes(&b->weights) / (1e9 * m->memory_gbs) : 0;
    p->seconds[BOUND_NETWORK] = hosts > 1 && network_gbs > 0 && adapter ? 2 * 4 * (double)adapter->n / (1e9 * network_gbs) : 0;
    p->bound = BOUND_ARITHMETIC;
    for (Bound i = 0; i < BOUNDS; i++)
        if (p->seconds[i] > p->seconds[p->bound]) p->bound = i;
    p->step_seconds = p->seconds[BOUND_ARITHMETIC];
    if (b->streamed && m->disk_gbs > 0) TRY(walk_of(p, model, &clock));
    p->step_seconds = fmax(p->step_seconds, fmax(p->seconds[BOUND_MEMORY], p->seconds[BOUND_NETWORK]));
    p->tokens_per_second = (double)work->step_tokens / p->step_seconds;
    return NULL;
}

Err *plan_make(Plan *p, Model *model, const Adapter *adapter, const Work *work, const Machine *m, bool bf16, size_t hosts, double network_gbs, size_t limit)
{
    *p = (Plan){0};
    TRY(budget_make(&p->budget, model, adapter, work, limit));
    return plan_times(p, model, adapter, work, m, bf16, hosts, network_gbs);
}
