/* How op_attention is divided among threads: pieces of documents. For op_attention.c only. */
#ifndef GRAFT_AUTOGRAD_ATTENTION_PIECES_H
#define GRAFT_AUTOGRAD_ATTENTION_PIECES_H

#include "autograd/op.h"

/* Queries [query, query_end) and keys [key, key_end) of document d; a thread computes one head of it at a time. */
typedef struct {
    size_t d, key, key_end, query, query_end;
    bool dq, dkv; /* the gradients that backward computes: of the piece's queries, of its keys and values */
    double cost;  /* proportional to its number of scores */
} AttentionPiece;

static inline size_t rows_of_document(const Group *group, size_t d)
{
    return group->doc_start[d + 1] - group->doc_start[d];
}

/* The largest number of pieces of T tokens in n_docs documents. */
size_t attention_max_pieces(size_t T, size_t n_docs);

/* Pieces of all documents but those that attend over latents, most expensive first; returns their number.
 * forward:  some queries of a document and all their keys
 * backward: whole documents. If one document would keep other threads waiting: dk and dv by pieces of keys, dq by
 * pieces of
 *           queries, which computes S and dP twice */
size_t attention_cut_forward(const Group *group, const AttentionShape *shape, const Keys *keys, AttentionPiece *pieces);
size_t attention_cut_backward(const Group *group, const AttentionShape *shape, const Keys *keys,
                              AttentionPiece *pieces);

#endif
