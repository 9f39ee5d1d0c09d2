/* The parts that a model's weights are read in, with what they take from which file.
 *
 *     part    0 .. n - 1: the cores and chunks of all layers, in their order; n: embedding and head
 *     bytes   a part's spans of all shards, one after another; a PartRef says which pointer of which Weight goes where
 *     pieces  the spans, cut for reading */
#ifndef GRAFT_MODEL_STREAM_PARTS_H
#define GRAFT_MODEL_STREAM_PARTS_H

#include "model/model.h"
#include "model/stream_budget.h"

typedef struct {
    const void **pointer; /* a Weight's data or scale */
    const void *mapped;   /* what it is outside */
    size_t shard, offset, bytes;
    size_t at; /* in the part's bytes */
} PartRef;

typedef struct {
    size_t shard, offset, bytes, at; /* aligned */
} PartPiece;

typedef struct {
    bool chunk;
    size_t n_refs, n_pieces, bytes;
    PartRef *refs;
    PartPiece *pieces;
} StreamedPart;

typedef struct {
    size_t n_layers, n;
    size_t *first;       /* [n_layers + 1] a layer's core; its chunks follow */
    size_t *begin;       /* [n] of layer l from first[l] on: the first expert of each of its chunks, then E */
    StreamedPart *parts; /* [n + 1] */
} StreamedParts;

/* Cut so that a part takes part_bytes at the most, where it can be cut; sizes_only: without refs and pieces.
 * Owner: the caller, until parts_free, which takes empty (all zero) ones, too. */
MUST_USE Err *parts_cut(StreamedParts *parts, Model *model, size_t part_bytes, bool sizes_only);

/* The most that parts should take under a limit: as stream_budget_part_max says. */
MUST_USE Err *parts_size(Model *model, size_t limit_bytes, size_t *part_bytes);
void parts_free(StreamedParts *parts);

/* The budget of parts; resident [n], or NULL. */
MUST_USE Err *parts_budget(const StreamedParts *parts, size_t limit_bytes, StreamBudget *budget, bool *resident);

#endif
