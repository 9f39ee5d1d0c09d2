/* Seconds of F operations at r GFLOP/s: 1e-9 F / (r * share), where
 *
 *     frozen and expert products   r = machine_rate(rows), share 1 (FP8 on the bf16 path: 0.91)
 *     products in fp32             r = machine_rate(rows) of the fp32 path, share 1
 *     attention, latents, indexer, LoRA   r = the fp32 peak, shares 0.7, 0.65, 0.7 and 0.4
 *
 * The shares were set from measurements: `graft bench --parts operations`, and `--parts products` for FP8.
 * docs/speed.md has such tables. A plan that disagrees with a run is corrected here. */
#include "plan/step_time.h"

#include "base/memory.h"
#include "plan/stream_time.h"
#include "plan/tape_bytes.h"

#include <math.h>
#include <stdlib.h>

const char *const bound_names[BOUNDS] = {"arithmetic", "disk", "memory", "network"};

/* On the bf16 path FP8 codes are widened before they are multiplied, and products reach this share of the rate of
 * bf16. In fp32 widening costs nothing measurable. */
static const double fp8_share = 0.91;

/* Shares of the fp32 peak. */
static const double attention_share = 0.7, latent_share = 0.65, index_share = 0.7, lora_share = 0.4;

/* What decides how long arithmetic takes. */
typedef struct {
    const PlanInput *input;
    double rows;  /* of a group */
    double share; /* of the machine's rates that products with frozen weights reach */
} Arithmetic;

/* The last layer stands for all: files have their projections in one format. */
static double frozen_share(const Model *model, bool bf16)
{
    return bf16 && model->layers[model->n_layers - 1].kv_up.dtype == DTYPE_F8_E4M3 ? fp8_share : 1;
}

static double seconds_of(const Arithmetic *a, const Flops *f)
{
    const PlanInput *in = a->input;
    const Machine *m = in->machine;
    const RouterShape *router = &in->model->router;
    double expert_rows = router->E ? a->rows * (double)router->K / (double)router->E : a->rows;
    double frozen = (f->experts / machine_rate(m, in->bf16, expert_rows) +
                     f->frozen / machine_rate(m, in->bf16, a->rows)) /
                    a->share;
    double products = frozen + f->exact / machine_rate(m, false, a->rows);
    double others = (f->attention / attention_share + f->latent / latent_share + f->index / index_share +
                     f->lora / lora_share) /
                    m->gflops;
    return 1e-9 * (products + others + (m->memory_gbs > 0 ? f->moved_bytes / m->memory_gbs : 0)) / (double)in->hosts;
}

/* The head multiplies fewer rows at once, and is never FP8. */
static double head_seconds(const Arithmetic *a)
{
    const PlanInput *in = a->input;
    Flops head = flops_of_head(in->model, in->adapter, &in->work);
    Arithmetic few = {in, fmin(a->rows, (double)op_loss_rows(in->model->lm_head.rows)), 1};
    return seconds_of(&few, &head);
}

typedef struct {
    double core, experts;
} PassSeconds;

/* Seconds of one kind of pass of layer l. */
static PassSeconds pass_seconds(const Arithmetic *a, size_t l, size_t row, PassCounts passes)
{
    const PlanInput *in = a->input;
    LayerFlops f = flops_of_layer(in->model, in->adapter, &in->work, l, row, passes);
    return (PassSeconds){seconds_of(a, &f.core), seconds_of(a, &f.experts)};
}

static LayerSeconds layer_seconds(const Arithmetic *a, size_t l, size_t row)
{
    PassCounts p = flops_passes(a->input->model, a->input->adapter, &a->input->work, l);
    PassSeconds forward = pass_seconds(a, l, row, (PassCounts){p.forward, 0, 0}),
                recompute = pass_seconds(a, l, row, (PassCounts){0, p.recompute, 0}),
                backward = pass_seconds(a, l, row, (PassCounts){0, 0, p.backward});
    return (LayerSeconds){.core_forward = forward.core,
                          .core_recompute = recompute.core,
                          .core_backward = backward.core,
                          .experts_forward = forward.experts,
                          /* gate and up are recomputed while the experts are there for the backward pass */
                          .experts_backward = backward.experts + recompute.experts};
}

