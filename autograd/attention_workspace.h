/* A thread's memory for op_attention: packed factors and results of one tile of queries and keys. For op_attention.c
 * only. */
#ifndef GRAFT_AUTOGRAD_ATTENTION_WORKSPACE_H
#define GRAFT_AUTOGRAD_ATTENTION_WORKSPACE_H

#include "autograd/op.h"
#include "tensor/block.h"

enum {
    TILE_QUERIES = 96,
    TILE_KEYS = 192,
    TILE_ROWS = TILE_QUERIES + BLOCK_BAND, /* rows of a block of queries: products reach beyond the last query */
    MAX_PIECE_QUERIES = 8 * TILE_QUERIES,
};

/* Distances between groups of LANES columns, and between rows of results: never a power of two, or rows would collide
 * in the cache. */
enum { QUERY_STEP = TILE_QUERIES * LANES + LANES, KEY_STEP = TILE_KEYS * LANES + LANES };
static inline size_t lane_step(size_t n) { return n * LANES + LANES; }
static inline size_t row_step(size_t columns) { return columns + LANES; }

/* Columns of a key's nope part, of a whole key and of a value, rounded up to LANES. */
typedef struct {
    size_t nope, key, v;
} AttentionColumns;

/* Layouts are those of block.h. */
typedef struct {
    AttentionColumns columns;
    float *k_lanes, *v_lanes, *k_columns, *v_columns;       /* TILE_KEYS keys and values */
    float *q_rows, *do_rows, *q_columns, *do_columns;       /* TILE_QUERIES queries and rows of do */
    float *s, *ds, *p_transposed, *ds_rows, *ds_transposed; /* scores of a tile: ScoreTile */
    float *out, *dk, *dv;       /* results of products, before they are added to o, dq, dk, dv */
    float *max, *sums, *factor; /* softmax's running state, MAX_PIECE_QUERIES rows */
} AttentionWorkspace;

/* Lay out a workspace in the memory from `base` on; NULL: only the size is computed. Returns the size in floats. */
size_t attention_workspace_layout(AttentionWorkspace *ws, const AttentionShape *shape, bool backward, float *base);

#endif
