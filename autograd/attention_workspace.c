/* The layout of a thread's workspace in op_attention, one table for both directions.
 *
 * What always holds: every block begins at a multiple of LANES floats; where scores and gradients use the same words,
 * on all paths without pairs of bf16, P and dS share their blocks with S and dP. */
#include "autograd/attention_workspace.h"

#include "base/minmax.h"

static AttentionColumns columns_of(const AttentionShape *s)
{
    size_t nope = round_up(s->nope, LANES);
    return (AttentionColumns){nope, nope + round_up(s->rope, LANES), round_up(s->v, LANES)};
}

/* Blocks of BLOCK_WORDS columns that n columns take. */
static size_t blocks_of(size_t n) { return (n + BLOCK_WORDS - 1) / BLOCK_WORDS; }

size_t attention_workspace_layout(AttentionWorkspace *ws, const AttentionShape *shape, bool backward, float *base)
{
    AttentionColumns c = columns_of(shape);
    size_t key = shape->nope + shape->rope, v = shape->v, tile = TILE_ROWS * BLOCK_STRIDE, used = 0;
    bool bf16_pairs = block_kernels(true) != block_kernels(false);
    const struct {
        float **at;
        size_t forward, backward;
    } blocks[] = {
        {&ws->q_rows, blocks_of(key) * tile, blocks_of(key) * tile},
        {&ws->k_lanes, TILE_KEYS / LANES * lane_step(key), TILE_KEYS / LANES * lane_step(key)},
        {&ws->s, tile, tile},
        {&ws->out, TILE_ROWS * row_step(c.v), TILE_ROWS * row_step(c.key)},
        {&ws->v_columns, c.v / LANES * KEY_STEP, 0},
        {&ws->max, MAX_PIECE_QUERIES, 0},
        {&ws->sums, MAX_PIECE_QUERIES * LANES, 0},
        {&ws->factor, TILE_QUERIES, 0},
        {&ws->v_lanes, 0, TILE_KEYS / LANES * lane_step(v)},
        {&ws->do_rows, 0, blocks_of(v) * tile},
        {&ws->k_columns, 0, c.key / LANES * KEY_STEP},
        {&ws->q_columns, 0, c.key / LANES * QUERY_STEP},
        {&ws->do_columns, 0, c.v / LANES * QUERY_STEP},
        {&ws->ds, 0, tile},
        {&ws->p_transposed, 0, bf16_pairs ? tile : 0},
        {&ws->ds_rows, 0, bf16_pairs ? tile : 0},
        {&ws->ds_transposed, 0, bf16_pairs ? tile : 0},
        {&ws->dk, 0, (TILE_KEYS + BLOCK_BAND) * row_step(c.key)},
        {&ws->dv, 0, (TILE_KEYS + BLOCK_BAND) * row_step(c.v)},
    };
    ws->columns = c;
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        *blocks[i].at = base ? base + used : NULL;
        used += round_up(backward ? blocks[i].backward : blocks[i].forward, LANES);
    }
    if (!bf16_pairs) ws->p_transposed = ws->s, ws->ds_rows = ws->ds_transposed = ws->ds;
    return used;
}
