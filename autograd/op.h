/* Every operation a model may use. All take the tape first; shapes are [rows][columns]; T is tape->group->T.
 *
 * Gradient: reaches every tensor argument unless said otherwise; weights of the base are frozen.
 * Owner:    results belong to the tape, until tape_reset.
 * Fails:    through the tape. */
#ifndef GRAFT_AUTOGRAD_OP_H
#define GRAFT_AUTOGRAD_OP_H

#include "autograd/tape.h"
#include "tensor/weight.h"

/* Row loops over fewer numbers stay on one thread, which is done before others are awake. Never changes a bit. */
enum { WORTH_A_TEAM = 1 << 14 };

/* ---- op_embed.c ------------------------------------------------------------------------------------------------ */

/* Rows of a frozen table, widened. ids [T], below table->rows. No gradient. */
Tensor *op_embed(Tape *tape, const Weight *table, const int32_t *ids);

/* y += x, in place; returns y. */
Tensor *op_add(Tape *tape, Tensor *y, Tensor *x);

/* ---- op_linear.c ----------------------------------------------------------------------------------------------- */

/* y = [x W0' | x W1' | ...]: the outputs of n <= 4 frozen projections of one input, side by side; and of each pair
 * y[:, col : col + O) += scale (drop(x) A') B'. At most 4 pairs, at most one to a weight; NULL is none. */
Tensor *op_linear(Tape *tape, Tensor *x, size_t n, const Weight *const W[], size_t n_loras, const Lora *const loras[]);

/* y = x W' where W [O][D] itself may train (a router); values of the parameter stand for the frozen weight. */
Tensor *op_linear_trained(Tape *tape, Tensor *x, const Weight *W, const Param *param);

/* ---- op_lora.c ------------------------------------------------------------------------------------------------- */

/* The two halves of a pair that serves more than one operation: u = drop(x) A', and y = x W' + scale u B', B [n_micro_batches] of
 * op_param. */
Tensor *op_lora_down(Tape *tape, Tensor *x, const Lora *lora);
Tensor *op_lora_up(Tape *tape, Tensor *x, const Weight *W, Tensor *u, const Lora *lora, Tensor *const *B);

/* ---- op_param.c ------------------------------------------------------------------------------------------------ */

/* A parameter as a tensor for each micro-batch, [n_micro_batches]: values are shared, gradients are the micro-batch's own. So
 * several operations can add to them before they go to the parameter's forest. */
Tensor *const *op_param(Tape *tape, const Param *param);

/* ---- op_rmsnorm.c ---------------------------------------------------------------------------------------------- */

/* y = w x / sqrt(mean(x^2) + eps) over columns [col, col + n) of x; y [rows][n]. weight [n] is frozen.
 * Source: Zhang and Sennrich 2019 (arXiv:1910.07467). */
Tensor *op_rmsnorm(Tape *tape, Tensor *x, size_t col, size_t n, const float *weight, double eps);

/* Layer norm with weight and bias over all columns. No gradient: only the indexer has one, and it is frozen. */
Tensor *op_layernorm(Tape *tape, Tensor *x, const float *weight, const float *bias, double eps);

/* ---- op_rope.c ------------------------------------------------------------------------------------------------- */

/* Angles of every position below n: cos and sin, each [n][dim / 2]. */
typedef struct {
    size_t n, dim;
    const float *cos, *sin;
} RopeTable;

/* Rotate, in place, the slices [col + h * stride, + dim) of every row, h < heads, by the row's position in its document.
 * interleaved: pairs are (2 j, 2 j + 1); else (j, j + dim / 2). Source: Su et al. 2021, section 3.4.2 (arXiv:2104.09864). */
Tensor *op_rope(Tape *tape, Tensor *x, const RopeTable *table, size_t col, size_t heads, size_t stride,
                bool interleaved);

/* ---- op_index.c ------------------------------------------------------------------------------------------------ */

/* Which keys each query may see. of[d] NULL: all of its past; else a bitmap [rows of d][keys_words(d)]. */
typedef struct {
    size_t n_docs;
    uint64_t **of;
    size_t most; /* keys of a query at the most; 0: nobody knows */
} Keys;

