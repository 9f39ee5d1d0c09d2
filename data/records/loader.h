/* Which documents a step trains on: a function of seed and step alone. Every epoch goes through all documents once (a
 * file with a weight: so many times, or through a random part of it), in an order of its own; the last step of an epoch
 * may be shorter. Ranks share a step out among themselves elsewhere.
 *
 * Documents that are not kept are read and tokenized by two threads, up to four steps ahead; that changes when a
 * document is there, never which. */
#ifndef GRAFT_DATA_RECORDS_LOADER_H
#define GRAFT_DATA_RECORDS_LOADER_H

#include "data/records/dataset.h"

typedef struct Loader Loader;

/* Waits for the dataset, which is borrowed. Fails: ERR_USAGE, a batch of 0; ERR_DATA, 2^32 documents or more. */
MUST_USE Err *loader_open(Loader **loader, Dataset *dataset, size_t train_batch_size, uint64_t seed);
void loader_close(Loader *loader);

size_t loader_steps_per_epoch(const Loader *loader);

/* The documents of a step (from 0, through all epochs): *documents lends their *n numbers until the next call.
 * One thread at a time: the order of the epoch last asked for is kept. */
void loader_step(const Loader *loader, uint64_t step, size_t *n, const uint32_t **documents);

/* The same as documents, lent until the next call. Records dropped for their length are missing; where that leaves
 * nothing, the next one in order that is not dropped stands in.
 * Fails: as dataset_open does of a record, when its turn comes. */
MUST_USE Err *loader_documents(Loader *loader, uint64_t step, size_t *n, const Document *const **documents);

/* Of the documents lent so far, where they are not kept. */
DatasetTotals loader_totals(const Loader *loader);

#endif