/* The step when weights stream, into p->step_seconds. */
static Err *time_streamed_step(Plan *p, const Arithmetic *a, const LayerSeconds *layers)
{
    const PlanInput *in = a->input;
    const StreamBudget *w = &p->budget.weights;
    StreamedParts parts = {0};
    StreamBudget weights;
    bool *resident = NULL;
    size_t rows = (in->work.step_tokens + in->work.ranks - 1) / in->work.ranks;
    double scratch = (double)p->budget.scratch_bytes / (1e9 * in->machine->disk_gbs);
    Err *err = parts_cut(&parts, in->model, w->part_bytes, true);
    if (!err) err = mem_new(&resident, parts.n, sizeof *resident);
    if (!err) err = parts_budget(&parts, w->limit_bytes, &weights, resident);
    StreamTimeInput input = {.parts = &parts,
                             .resident = resident,
                             .budget = &weights,
                             .layers = layers,
                             .head = head_seconds(a) + scratch,
                             .lowest = in->adapter ? adapter_lowest_layer(in->adapter) : in->model->n_layers,
                             .group_passes = (rows + (size_t)a->rows - 1) / (size_t)a->rows,
                             .bytes_per_second = 1e9 * in->machine->disk_gbs};
    if (!err) err = stream_time(&p->step_seconds, &input);
    free(resident);
    parts_free(&parts);
    return err;
}

/* Arithmetic, and the step that arithmetic and disk make together. layers [n_layers] is filled. */
static Err *time_layers(Plan *p, const Arithmetic *a, const size_t *rows, LayerSeconds *layers)
{
    const PlanInput *in = a->input;
    double sum = head_seconds(a);
    for (size_t l = 0; l < in->model->n_layers; l++) {
        LayerSeconds s = layers[l] = layer_seconds(a, l, rows[l]);
        sum += s.core_forward + s.experts_forward + s.core_recompute + s.core_backward + s.experts_backward;
    }
    p->flops = flops_of_step(in->model, in->adapter, &in->work, rows);
    p->step_seconds = p->seconds[BOUND_ARITHMETIC] = sum;
    return p->budget.streamed && in->machine->disk_gbs > 0 ? time_streamed_step(p, a, layers) : NULL;
}

static Err *time_step(Plan *p, const Arithmetic *a)
{
    const Model *model = a->input->model;
    size_t *rows = NULL;
    LayerSeconds *layers = NULL;
    Err *err = mem_new(&rows, model->n_layers, sizeof *rows);
    if (!err) err = mem_new(&layers, model->n_layers, sizeof *layers);
    if (!err) err = tapes_rows(rows, model, a->input->work.longest);
    if (!err) err = time_layers(p, a, rows, layers);
    free(rows);
    free(layers);
    return err;
}

Err *plan_times(Plan *p, const PlanInput *in)
{
    const Budget *b = &p->budget;
    const Machine *m = in->machine;
    double rows = (double)in->work.step_tokens / (double)in->work.ranks, hosts = (double)in->hosts;
    if (b->group_tokens && (double)b->group_tokens < rows) rows = (double)b->group_tokens;
    if (rows < 1) rows = 1; /* more ranks than tokens */
    TRY(time_step(p, &(Arithmetic){in, rows, frozen_share(in->model, in->bf16)}));
    p->share = 1e-9 * flops_all(&p->flops) / (p->seconds[BOUND_ARITHMETIC] * m->gflops * hosts);
    p->seconds[BOUND_DISK] = m->disk_gbs > 0 ? (double)(b->read_bytes + b->scratch_bytes) / (1e9 * m->disk_gbs) : 0;
    p->seconds[BOUND_MEMORY] = m->memory_gbs > 0
                                   ? 3 * (double)stream_budget_layer_bytes(&b->weights) / (1e9 * m->memory_gbs)
                                   : 0;
    p->seconds[BOUND_NETWORK] = in->hosts > 1 && in->network_gbs > 0 && in->adapter
                                    ? 2 * 4 * (double)in->adapter->n / (1e9 * in->network_gbs)
                                    : 0;
    p->bound = BOUND_ARITHMETIC;
    for (Bound i = 0; i < BOUNDS; i++)
        if (p->seconds[i] > p->seconds[p->bound]) p->bound = i;
    p->step_seconds = fmax(p->step_seconds, fmax(p->seconds[BOUND_MEMORY], p->seconds[BOUND_NETWORK]));
    p->tokens_per_second = (double)in->work.step_tokens / p->step_seconds;
    return NULL;
}

Err *plan_make(Plan *p, const PlanInput *input, size_t limit)
{
    *p = (Plan){0};
    TRY(budget_make(&p->budget, input->model, input->adapter, &input->work, limit));
    return plan_times(p, input);
}