static inline size_t keys_words(const Group *group, size_t d)
{
    size_t n = group->doc_start[d + 1] - group->doc_start[d] + (group->doc_past ? group->doc_past[d] : 0);
    return (n + 63) / 64;
}

typedef struct {
    size_t n_heads, dim, top_k;
    float scale, head_scale; /* dim^-1/2 before the ReLU, n_heads^-1/2 on the head weights */
} IndexShape;

/* Choose, for every query, the top_k keys of its past by  I[s,t] = sum_h w[s,h] ReLU(q[s,h] . k[t]).
 *   q [T][n_heads * dim], k [T][dim] rotated already, w [T][n_heads]
 *   past    [n_docs] index keys of the whole document, the new rows included, [past + n][dim]; NULL: k holds them all
 *   keys    out: bitmaps of the documents where of[d] is not NULL; ties go to the lower position
 * No gradient: the choice is a constant. Source: DeepSeek-V3.2 report, section 2.1, equation 1. */
void op_index(Tape *tape, const IndexShape *shape, Tensor *q, Tensor *k, Tensor *w, const float *const *past,
              Keys *keys);

/* ---- op_attention.c -------------------------------------------------------------------------------------------- */

typedef struct {
    size_t n_heads, nope, rope, v;
    float scale;
    size_t latent_from; /* documents of so many tokens that choose keys are attended to over latents; 0: none */
} AttentionShape;

/* Which of two ways document d goes: a rule of the document and the shapes alone. */
static inline bool attends_latents(const AttentionShape *shape, const Group *group, const Keys *keys, size_t d)
{
    return shape->latent_from && keys && keys->of && keys->of[d] &&
           group->doc_start[d + 1] - group->doc_start[d] >= shape->latent_from;
}

/* Causal attention inside each document, over chosen keys. Rows of documents that attend to latents are left alone.
 *   q   [T][H * (nope + rope)]     each head nope, then rope (rotated)
 *   kv  [T][H * (nope + v)]        each head the key's nope part, then the value
 *   kr  [T][..]                    columns [kr_col, + rope): the rotated key part, shared by all heads
 *   keys  NULL: every key of the past
 *   returns [T][H * v]
 * Works on a tile of queries and keys at a time, never T x T per head. On the bf16 path gradients of q, kv and kr are
 * products of factors rounded to bf16; the result is not. */
Tensor *op_attention(Tape *tape, const AttentionShape *shape, Tensor *q, Tensor *kv, Tensor *kr, size_t kr_col,
                     const Keys *keys);

/* ---- op_attention_latent.c ------------------------------------------------------------------------------------- */

/* The same for the documents that attend to latents, whose cost is that of the chosen keys: Wk is moved to the query and Wv
 * behind the sum, for all heads share the latents.
 *   latent  [T][R], kr as above; kv_up [H * (nope + v)][R]: each head the rows of Wk, then those of Wv
 *   low     [T][r] of op_lora_down(latent, lora), and B of op_param(lora->B); lora NULL: none of them
 *   o       what op_attention has made of the other documents, or NULL when there are none
 * Source: DeepSeek-V2 report, section 2.1.2 (arXiv:2405.04434); docs/glm5.md, section 5. */
typedef struct {
    Tensor *q, *latent, *kr;
    size_t kr_col;
    const Weight *kv_up;
    const Lora *lora;
    Tensor *low, *const *B;
} LatentInputs;
Tensor *op_attention_latent(Tape *tape, const AttentionShape *shape, const LatentInputs *in, const Keys *keys,
                            Tensor *o);

/* ---- op_attention_cached.c ------------------------------------------------------------------------------------- */

/* Attention of new rows of cached documents, from the latents: scores are q_abs . c + q_rope . k_rope with
 * q_abs[h] = q_nope[h] Wk[h], outputs (P c) Wv[h]'. No gradient: for generation only.
 *   kv_up    [H * (nope + v)][R]; lora: its pair, or NULL
 *   latent   [n_docs] of [past + n][R]; rotary [n_docs] of [past + n][rope]
 * Source: DeepSeek-V3 inference code, "absorb"; docs/glm5.md. */
Tensor *op_attention_cached(Tape *tape, const AttentionShape *shape, Tensor *q, const Weight *kv_up, const Lora *lora,
                            const float *const *latent, const float *const *rotary, const Keys *keys);

