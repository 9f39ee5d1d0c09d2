/* Every operation that a model may use. The tape comes first; shapes are [rows][columns]; T is tape->group->T.
 *
 * Gradient: of every tensor argument, unless stated otherwise; base weights are frozen.
 * Owner:    results belong to the tape, until tape_reset.
 * Fails:    through the tape. */
#ifndef GRAFT_AUTOGRAD_OP_H
#define GRAFT_AUTOGRAD_OP_H

#include "autograd/tape.h"
#include "tensor/weight.h"

/* Loops over fewer elements run on one thread, which is done before other threads would wake up. No bit changes. */
enum { MIN_ELEMENTS_FOR_THREADS = 1 << 14 };

/* ---- op_embed.c ------------------------------------------------------------------------------------------------ */

/* Rows of a frozen table, converted to float: returns [T][D]. ids [T], below table->rows. No gradient. */
Tensor *op_embed(Tape *tape, const Weight *table, const int32_t *ids);

/* y += x, in place; returns y. */
Tensor *op_add(Tape *tape, Tensor *y, Tensor *x);

/* ---- op_linear.c ----------------------------------------------------------------------------------------------- */

/* y = [x W0' | x W1' | ...]: the outputs of n <= 4 frozen projections of one input, side by side. Each LoRA adds
 * y[:, col : col + O) += scale (drop(x) A') B'. At most 4 LoRA modules, at most one to a weight; NULL: none. */
Tensor *op_linear(Tape *tape, Tensor *x, size_t n, const Weight *const W[], size_t n_loras, const Lora *const loras[]);

/* y = x W' where W [O][D] itself may be trained (a router): param, if not NULL, replaces the frozen weight. */
Tensor *op_linear_trained(Tape *tape, Tensor *x, const Weight *W, const Param *param);

/* ---- op_lora.c ------------------------------------------------------------------------------------------------- */

/* The two steps of a LoRA that more than one operation uses: u = drop(x) A' [T][r], and y = x W' + scale u B' [T][O].
 *   B   [n_micro_batches] of op_param(lora->B) */
Tensor *op_lora_A(Tape *tape, Tensor *x, const Lora *lora);
Tensor *op_lora_B(Tape *tape, Tensor *x, const Weight *W, Tensor *u, const Lora *lora, Tensor *const *B);

/* ---- op_param.c ------------------------------------------------------------------------------------------------ */

/* A parameter as one tensor for each micro-batch, [n_micro_batches]: the values are shared, each micro-batch has its
 * own gradient. So several operations can add to the gradient before it goes to the parameter's forest. */
Tensor *const *op_param(Tape *tape, const Param *param);

/* ---- op_rmsnorm.c ---------------------------------------------------------------------------------------------- */

/* y = w x / sqrt(mean(x^2) + eps) over columns [col, col + n) of x; y [rows][n]. weight [n] is frozen.
 * Source: Zhang and Sennrich 2019 (arXiv:1910.07467). */
Tensor *op_rmsnorm(Tape *tape, Tensor *x, size_t col, size_t n, const float *weight, double eps);

/* LayerNorm with weight and bias over all columns. No gradient: only the frozen indexer uses it.
 * Source: Ba et al. 2016 (arXiv:1607.06450). */
Tensor *op_layernorm(Tape *tape, Tensor *x, const float *weight, const float *bias, double eps);

/* ---- op_rope.c ------------------------------------------------------------------------------------------------- */

/* Cosines and sines of the angles of positions 0 to n - 1, each [n][dim / 2]. */
typedef struct {
    size_t n, dim;
    const float *cos, *sin;
} RopeTable;

/* Rotate, in place, the columns [col + h * stride, + dim) of every row, h < heads, by the row's position in its
 * document. Rotary pairs are (2 j, 2 j + 1) if interleaved, else (j, j + dim / 2). Source: Su et al. 2021, section
 * 3.4.2 (arXiv:2104.09864). */
Tensor *op_rope(Tape *tape, Tensor *x, const RopeTable *table, size_t col, size_t heads, size_t stride,
                bool interleaved);

/* ---- op_index.c ------------------------------------------------------------------------------------------------ */

/* Which keys each query sees. of[d] is a bitmap [rows of d][keys_words(d)]; NULL: all keys of its past. */
typedef struct {
    size_t n_docs;
    uint64_t **of;
    size_t max_keys; /* of a query; 0: not known */
} Keys;

static inline size_t keys_words(const Group *group, size_t d)
{
    size_t n = group->doc_start[d + 1] - group->doc_start[d] + (group->doc_past ? group->doc_past[d] : 0);
    return (n + 63) / 64;
}

