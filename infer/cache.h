/* The cache of generation. For each sequence, layer and token it holds
 *     the latent (kv_lora_rank numbers, after its norm),
 *     the rotary part of the key (qk_rope_head_dim numbers, rotated),
 *     the index key, in layers with an indexer. */
#ifndef GRAFT_INFER_CACHE_H
#define GRAFT_INFER_CACHE_H

#include "model/model.h"

typedef struct {
    size_t n_layers, n_sequences, capacity;
    LayerCache *layers;
    float *values; /* of all layers, one block */
    float **rows;
} Cache;

MUST_USE Err *cache_new(Cache *cache, const Model *model, size_t n_sequences, size_t capacity);
void cache_free(Cache *cache);

/* The bytes of a cache of this size. */
size_t cache_bytes(const Model *model, size_t n_sequences, size_t capacity);

#endif
