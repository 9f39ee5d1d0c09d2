/* Which documents a step trains on: a function of seed and step alone. Every epoch goes through all documents once, in
 * an order of its own; the last step of an epoch may be shorter. Ranks share a step out among themselves elsewhere. */
#ifndef GRAFT_DATA_LOADER_H
#define GRAFT_DATA_LOADER_H

#include "data/dataset.h"

typedef struct Loader Loader;

/* Of the dataset only its count is kept. Fails: ERR_USAGE, a batch of 0; ERR_DATA, 2^32 documents or more. */
MUST_USE Err *loader_open(Loader **loader, const Dataset *dataset, size_t train_batch_size, uint64_t seed);
void loader_close(Loader *loader);

size_t loader_steps_per_epoch(const Loader *loader);

/* The documents of a step (from 0, through all epochs): *documents lends their *n numbers until the next call.
 * One thread at a time: the order of the epoch last asked for is kept. */
void loader_step(const Loader *loader, uint64_t step, size_t *n, const uint32_t **documents);

#endif