typedef struct {
    size_t n_heads, dim, top_k;
    float scale, head_scale; /* dim^-1/2, before the ReLU; n_heads^-1/2, a factor of the head weights */
} IndexShape;

/* Choose, for every query, the top_k keys of its past by  I[s,t] = sum_h w[s,h] ReLU(q[s,h] . k[t]).
 *   q       [T][n_heads * dim] and k [T][dim], already rotated; w [T][n_heads]
 *   past    [n_docs] index keys of the whole document, the new rows included, [past + n][dim]; NULL: k holds them all
 *   keys    out: bitmaps of the documents where of[d] is not NULL; ties go to the lower position
 * Gradient: none, the choice is a constant. Source: DeepSeek-V3.2 report, section 2.1, equation 1. */
void op_index(Tape *tape, const IndexShape *shape, Tensor *q, Tensor *k, Tensor *w, const float *const *past,
              Keys *keys);

/* ---- op_attention.c -------------------------------------------------------------------------------------------- */

typedef struct {
    size_t n_heads, nope, rope, v;
    float scale;
    size_t latent_from; /* documents with chosen keys and at least so many tokens attend over latents; 0: none */
} AttentionShape;

/* True if document d attends over latents (op_attention_latent), false if over expanded keys (op_attention). Depends on
 * the document and the shapes alone. */
static inline bool attends_latents(const AttentionShape *shape, const Group *group, const Keys *keys, size_t d)
{
    return shape->latent_from && keys && keys->of && keys->of[d] &&
           group->doc_start[d + 1] - group->doc_start[d] >= shape->latent_from;
}

/* Causal attention inside each document, over chosen keys. Rows of documents that attend over latents are not written.
 *   q       [T][H * (nope + rope)]   each head: nope, then rope (rotated)
 *   kv      [T][H * (nope + v)]      each head: the key's nope part, then the value
 *   kr      [T][..]                  columns [kr_col, + rope): the rotated part of the key, shared by all heads
 *   keys    NULL: every key of the past
 *   returns [T][H * v]
 * Works on tiles of queries and keys, never on T x T scores of a head. On the bf16 path the gradients of q, kv and kr
 * are products of factors rounded to bf16; the result is not.
 * Source: docs/glm5.md, section 5. */
Tensor *op_attention(Tape *tape, const AttentionShape *shape, Tensor *q, Tensor *kv, Tensor *kr, size_t kr_col,
                     const Keys *keys);

/* ---- op_attention_latent.c ------------------------------------------------------------------------------------- */

/* The same for documents that attend over latents, at a cost that grows with the chosen keys: Wk is applied to the
 * query and Wv to the weighted sum, because all heads share the latents.
 *   q        [T][H * (nope + rope)], kr as above
 *   latent   [T][R]
 *   kv_up    [H * (nope + v)][R]: each head the rows of Wk, then those of Wv
 *   u        [T][r] of op_lora_A(latent, lora), and B of op_param(lora->B); lora NULL: neither
 *   o        [T][H * v] result of op_attention for the other documents, NULL if there are none
 * Source: DeepSeek-V2 report, section 2.1.2 (arXiv:2405.04434); docs/glm5.md, section 5. */
typedef struct {
    Tensor *q, *latent, *kr;
    size_t kr_col;
    const Weight *kv_up;
    const Lora *lora;
    Tensor *u, *const *B;
} LatentInputs;
Tensor *op_attention_latent(Tape *tape, const AttentionShape *shape, const LatentInputs *in, const Keys *keys,
                            Tensor *o);

/* ---- op_attention_cached.c ------------------------------------------------------------------------------------- */

/* Attention of new rows of cached documents, from the latents: scores are q_abs . c + q_rope . k_rope with
 * q_abs[h] = q_nope[h] Wk[h], outputs (P c) Wv[h]'. Returns [T][H * v].
 *   q        [T][H * (nope + rope)]
 *   kv_up    [H * (nope + v)][R]; lora: its LoRA, or NULL
 *   latent   [n_docs] of [past + n][R]
 *   rotary   [n_docs] of [past + n][rope]
 * Gradient: none, for generation only.
 * Source: DeepSeek-V3 inference code, "absorb"; docs/glm5.md, section 5. */
typedef struct {
    Tensor *q;
    const Weight *kv_up;
    const Lora *lora;
    const float *const *latent, *const *rotary;
} CachedInputs;
Tensor *op_attention_cached(Tape *tape, const AttentionShape *shape, const CachedInputs *in, const Keys *keys);

/* ---- op_swiglu.c ----------------------------------------------------------------------------------------------- */

