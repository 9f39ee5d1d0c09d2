/* What generation remembers of each sequence: per layer and token the latent (kv_lora_rank numbers, after its norm), the
 * rotated key part, and index keys where a layer has an indexer. */
#ifndef GRAFT_INFER_CACHE_H
#define GRAFT_INFER_CACHE_H

#include "model/model.h"

typedef struct {
    size_t n_layers, n_sequences, capacity;
    LayerCache *layers;
    float *values; /* behind all of them */
    float **rows;
} Cache;

MUST_USE Err *cache_new(Cache *cache, const Model *model, size_t n_sequences, size_t capacity);
void cache_free(Cache *cache);

/* Bytes that a cache of this size takes. */
size_t cache_bytes(const Model *model, size_t n_sequences, size_t capacity);

#endif
