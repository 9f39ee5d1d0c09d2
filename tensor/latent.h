/* Attention of one query over keys that all heads share: latent attention with Wk moved to the query and Wv behind the sum
 * (docs/glm5.md, section 5). A key has K numbers, its value is the first C of them:
 *
 *     S[h][j] = q[h] . key[ids[j]],    P = softmax(S),    o[h] = sum_j P[h][j] key[ids[j]][:C]
 *
 * Lanes are heads, LANES of them a group; absent ones are zero. A number of a key meets a whole group at once, so keys are
 * read where they lie. Words are those of kernel.h: floats, or pairs of bf16 (of columns in scores, of keys in sums over
 * keys, of heads in sums over heads). Inside a product an element is one chain of fused multiply-adds in increasing word,
 * whatever the tile: its bits depend on the query's own keys alone.
 *
 * K and C are even; a part of a key that is not gets a column of zeros behind it. */
#ifndef GRAFT_TENSOR_LATENT_H
#define GRAFT_TENSOR_LATENT_H

#include "tensor/kernel.h"

typedef struct {
    const LatentKernels *kernels;
    size_t n_heads, K, C;
    float *keys;   /* words; key t begins at t * stride */
    size_t stride; /* latent_stride of the rest */
} LatentKeys;

/* The kernels of the compute path, in fp32 or, where bf16 is asked for and the path has it, with pairs of bf16. In
 * dispatch.c; valid after dispatch_init. */
const LatentKernels *latent_kernels(bool bf16);

/* Words from key to key. Room is needed for LANES more behind the last. */
size_t latent_stride(const LatentKeys *keys);

/* Columns [col, col + width) of keys [begin, begin + n) from rows of x: zeros behind an odd width. col is even. Parts are
 * packed from left to right. */
void latent_pack(const LatentKeys *keys, size_t begin, size_t n, size_t col, size_t width, Rows x);

/* q [H] rows of K, q_stride apart, multiples of LANES; o [H] rows of C, the same. Rows may be read and written up to the
 * next multiple of LANES. lse [H]: log(sum(exp(S))). n >= 1. scratch: latent_scratch(keys, n) floats. */
size_t latent_scratch(const LatentKeys *keys, size_t n);
void latent_attend(const LatentKeys *keys, size_t n, const uint32_t *ids, const float *q, size_t q_stride, float *o,
                   size_t o_stride, float *lse, float *scratch);

/* The way back of one query:  dP = do key[:C]',  dS = P (dP - delta),  dq = dS key;  P, dS, q and do stay in `kept`
 * (latent_kept(keys, n) floats) for
 *     dkey[ids[j]] += dS[:, j]' q + P[:, j]' do      (the second in the first C columns)
 * which latent_scatter does for the keys [from, from + n_some) of the n. dkey has rows of dkey_stride floats, a multiple of
 * LANES and at least K. A key's sum over queries is in the order of calls.
 * exact: the keys of latent_attend, for S and dP; keys: the same numbers, where sums may have other words. */
size_t latent_kept(const LatentKeys *keys, size_t n);
void latent_backward(const LatentKeys *exact, const LatentKeys *keys, size_t n, const uint32_t *ids, const float *q,
                     size_t q_stride, const float *d_o, size_t o_stride, const float *lse, const float *delta,
                     float *dq, float *kept, float *scratch);
void latent_scatter(const LatentKeys *keys, size_t n, const uint32_t *ids, size_t from, size_t n_some,
                    const float *kept, float *dkey, size_t dkey_stride);

/* ---- for each instruction set: kernel_latent.c ----------------------------------------------------------------- */

enum {
    LATENT_MARGIN = 24,      /* scores are written for this many keys beyond the last */
    LATENT_COEF = 2 * LANES, /* numbers of a key and a group in `coef`: dS, then P, as words along heads */
};

/* What one query keeps between latent_backward and latent_scatter: words along heads. */
typedef struct {
    size_t n_heads, K, C, group_step;
    float *coef;    /* [group][key][LATENT_COEF / per_word], of the first key that is asked for */
    float *q, *d_o; /* [words of n_heads][stride] */
    size_t q_stride, o_stride;
} LatentSums;

struct LatentKernels {
    const GemmKernels *gemm; /* of the same words */

    /* S[j] [LANES] = sum over words of key[ids[j]] and q [words][LANES]. */
    void (*scores)(size_t n, const uint32_t *ids, const float *keys, size_t stride, size_t words, const float *q,
                   float *S);

    /* S [n][LANES] -> P as words along keys, in place; lse [LANES]. */
    void (*softmax)(size_t n, float *S, float *lse);

    /* P = exp(S - lse), dS = P (dP - delta): coef [n][LATENT_COEF / per_word]; dS as words along keys in place of S. */
    void (*gradients)(size_t n, float *S, const float *dP, const float *lse, const float *delta, float *coef);

    /* Rows of words along keys, whose word c belongs to column c; NULL where keys are such rows themselves. */
    void (*interleave_keys)(size_t n, const uint32_t *ids, const float *keys, size_t stride, float *out);

    /* o[h][c] (+)= sum over rows of x[row][c] and P [rows][LANES]; row j is number ids[j], or j; at most LANES heads. */
    void (*values)(size_t n_rows, const uint32_t *ids, const float *x, size_t stride, size_t columns, const float *P,
                   bool add, size_t n_heads, float *o, size_t o_stride);

    /* Rows of words along heads: out [words of n_heads][stride]. */
    void (*pack_heads)(size_t n_heads, size_t columns, const float *x, size_t x_stride, float *out, size_t stride);

    /* dx[ids[j]] += sum over heads of dS q and P do. */
    void (*scatter)(const LatentSums *from, size_t n, const uint32_t *ids, float *dx, size_t dx_stride);
};

#endif
