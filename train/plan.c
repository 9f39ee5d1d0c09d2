#include "train/plan.h"

const char *const bound_names[BOUNDS] = {"arithmetic", "disk", "memory", "network"};

void plan_times(Plan *p, const Model *model, const Adapter *adapter, const Work *work, const Machine *m, size_t hosts, double network_gbs)
{
    const Budget *b = &p->budget;
    double rank_tokens = (double)work->step_tokens / (double)work->ranks, group = b->group_tokens && (double)b->group_tokens < rank_tokens ? (double)b->group_tokens : rank_tokens;
    double rows = model->router.E ? group * (double)model->router.K / (double)model->router.E : group;
    p->flops = budget_flops(model, adapter, work);
    p->share = 0.6 * rows / (rows + 8);
    p->seconds[BOUND_ARITHMETIC] = p->flops / (1e9 * m->gflops * p->share * (double)hosts);
    p->seconds[BOUND_DISK] = m->disk_gbs > 0 ? (double)(b->read_bytes + b->scratch_bytes) / (1e9 * m->disk_gbs) : 0;
    p->seconds[BOUND_MEMORY] = m->memory_gbs > 0 ? 3 * (double)stream_layer_bytes(&b->weights) / (1e9 * m->memory_gbs) : 0;
    p->seconds[BOUND_NETWORK] = hosts > 1 && network_gbs > 0 && adapter ? 2 * 4 * (double)adapter->n / (1e9 * network_gbs) : 0;
    p->bound = BOUND_ARITHMETIC;
    for (Bound i = 0; i < BOUNDS; i++)
        if (p->seconds[i] > p->seconds[p->bound]) p->bound = i;
    p->step_seconds = p->seconds[p->bound];
    p->tokens_per_second = (double)work->step_tokens / p->step_seconds;
}

Err *plan_make(Plan *p, Model *model, const Adapter *adapter, const Work *work, const Machine *m, size_t hosts, double network_gbs, size_t limit)
{
    *p = (Plan){0};
    TRY(budget_make(&p->budget, model, adapter, work, limit));
    plan_times(p, model, adapter, work, m, hosts, network_gbs);
    return NULL;
}
