/* Sums are of doubles, over micro-batches in the order of their numbers, whichever rank has them: the same bits
 * always. */
#include "train/balance_sums.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

Err *balance_sums_init(BalanceSums *sums, const Model *model)
{
    *sums = (BalanceSums){.L = model->n_layers, .E = model->router.E};
    TRY(mem_new(&sums->layers, sums->L, sizeof *sums->layers));
    return mem_new(&sums->load_all, sums->E + 1, sizeof *sums->load_all); /* one more: E may be 0 */
}

static void free_batch(BalanceSums *sums)
{
    free(sums->micro);
    free(sums->totals);
    sums->micro = sums->totals = NULL;
}

void balance_sums_free(BalanceSums *sums)
{
    free_batch(sums);
    free(sums->load_all);
    free(sums->layers);
    *sums = (BalanceSums){0};
}

Err *balance_sums_begin(BalanceSums *sums, const Batch *batch)
{
    size_t width = balance_width(sums->E);
    free_batch(sums);
    TRY(mem_new(&sums->micro, sums->L * batch->n_micro_batches * width, sizeof *sums->micro));
    return mem_new(&sums->totals, sums->L * width, sizeof *sums->totals);
}

double *balance_sums_at(const BalanceSums *sums, const Batch *batch, size_t l, size_t m)
{
    return sums->micro + (l * batch->n_micro_batches + m) * balance_width(sums->E);
}

Err *balance_sums_gather(BalanceSums *sums, const Model *model, const Batch *batch, const Dp *dp, BalanceValues *values)
{
    size_t E = sums->E, width = balance_width(E), sparse = 0;
    memset(sums->load_all, 0, E * sizeof *sums->load_all);
    for (size_t l = 0; l < sums->L; l++) {
        if (model->layers[l].dense) continue;
        double *micro = balance_sums_at(sums, batch, l, 0), *total = sums->totals + sparse++ * width;
        const double *load = balance_stats(total, E).load;
        TRY(dp_share_rows(dp, batch->rank_micro, width, micro));
        for (size_t m = 0; m < batch->n_micro_batches; m++)
            for (size_t i = 0; i < width; i++) total[i] += micro[m * width + i];
        for (size_t e = 0; e < E; e++) sums->load_all[e] += load[e];
        sums->layers[l] = (BalanceStep){batch->tokens, batch->n_docs, 0, load, sums->load_all};
    }
    for (size_t l = 0; l < sums->L; l++) sums->layers[l].sparse_layers = sparse;
    *values = balance_values(sparse, E, model->router.K, batch->tokens, batch->n_docs, sums->totals);
    return NULL;
}
