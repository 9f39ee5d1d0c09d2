/* Counts are integers, so any order of adding them gives the same numbers on every rank. */
#include "train/routing_counts.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

static size_t width_of(const RoutingCounts *counts) { return 2 * counts->E + 1; }

Err *routing_counts_init(RoutingCounts *counts, size_t n_layers, size_t n_experts)
{
    *counts = (RoutingCounts){.L = n_layers, .E = n_experts};
    return mem_new(&counts->numbers, n_layers * width_of(counts), sizeof *counts->numbers);
}

void routing_counts_free(RoutingCounts *counts)
{
    free(counts->numbers);
    *counts = (RoutingCounts){0};
}

LayerCounts routing_counts_of(const RoutingCounts *counts, size_t l)
{
    uint64_t *first = counts->numbers + l * width_of(counts);
    return (LayerCounts){first, first + counts->E, first + 2 * counts->E};
}

void routing_counts_load(RoutingCounts *counts, const Model *model, const Batch *batch, const Choices *choices)
{
    memset(counts->numbers, 0, counts->L * width_of(counts) * sizeof *counts->numbers);
    for (size_t l = 0; l < counts->L; l++) {
        uint64_t *load = routing_counts_of(counts, l).load;
        if (model->layers[l].dense) continue;
        for (size_t i = 0; i < batch->n_groups; i++) {
            const int32_t *ids = choices[i].experts[l];
            for (size_t j = 0; j < batch->groups[i].group.T * model->router.K; j++) load[ids[j]]++;
        }
    }
}

static bool any_not_zero(size_t n, const float *x)
{
    size_t i = 0;
    while (i < n && x[i] == 0) i++;
    return i < n;
}

void routing_counts_live(RoutingCounts *counts, const Model *model, size_t l, const Group *group,
                         const Choices *choices, const float *dx)
{
    size_t D = (size_t)model->config.hidden_size, K = model->router.K;
    LayerCounts of = routing_counts_of(counts, l);
    for (size_t t = 0; t < group->T; t++) {
        if (!any_not_zero(D, dx + t * D)) continue;
        ++*of.live_tokens;
        for (size_t k = 0; k < K && !model->layers[l].dense; k++) of.live[choices->experts[l][t * K + k]]++;
    }
}

void routing_counts_agree(RoutingCounts *counts, const Dp *dp)
{
    dp_add_counts(dp, counts->L * width_of(counts), counts->numbers);
}
