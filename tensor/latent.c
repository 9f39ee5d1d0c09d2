/* Attention over shared keys: how the work of one query is cut. Keys are processed KEYS_AT_ONCE at a time, which stay
 * in L2 while every group of heads uses them. Equations are in latent.h. */
#include "tensor/latent.h"

#include <string.h>

enum { KEYS_AT_ONCE = 512 };

static size_t words(const LatentKeys *keys, size_t n) { return n / keys->kernels->gemm->per_word; }
static size_t groups_of(const LatentKeys *keys) { return (keys->n_heads + LANES - 1) / LANES; }

/* A part is packed in whole cache lines. Their number is odd, so that keys do not collide in L1. */
size_t latent_stride(const LatentKeys *keys) { return ((words(keys, keys->K) + 2 * LANES - 2) / LANES | 1) * LANES; }

void latent_pack(const LatentKeys *keys, size_t begin, size_t n, size_t col, size_t width, Rows x)
{
    float *to = keys->keys + begin * keys->stride + words(keys, col);
    keys->kernels->gemm->pack_rows(n, width, keys->stride, 1, x, to);
    if (width % 2 && keys->kernels->gemm->per_word == 1)
        for (size_t t = 0; t < n; t++) to[t * keys->stride + width] = 0;
}

/* The scratch of one query. */
typedef struct {
    float *S, *dP;      /* [group][key, and LATENT_MARGIN][LANES] */
    float *q, *d_o;     /* [group][words][LANES] */
    float *interleaved; /* KEYS_AT_ONCE keys as words along keys */
    size_t score_step;  /* from group to group */
    size_t n_floats;
} Workspace;

static float *take(float **at, size_t n, size_t *sum)
{
    float *block = *at;
    n = round_up(n, LANES);
    *sum += n;
    if (block) *at += n;
    return block;
}

static Workspace workspace_of(const LatentKeys *keys, size_t n, float *scratch)
{
    size_t G = groups_of(keys), sum = 0, at_once = n < KEYS_AT_ONCE ? n + 1 : KEYS_AT_ONCE;
    Workspace w = {.score_step = (n + LATENT_MARGIN) * LANES};
    w.S = take(&scratch, G * w.score_step, &sum);
    w.dP = take(&scratch, G * w.score_step, &sum);
    w.q = take(&scratch, G * keys->K * LANES, &sum);
    w.d_o = take(&scratch, G * keys->C * LANES, &sum);
    w.interleaved = take(&scratch, keys->kernels->interleave_keys ? at_once * keys->stride : 0, &sum);
    w.n_floats = sum;
    return w;
}

size_t latent_scratch(const LatentKeys *keys, size_t n) { return workspace_of(keys, n, NULL).n_floats; }

/* Rows of heads to [group][words][LANES]. */
static void to_lanes(const LatentKeys *keys, size_t columns, const float *x, size_t stride, float *out)
{
    const GemmKernels *gemm = keys->kernels->gemm;
    for (size_t h = 0; h < keys->n_heads; h += LANES)
        for (size_t at = 0, n; at < columns; at += n) {
            n = size_min(columns - at, BLOCK * gemm->per_word);
            gemm->pack_lanes(size_min(LANES, keys->n_heads - h), n, 1, rows_of(x + h * stride + at, stride), out, 0);
            out += words(keys, n) * LANES;
        }
}

/* S of all groups, over the first `columns` columns of the keys. */
static void score(const LatentKeys *keys, size_t n, const uint32_t *ids, size_t columns, const float *q, float *S,
                  size_t step)
{
    for (size_t at = 0; at < n; at += KEYS_AT_ONCE)
        for (size_t g = 0; g < groups_of(keys); g++)
            keys->kernels->scores(size_min(KEYS_AT_ONCE, n - at), ids + at, keys->keys, keys->stride,
                                  words(keys, columns), q + g * words(keys, columns) * LANES,
                                  S + g * step + at * LANES);
}

/* The first `columns` columns of the sum over keys, to rows of heads. */
static void sum_keys(const LatentKeys *keys, size_t n, const uint32_t *ids, size_t columns, const Workspace *w,
                     float *out, size_t stride)
{
    const LatentKernels *latent = keys->kernels;
    size_t per_word = latent->gemm->per_word;
    for (size_t at = 0; at < n; at += KEYS_AT_ONCE) {
        size_t some = size_min(KEYS_AT_ONCE, n - at), rows = (some + per_word - 1) / per_word;
        if (latent->interleave_keys) latent->interleave_keys(some, ids + at, keys->keys, keys->stride, w->interleaved);
        for (size_t g = 0; g < groups_of(keys); g++)
            latent->values(rows, latent->interleave_keys ? NULL : ids + at,
                           latent->interleave_keys ? w->interleaved : keys->keys, keys->stride * per_word, columns,
                           w->S + g * w->score_step + at / per_word * LANES, at > 0,
                           size_min(LANES, keys->n_heads - g * LANES), out + g * LANES * stride, stride);
    }
}