/* a = silu(g) u  [T][F]  from x [T][2 F] = [g | u]. Source: Shazeer 2020 (arXiv:2002.05202). */
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
 *   ids     [T][K]  out: the chosen, in id order; with ids_given in: used as they are
 *   returns         ids ascending, weights in that order
 * Gradient: of the logits, through the weights; the choice itself has none.
 * Source:   DeepSeek-V3 report, section 2.1.2 (arXiv:2412.19437). */
Route op_route(Tape *tape, Tensor *logits, const float *bias, const RouterShape *shape, int32_t *ids, bool ids_given);

/* ---- op_experts.c ---------------------------------------------------------------------------------------------- */

typedef struct {
    const Weight *gate, *up, *down;       /* [F][D], [F][D], [D][F] */
    const Lora *lora_gate_up, *lora_down; /* LoRA on [gate | up] and on down; NULL: none */
} Expert;

/* Expert chunks, for experts that are not all in memory: consecutive experts that are acquired and released together,
 * one chunk at a time, in rising order in the forward pass, in falling order in the backward pass. acquire and release
 * may be NULL: then experts are resident, and the chunks only set the order of work. */
typedef struct {
    size_t n;
    const size_t *begin; /* [n + 1] first expert of each chunk */
    Err *(*acquire)(void *context, size_t chunk);
    void (*release)(void *context, size_t chunk);
    void *context;
} ExpertChunks;

/* y[t] = sum_k weights[t][k] expert(ids[t][k])(x[t]), experts added in id order; returns [T][D].
 *   chunks   NULL: all experts are in memory
 * With tape->recompute_experts backward recomputes gate and up, so that no tape holds activations inside experts. With
 * tape->recomputing y stays zero: the forward pass of the experts is left out, and backward computes what it needs.
 * Owner of chunks: the caller, until the tape's reset. */
Tensor *op_experts(Tape *tape, Tensor *x, Route route, size_t E, const Expert *experts, const ExpertChunks *chunks);

/* ---- op_balance.c ---------------------------------------------------------------------------------------------- */

/* The router's balance losses, or their coefficients. */
typedef struct {
    double seq_aux_loss, aux_loss, load_balancing_loss, z_loss;
} BalanceValues;

/* Statistics of one layer's routing over the whole step. */
typedef struct {
    size_t tokens, documents; /* of the whole step */
    size_t sparse_layers;
    const double *load;            /* [E] tokens that choose each expert by the score without bias */
    const double *load_all_layers; /* [E] the same, summed over all sparse layers */
} BalanceStep;

/* One layer's statistics of a micro-batch, or of a whole step when the rows of its micro-batches are added: the parts
 * of a row of balance_width(E) numbers. */
typedef struct {
    double *affinity; /* [E] sum over tokens of p[t,e] */
    double *softmax;  /* [E] sum over tokens of softmax(z)[t,e] */
    double *load;     /* [E] tokens that choose expert e by the score without bias */
    double *z;        /* [1] sum over tokens of (logsumexp z)^2 */
    double *seq;      /* [1] sum over documents of the sequence loss */
} BalanceStats;

static inline size_t balance_width(size_t E) { return 3 * E + 2; }

static inline BalanceStats balance_stats(double *row, size_t E)
{
    return (BalanceStats){row, row + E, row + 2 * E, row + 3 * E, row + 3 * E + 1};
}

/* Gather the rows of the tape's micro-batches; they are zeroed first. */
void balance_gather(Tape *tape, const RouterShape *shape, Tensor *logits, double *rows /* [n_micro_batches][width] */);

/* The losses from the statistics of the whole step. rows [L][width], already summed over micro-batches. */
BalanceValues balance_values(size_t L, size_t E, size_t K, size_t tokens, size_t documents, double *rows);

/* In the backward pass, add the gradient of  sum coefficient * loss  to that of the logits. `step` is read then. */
void op_balance(Tape *tape, Tensor *logits, const RouterShape *shape, const BalanceValues *coefficient,
                const BalanceStep *step);

/* ---- op_loss.c ------------------------------------------------------------------------------------------------- */

/* Cross-entropy of every row with its target, in nats: returns nll [rows][1]. Logits x W' exist for a few rows only.
 *   x       [rows][D], W [V][D]
 *   targets [rows]   token ids
 * If x requires a gradient, the forward pass computes it, too. */
Tensor *op_loss(Tape *tape, Tensor *x, const Weight *W, const int32_t *targets);

/* Number of rows of logits that exist at once. */
size_t op_loss_rows(size_t vocabulary);

#endif
