/* Which documents a step trains on. The answer depends on seed and step only. Every epoch uses every document once (a
 * file with a weight: that many times, or a random part of it), in an order of its own; the last step of an epoch may
 * be shorter. How ranks divide a step is decided elsewhere.
 *
 * Documents of a dataset that is not preloaded are read and tokenized by two threads, up to four steps ahead. This
 * changes when a document is ready, never which document it is. */
#ifndef GRAFT_DATA_RECORDS_LOADER_H
#define GRAFT_DATA_RECORDS_LOADER_H

#include "data/records/dataset.h"

typedef struct Loader Loader;

/* Wait until the dataset is ready, and open a loader on it. The dataset is borrowed.
 * Fails: as dataset_ready; ERR_USAGE, when the batch is 0; ERR_DATA, with 2^32 documents or more. */
MUST_USE Err *loader_open(Loader **loader, Dataset *dataset, size_t train_batch_size, uint64_t seed);
void loader_close(Loader *loader);

size_t loader_steps_per_epoch(const Loader *loader);

/* The documents of a step (counted from 0 through all epochs): *documents are their *n numbers.
 * Owner: the loader, until the next call. Only one thread may call it at a time, because the loader keeps the order of
 * the last epoch. */
void loader_step(const Loader *loader, uint64_t step, size_t *n, const uint32_t **documents);

/* The same as documents. Records that are dropped because they are too long are missing; when that leaves no document,
 * the next one in order that is not dropped takes their place.
 * Owner: the loader, until the next call. Fails: as dataset_open for a bad record, when a step needs that record. */
MUST_USE Err *loader_documents(Loader *loader, uint64_t step, size_t *n, const Document *const **documents);

/* Totals of the documents returned so far; only of a dataset that is not preloaded. */
DatasetTotals loader_totals(const Loader *loader);

#endif
