/* Tiny models for tests: the fixtures opened, adapters with random values, documents and logits. */
#ifndef GRAFT_TESTS_SUPPORT_TINY_H
#define GRAFT_TESTS_SUPPORT_TINY_H

#include "data/records/dataset.h"
#include "model/model.h"
#include "tests/support/check.h"

/* tests/fixtures/model/NAME, or a path with a slash in it. */
Model *tiny_model(const char *name);

/* JSON with ' for ": tiny_json("['q_a_proj']"). Owner: the caller. */
Json *tiny_json(const char *text);

/* A new adapter; targets, layers and experts are JSON with ' for ", or NULL: not given. Owner: the caller. */
Err *tiny_adapter(Adapter **adapter, const Model *model, size_t r, const char *targets, const char *layers,
                  const char *experts);

/* Every value from U(-size, size); to the values of a router a tenth of that is added. */
void tiny_fill(Adapter *adapter, uint64_t seed, double size);

/* A document of n random tokens below `vocab`, every one but the last in the loss. Owner: the caller,
 * tiny_document_free. */
Document tiny_document(size_t n, size_t vocab, uint64_t seed);
void tiny_document_free(Document *document);

/* Logits [n][V] of one sequence. Owner: the caller, until free(). */
float *tiny_logits(Model *model, const Adapter *adapter, const int32_t *ids, size_t n);

/* The largest |a - b| over the RMS of b. */
double tiny_distance(size_t n, const float *a, const float *b);

#endif