void latent_attend(const LatentKeys *keys, const LatentQuery *query, float *o)
{
    size_t n = query->n;
    Workspace w = workspace_of(keys, n, query->scratch);
    float lanes[LANES];
    to_lanes(keys, keys->K, query->q, query->q_stride, w.q);
    score(keys, n, query->ids, keys->K, w.q, w.S, w.score_step);
    for (size_t g = 0; g < groups_of(keys); g++) {
        keys->kernels->softmax(n, w.S + g * w.score_step, lanes);
        memcpy(query->lse + g * LANES, lanes, size_min(LANES, keys->n_heads - g * LANES) * sizeof *lanes);
    }
    sum_keys(keys, n, query->ids, keys->C, &w, o, query->o_stride);
}

/* Where `state` has what; offsets in floats. */
typedef struct {
    LatentSums sizes; /* its pointers are not set */
    size_t coef, q, d_o, n_floats;
} StateLayout;

static StateLayout state_layout(const LatentKeys *keys, size_t n)
{
    size_t per_word = keys->kernels->gemm->per_word, heads = (keys->n_heads + per_word - 1) / per_word;
    StateLayout l = {.sizes = {.n_heads = keys->n_heads,
                               .K = keys->K,
                               .C = keys->C,
                               .group_step = n * LATENT_COEF / per_word,
                               .q_stride = round_up(keys->K, LANES),
                               .o_stride = round_up(keys->C, LANES)}};
    size_t n_coef = groups_of(keys) * l.sizes.group_step +
                    LATENT_MARGIN * LATENT_COEF; /* tiles reach beyond the last key */
    l.q = l.coef + round_up(n_coef, LANES);
    l.d_o = l.q + heads * l.sizes.q_stride;
    l.n_floats = l.d_o + heads * l.sizes.o_stride;
    return l;
}

size_t latent_state(const LatentKeys *keys, size_t n) { return state_layout(keys, n).n_floats; }

void latent_backward(const LatentKeys *exact, const LatentKeys *keys, const LatentQuery *query, const float *d_o,
                     const float *delta, float *dq)
{
    const LatentKernels *latent = keys->kernels;
    size_t n = query->n;
    const uint32_t *ids = query->ids;
    float *state = query->state;
    Workspace w = workspace_of(keys, n, query->scratch);
    StateLayout layout = state_layout(keys, n);
    to_lanes(exact, keys->K, query->q, query->q_stride, w.q);
    to_lanes(exact, keys->C, d_o, query->o_stride, w.d_o);
    score(exact, n, ids, keys->K, w.q, w.S, w.score_step);
    score(exact, n, ids, keys->C, w.d_o, w.dP, w.score_step);
    for (size_t g = 0; g < groups_of(keys); g++) {
        float lanes[2][LANES] = {{0}};
        size_t some = size_min(LANES, keys->n_heads - g * LANES) * sizeof **lanes;
        memcpy(lanes[0], query->lse + g * LANES, some);
        memcpy(lanes[1], delta + g * LANES, some);
        latent->gradients(n, w.S + g * w.score_step, w.dP + g * w.score_step, lanes[0], lanes[1],
                          state + layout.coef + g * layout.sizes.group_step);
    }
    sum_keys(keys, n, ids, keys->K, &w, dq, query->q_stride);
    latent->pack_heads(keys->n_heads, keys->K, query->q, query->q_stride, state + layout.q, layout.sizes.q_stride);
    latent->pack_heads(keys->n_heads, keys->C, d_o, query->o_stride, state + layout.d_o, layout.sizes.o_stride);
}

void latent_scatter(const LatentKeys *keys, const LatentQuery *query, size_t from, size_t n_some, float *dkey,
                    size_t dkey_stride)
{
    StateLayout layout = state_layout(keys, query->n);
    LatentSums sums = layout.sizes;
    sums.coef = query->state + layout.coef + from * LATENT_COEF / keys->kernels->gemm->per_word;
    sums.q = query->state + layout.q;
    sums.d_o = query->state + layout.d_o;
    if (n_some) keys->kernels->scatter(&sums, n_some, query->ids + from, dkey, dkey_stride);
}
