/* The rows of one call: whole documents, one after another, cut into micro-batches by index alone.
 *
 *     rows       0 ................................... T
 *     documents  |---- 0 ----|-- 1 --|------ 2 ------|-3-|      doc_start
 *     micro      |-------- 7 --------|-------- 8 --------|      micro_batch_start, numbered from first_micro_batch
 *
 * A micro-batch holds whole documents. Nothing is padded. */
#ifndef GRAFT_AUTOGRAD_GROUP_H
#define GRAFT_AUTOGRAD_GROUP_H

#include <stddef.h>

typedef struct {
    size_t T;
    size_t n_docs, first_doc; /* the number of document 0 in its step: dropout asks for it */
    const size_t *doc_start;  /* [n_docs + 1] */
    const size_t *doc_past;   /* [n_docs] tokens that a cache holds of each document already; NULL: none */
    size_t n_micro_batches, first_micro_batch; /* the number of micro-batch 0 in its step */
    const size_t *micro_batch_start;           /* [n_micro_batches + 1] */
} Group;

/* The group of n_docs documents and n_micro_batches micro-batches that start where the two arrays say; the first of
 * each is number 0, and no cache is behind it. */
static inline Group group_init(size_t n_docs, const size_t *doc_start, size_t n_micro_batches,
                               const size_t *micro_batch_start)
{
    return (Group){.T = doc_start[n_docs],
                   .n_docs = n_docs,
                   .doc_start = doc_start,
                   .n_micro_batches = n_micro_batches,
                   .micro_batch_start = micro_batch_start};
}

/* The rows [begin, begin + n) of one micro-batch and its number in the step. */
typedef struct {
    size_t begin, n, number;
} Span;

static inline Span group_span(const Group *group, size_t m)
{
    return (Span){group->micro_batch_start[m], group->micro_batch_start[m + 1] - group->micro_batch_start[m],
                  group->first_micro_batch + m};
}

#endif
