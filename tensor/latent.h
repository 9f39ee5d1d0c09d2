/* Attention of one query over keys that all heads share: latent attention with Wk moved to the query and Wv moved
 * behind the sum (docs/glm5.md, section 5). A key has K numbers; its value is the first C of them:
 *
 *     S[h][j] = q[h] . key[ids[j]],    P = softmax(S),    o[h] = sum_j P[h][j] key[ids[j]][:C]
 *
 * Lanes are heads, LANES of them a group; absent heads are zero. One number of a key is multiplied with a whole group
 * at once, so keys are read in place. Words are those of kernel_gemm.h: floats, or bf16 pairs (of columns in scores, of
 * keys in sums over keys, of heads in sums over heads). Inside a product an element is one chain of fused multiply-adds
 * in increasing word, whatever the tile, so its bits depend on the query's own keys alone.
 *
 * K and C are even. A part of a key of odd width is followed by a column of zeros. */
#ifndef GRAFT_TENSOR_LATENT_H
#define GRAFT_TENSOR_LATENT_H

#include "tensor/kernel.h"

typedef struct {
    const LatentKernels *kernels;
    size_t n_heads, K, C;
    float *keys;   /* words; key t begins at t * stride */
    size_t stride; /* from latent_stride, when the other fields are set */
} LatentKeys;

/* The kernels of the compute path, in fp32 or, where bf16 is asked for and the path has it, with pairs of bf16. In
 * dispatch.c; valid after dispatch_init. */
const LatentKernels *latent_kernels(bool bf16);

/* Words from one key to the next. keys needs LANES more words after the last key. */
size_t latent_stride(const LatentKeys *keys);

/* Pack columns [col, col + width) of keys [begin, begin + n) from rows of x, and a column of zeros after an odd width.
 * col is even. Parts of a key are packed from left to right. */
void latent_pack(const LatentKeys *keys, size_t begin, size_t n, size_t col, size_t width, Rows x);

/* One query. Rows may be read and written up to the next multiple of LANES; strides are multiples of LANES. */
typedef struct {
    size_t n;            /* number of its keys, at least 1 */
    const uint32_t *ids; /* [n] */
    const float *q;      /* [H] rows of K, q_stride floats apart */
    size_t q_stride, o_stride;
    float *lse;     /* [H] log(sum(exp(S))): out of the forward pass, into the backward pass */
    float *state;   /* of the backward pass: latent_state(keys, n) floats */
    float *scratch; /* latent_scratch(keys, n) floats */
} LatentQuery;
size_t latent_scratch(const LatentKeys *keys, size_t n);
size_t latent_state(const LatentKeys *keys, size_t n);

/* The forward pass of a query. o: [H] rows of C, o_stride floats apart. */
void latent_attend(const LatentKeys *keys, const LatentQuery *query, float *o);

/* The backward pass of a query:  dP = do key[:C]',  dS = P (dP - delta),  dq = dS key.  d_o as o, delta [H], dq as q.
 * P, dS, q and do are stored in `state` for
 *     dkey[ids[j]] += dS[:, j]' q + P[:, j]' do      (the second in the first C columns)
 * which latent_scatter does for the keys [from, from + n_some) of the n. dkey has rows of dkey_stride floats, a
 * multiple of LANES and at least K. A key's sum over queries has the order of the calls.
 * exact: the keys of latent_attend, for S and dP; keys: the same numbers, where sums may have other words. */
void latent_backward(const LatentKeys *exact, const LatentKeys *keys, const LatentQuery *query, const float *d_o,
                     const float *delta, float *dq);
void latent_scatter(const LatentKeys *keys, const LatentQuery *query, size_t from, size_t n_some, float *dkey,
                    size_t dkey_stride);

/* ---- the kernels of each instruction set: kernel_latent.c ------------------------------------------------------ */

enum {
    LATENT_MARGIN = 24,      /* tiles write scores for up to this many keys beyond the last */
    LATENT_COEF = 2 * LANES, /* numbers of a key and a group in `coef`: dS, then P, as words along heads */
};

/* What latent_backward stores of one query for latent_scatter, as words along heads. */
typedef struct {
    size_t n_heads, K, C, group_step;
    const float *coef;    /* [group][key][LATENT_COEF / per_word], of the first key that is asked for */
    const float *q, *d_o; /* [words of n_heads][stride] */
    size_t q_stride, o_stride;
} LatentSums;

struct LatentKernels {
    const GemmKernels *gemm; /* of the same words */

    /* S[j] [LANES] = sum over words of key[ids[j]] and q [words][LANES]. */
    void (*scores)(size_t n, const uint32_t *ids, const float *keys, size_t stride, size_t words, const float *q,
                   float *S);

    /* S [n][LANES] becomes P, as words along keys, in place; lse [LANES]. */
    void (*softmax)(size_t n, float *S, float *lse);

    /* P = exp(S - lse), dS = P (dP - delta): coef [n][LATENT_COEF / per_word]; dS replaces S, as words along keys. */
    void (*gradients)(size_t n, float *S, const float *dP, const float *lse, const float *delta, float *coef);

    /* Keys as rows of words along keys: word c of a row belongs to column c. NULL in fp32, where keys are such rows
     * already. */
    void (*interleave_keys)(size_t n, const uint32_t *ids, const float *keys, size_t stride, float *out);

    /* o[h][c] (+)= sum over rows of x[row][c] and P [rows][LANES]; row j is x[ids[j]], or x[j] without ids; at most
     * LANES heads. */
    void (*values)(size_t n_rows, const uint32_t *ids, const float *x, size_t stride, size_t columns, const float *P,
                   bool add, size_t n_heads, float *o, size_t o_stride);

    /* Rows of x (one for each head) as words along heads: out [words of n_heads][stride]. */
    void (*pack_heads)(size_t n_heads, size_t columns, const float *x, size_t x_stride, float *out, size_t stride);

    /* dx[ids[j]] += sum over heads of dS q and P do. */
    void (*scatter)(const LatentSums *from, size_t n, const uint32_t *ids, float *dx, size_t dx_stride);
};

#endif