/* ---- op_swiglu.c ----------------------------------------------------------------------------------------------- */

/* a = silu(g) u from x [T][2 F] = [g | u]. Source: Shazeer 2020 (arXiv:2002.05202). */
Tensor *op_swiglu(Tape *tape, Tensor *x);

/* ---- op_route.c ------------------------------------------------------------------------------------------------ */

typedef struct {
    size_t E, K, n_group, topk_group;
    bool norm_topk_prob;
    float routed_scaling_factor;
} RouterShape;

typedef struct {
    const int32_t *ids; /* [T][K] */
    Tensor *weights;    /* [T][K] */
} Route;

/* Choose experts for every token, and the weights that mix their outputs.
 *   logits  [T][E]  router scores before the sigmoid
 *   bias    [E]     frozen; steers which experts are chosen, never how they are mixed
 *   ids     [T][K]  out when `made` is false: the chosen, in id order; used as they are when it is true
 *   returns         ids ascending, weights in that order
 * Gradient: reaches logits through the weights; the choice itself has none.
 * Source:   DeepSeek-V3 report, section 2.1.2 (arXiv:2412.19437). */
Route op_route(Tape *tape, Tensor *logits, const float *bias, const RouterShape *shape, int32_t *ids, bool made);

/* ---- op_experts.c ---------------------------------------------------------------------------------------------- */

typedef struct {
    const Weight *gate, *up, *down; /* [F][D], [F][D], [D][F] */
    const Lora *in, *out;           /* on gate|up and on down; NULL: none */
} Expert;

/* Experts that are not all in memory: runs of consecutive ones, one of which is borrowed at a time, upward on the way up,
 * downward on the way back. Without acquire and release they are only worked through in runs. */
typedef struct {
    size_t n;
    const size_t *begin; /* [n + 1] first expert of each run */
    Err *(*acquire)(void *context, size_t chunk);
    void (*release)(void *context, size_t chunk);
    void *context;
} ExpertChunks;

/* y[t] = sum_k weights[t][k] expert(ids[t][k])(x[t]), experts added in id order; returns [T][D].
 * runs NULL: all experts are there. A lean tape computes gate and up again on the way back, so that inner activations live on
 * no tape; a replayed one computes them there only, and leaves y zero. Owner of runs: the caller, until the tape's reset. */
Tensor *op_experts(Tape *tape, Tensor *x, Route route, size_t E, const Expert *experts, const ExpertChunks *chunks);

/* ---- op_balance.c ---------------------------------------------------------------------------------------------- */

/* Coefficients of the router's balance losses, and what the whole step knows of one layer's routing. */
typedef struct {
    double seq_aux_loss, aux_loss, load_balancing_loss, z_loss;
} BalanceValues;

typedef struct {
    size_t tokens, documents; /* of the whole step */
    size_t sparse_layers;
    const double *load;            /* [E] tokens that choose each expert by the unbiased score */
    const double *load_all_layers; /* [E] the same, all sparse layers added */
} BalanceStep;

/* One micro-batch's share of a layer's statistics: affinity [E], softmax [E], load [E], z, seq: balance_width numbers. */
size_t balance_width(size_t E);
void balance_gather(Tape *tape, const RouterShape *shape, Tensor *logits, double *stats /* [n_micro_batches][width] */);

/* The values of the losses from the statistics of the whole step. layers [L][width], already added over micro-batches. */
BalanceValues balance_values(size_t L, size_t E, size_t K, size_t tokens, size_t documents, const double *layers);

/* Add the gradient of  sum coefficient * loss  to the logits on the way back. `step` is read then, not now. */
void op_balance(Tape *tape, Tensor *logits, const RouterShape *shape, const BalanceValues *coefficient,
                const BalanceStep *step);

/* ---- op_loss.c ------------------------------------------------------------------------------------------------- */

/* Cross-entropy of every row against its target, in nats: nll [rows][1]; logits = x W' exist a few rows at a time.
 *   targets [rows]     token ids
 * The gradient of the logits is computed in the same pass, when it is wanted. */
Tensor *op_loss(Tape *tape, Tensor *x, const Weight *W, const int32_t *targets);

/* How many rows of logits exist at once. */
size_t op_loss_rows(size_t vocabulary);

#endif
