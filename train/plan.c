#include "train/plan.h"

#include <math.h>

const char *const bound_names[BOUNDS] = {"arithmetic", "disk", "memory", "network"};

/* What overlaps still waits here and there when two take about the same time: the fourth root of the sum of fourth powers is 19 % more
 * than either of two that are equal, and 2 % more than one that is twice the other (docs/streaming.md has such steps). */
enum { OVERLAP = 4 };

/* Shares of the fp32 peak that operations beside products with frozen weights reach (`graft bench --parts operations`; docs/speed.md). */
static const double attention_share = 0.7, latent_share = 0.65, index_share = 0.7, pairs_share = 0.4;

static double arithmetic_seconds(const Plan *p, const Model *model, const Work *work, const Machine *m, bool bf16)
{
    double rows = (double)work->step_tokens / (double)work->ranks;
    if (p->budget.group_tokens && (double)p->budget.group_tokens < rows) rows = (double)p->budget.group_tokens;
    double experts = model->router.E ? rows * (double)model->router.K / (double)model->router.E : rows;
    const Flops *f = &p->flops;
    double products = f->experts / machine_rate(m, bf16, experts) + f->frozen / machine_rate(m, bf16, rows) + f->exact / machine_rate(m, false, rows);
    double others = (f->attention / attention_share + f->latent / latent_share + f->index / index_share + f->pairs / pairs_share) / m->gflops;
    return 1e-9 * (products + others + (m->memory_gbs > 0 ? f->moved_bytes / m->memory_gbs : 0));
}

Err *plan_times(Plan *p, const Model *model, const Adapter *adapter, const Work *work, const Machine *m, bool bf16, size_t hosts, double network_gbs)
{
    const Budget *b = &p->budget;
    TRY(flops_of_step(&p->flops, model, adapter, work));
    p->seconds[BOUND_ARITHMETIC] = arithmetic_seconds(p, model, work, m, bf16) / (double)hosts;
    p->share = 1e-9 * flops_all(&p->flops) / (p->seconds[BOUND_ARITHMETIC] * m->gflops * (double)hosts);
    p->seconds[BOUND_DISK] = m->disk_gbs > 0 ? (double)(b->read_bytes + b->scratch_bytes) / (1e9 * m->disk_gbs) : 0;
    p->seconds[BOUND_MEMORY] = m->memory_gbs > 0 ? 3 * (double)stream_layer_bytes(&b->weights) / (1e9 * m->memory_gbs) : 0;
    p->seconds[BOUND_NETWORK] = hosts > 1 && network_gbs > 0 && adapter ? 2 * 4 * (double)adapter->n / (1e9 * network_gbs) : 0;
    p->bound = BOUND_ARITHMETIC;
    double sum = 0;
    for (Bound i = 0; i < BOUNDS; i++) {
        if (p->seconds[i] > p->seconds[p->bound]) p->bound = i;
        sum += pow(p->seconds[i], OVERLAP);
    }
    p->step_seconds = pow(sum, 1.0 / OVERLAP);
    p->tokens_per_second = (double)work->step_tokens / p->step_seconds;
    return NULL;
}

Err *plan_make(Plan *p, Model *model, const Adapter *adapter, const Work *work, const Machine *m, bool bf16, size_t hosts, double network_gbs, size_t limit)
{
    *p = (Plan){0};
    TRY(budget_make(&p->budget, model, adapter, work, limit));
    return plan_times(p, model, adapter, work, m, bf16, hosts, network_gbs);
}
