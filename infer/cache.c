/* One block of floats, layer after layer and sequence after sequence: latents [capacity][R], rotary keys
 * [capacity][rope], index keys [capacity][dim]. Layers point into it through arrays of row pointers, one for each
 * sequence. */
#include "infer/cache.h"

#include "base/memory.h"

#include <stdlib.h>

/* Floats of one token in one layer. */
static size_t token_floats(const Model *model, size_t l)
{
    const ModelConfig *c = &model->config;
    return (size_t)(c->kv_lora_rank + c->qk_rope_head_dim) + (model->layers[l].indexer ? model->index.dim : 0);
}

static size_t all_floats(const Model *model)
{
    size_t n = 0;
    for (size_t l = 0; l < model->n_layers; l++) n += token_floats(model, l);
    return n;
}

size_t cache_bytes(const Model *model, size_t n_sequences, size_t capacity)
{
    return n_sequences * capacity * all_floats(model) * sizeof(float);
}

Err *cache_new(Cache *cache, const Model *model, size_t n_sequences, size_t capacity)
{
    size_t L = model->n_layers, R = (size_t)model->config.kv_lora_rank, rope = model->attention.rope;
    *cache = (Cache){.n_layers = L, .n_sequences = n_sequences, .capacity = capacity};
    Err *err = mem_new(&cache->layers, L, sizeof *cache->layers);
    if (!err) err = mem_new(&cache->rows, 3 * L * n_sequences, sizeof *cache->rows);
    if (!err) err = mem_new(&cache->values, n_sequences * capacity * all_floats(model), sizeof *cache->values);
    if (err) {
        cache_free(cache);
        return err;
    }
    float *at = cache->values, **rows = cache->rows;
    for (size_t l = 0; l < L; l++) {
        cache->layers[l] = (LayerCache){capacity, rows, rows + n_sequences, rows + 2 * n_sequences};
        rows += 3 * n_sequences;
        for (size_t i = 0; i < n_sequences; i++) {
            cache->layers[l].latent[i] = at;
            cache->layers[l].rotary[i] = at + capacity * R;
            cache->layers[l].index[i] = at + capacity * (R + rope);
            at += capacity * token_floats(model, l);
        }
    }
    return NULL;
}

void cache_free(Cache *cache)
{
    free(cache->layers);
    free(cache->rows);
    free(cache->values);
    *cache = (Cache){0};
}
