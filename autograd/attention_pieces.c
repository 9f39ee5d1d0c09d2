/* Pieces begin at multiples of TILE_QUERIES and TILE_KEYS, as tiles do, so every sum goes over the same tiles in the
 * same order: no bit depends on how documents are cut, and the cut may depend on the number of threads. */
#include "autograd/attention_pieces.h"

#include "autograd/attention_workspace.h"
#include "base/minmax.h"

#include <omp.h>
#include <stdlib.h>

size_t attention_max_pieces(size_t T, size_t n_docs) { return 2 * (T / TILE_KEYS + n_docs); }

/* Rows of a piece: whole tiles of keys, and so few that every thread gets several pieces. */
static size_t piece_rows(size_t T, size_t H)
{
    size_t rows = round_up(T * H / (4 * (size_t)omp_get_max_threads()) + 1, TILE_KEYS);
    return size_min(rows, MAX_PIECE_QUERIES);
}

/* Rows of document d that are cut. */
static size_t rows_to_cut(const Group *group, const AttentionShape *shape, const Keys *keys, size_t d)
{
    return attends_latents(shape, group, keys, d) ? 0 : rows_of_document(group, d);
}

/* Queries of document d, and all their keys. */
static size_t cut_queries(size_t d, size_t n_rows, size_t step, AttentionPiece *pieces, size_t n, bool dkv)
{
    for (size_t at = 0; at < n_rows; at += step) {
        size_t end = size_min(at + step, n_rows);
        pieces[n++] = (AttentionPiece){.d = d,
                                       .key_end = end,
                                       .query = at,
                                       .query_end = end,
                                       .dq = true,
                                       .dkv = dkv,
                                       .cost = (double)(end - at) * (double)(end + at)};
    }
    return n;
}

/* Keys of document d, and all queries that see them. */
static size_t cut_keys(size_t d, size_t n_rows, size_t step, AttentionPiece *pieces, size_t n)
{
    for (size_t at = 0; at < n_rows; at += step) {
        size_t end = size_min(at + step, n_rows);
        pieces[n++] = (AttentionPiece){.d = d,
                                       .key = at,
                                       .key_end = end,
                                       .query_end = n_rows,
                                       .dkv = true,
                                       .cost = (double)(end - at) * (double)(2 * n_rows - end - at)};
    }
    return n;
}

static int by_cost(const void *a, const void *b)
{
    const AttentionPiece *x = a, *y = b;
    return (x->cost < y->cost) - (x->cost > y->cost);
}

size_t attention_cut_forward(const Group *group, const AttentionShape *shape, const Keys *keys, AttentionPiece *pieces)
{
    size_t n = 0, step = piece_rows(group->T, shape->n_heads);
    for (size_t d = 0; d < group->n_docs; d++)
        n = cut_queries(d, rows_to_cut(group, shape, keys, d), step, pieces, n, false);
    qsort(pieces, n, sizeof *pieces, by_cost);
    return n;
}

/* True if the most expensive piece takes no more than a thread's share of the work on all heads. */
static bool balanced(size_t n, const AttentionPiece *pieces, size_t H)
{
    double sum = 0, max = 0;
    for (size_t i = 0; i < n; i++) {
        sum += pieces[i].cost * (double)H;
        if (pieces[i].cost > max) max = pieces[i].cost;
    }
    return max * (double)omp_get_max_threads() <= sum;
}

size_t attention_cut_backward(const Group *group, const AttentionShape *shape, const Keys *keys, AttentionPiece *pieces)
{
    size_t n = 0, step = piece_rows(group->T, shape->n_heads);
    for (size_t d = 0; d < group->n_docs; d++)
        n = cut_queries(d, rows_to_cut(group, shape, keys, d), group->T, pieces, n, true);
    if (!balanced(n, pieces, shape->n_heads)) {
        n = 0;
        for (size_t d = 0; d < group->n_docs; d++)
            n = cut_queries(d, rows_to_cut(group, shape, keys, d), step, pieces, n, false);
        for (size_t d = 0; d < group->n_docs; d++) n = cut_keys(d, rows_to_cut(group, shape, keys, d), step, pieces, n);
    }
    qsort(pieces, n, sizeof *pieces, by_cost);
    return n;
}
