/* GLM-5 and its siblings: the forward pass on one page (model.c), the same for training, evaluation and generation.
 * Equations: docs/glm5.md. */
#ifndef GRAFT_MODEL_MODEL_H
#define GRAFT_MODEL_MODEL_H

#include "autograd/op.h"
#include "model/adapter.h"
#include "model/config.h"
#include "model/weights.h"

/* One decoder layer's frozen weights. Names are the checkpoint's, but for the model's own low ranks: q_a_proj and
 * kv_a_proj_with_mqa are q_down and kv_down here, q_b_proj and kv_b_proj q_up and kv_up. */
typedef struct {
    bool dense, indexer;
    float *input_layernorm, *post_attention_layernorm, *q_norm, *kv_norm;
    Weight q_proj, q_down, q_up, kv_down, kv_up, o_proj; /* q_proj, or q_down and q_up */
    Weight index_q, index_k, index_heads;
    float *index_norm, *index_norm_bias;
    Weight gate, up, down; /* the dense MLP, or the shared expert */
    Weight router;
    float *router_bias;
    Weight *expert_weights;     /* [E][3]: gate, up, down */
    Expert *experts;            /* [E] without LoRA */
    const ExpertChunks *chunks; /* NULL: they are there when the layer is. Owner: stream */
} Layer;

typedef struct Model {
    ModelConfig config;
    Weights *weights;
    Weight embed_tokens, lm_head;
    float *norm;
    size_t n_layers;
    Layer *layers;
    RopeTable rope;
    float *rope_values;
    AttentionShape attention;
    IndexShape index;
    RouterShape router;
    struct Stream *stream; /* NULL: every layer lies in the mapping */
} Model;

/* Fails: ERR_IO, when the path is no directory; a name of the Hugging Face hub is explained. */
MUST_USE Err *model_expect_directory(const char *path);

/* Open a Hugging Face directory. */
MUST_USE Err *model_open(Model **model, const char *directory);

/* The same from a config.json alone: shapes and zeros, for plans (weights_outline). */
MUST_USE Err *model_outline(Model **model, const char *config_path, DType matrices);
void model_close(Model *model);

/* Make the rotary table at least n positions long. Fails: ERR_DATA beyond max_position_embeddings. */
MUST_USE Err *model_reserve_positions(Model *model, size_t n);

/* Announce which layers come: all of them forward, then backward to `lowest` (n_layers: forward only), each for so many
 * groups (of the rank that has most). Only speed depends on it. model/forward.h calls this. */
void layers_announce(Model *model, size_t lowest, size_t groups);

/* A layer's weights may be read between the two; nobody else's pointer into them holds outside. */
MUST_USE Err *layer_acquire(Model *model, size_t l);
void layer_release(Model *model, size_t l);

/* ---- what a group's tokens chose -------------------------------------------------------------------------------- */

/* Experts of every token and keys of every query, layer by layer: chosen once, in the forward
 * pass, and used again in the backward pass. */
typedef struct {
    size_t n_layers;
    int32_t **experts; /* [n_layers] of [T][K]; NULL in dense layers */
    Keys *keys;        /* [n_layers]; of == NULL where a layer has no indexer or nothing is left out */
} Choices;

MUST_USE Err *choices_new(Choices *choices, const Model *model, const Group *group);
void choices_free(Choices *choices);

/* ---- what a cache holds for each sequence of a group ------------------------------------------------------------ */

typedef struct {
    size_t capacity;                   /* tokens that fit */
    float **latent, **rotary, **index; /* [n_docs] of [capacity][kv_lora_rank], [..][rope], [..][index dim] or NULL */
} LayerCache;

/* ---- the forward pass ------------------------------------------------------------------------------------------ */

typedef struct {
    Tensor *router_logits;
    Route route;
} LayerTrace;

/* What one layer's pass over one group reads and writes besides x. */
typedef struct {
    Choices *choices;
    bool made;                        /* choices were made in the forward pass and are used */
    double *balance_stats;            /* [n_micro_batches][balance_width(E)] to gather into, or NULL */
    const BalanceValues *coefficient; /* of the balance losses, or NULL */
    const BalanceStep *balance;
    LayerCache *cache; /* grows by the group's rows; NULL: no cache */
    LayerTrace *trace; /* filled for those who look inside, or NULL */
} LayerPass;

/* x [T][D] -> the next hidden state, x unchanged. adapter NULL: the base alone. */
Tensor *layer_forward(Tape *tape, const Model *model, size_t l, const Adapter *adapter, Tensor *x,
                      const LayerPass *pass);

/* Hidden states of tokens, [T][D]. */
Tensor *model_embed(Tape *tape, const Model *model, const int32_t *ids);

/* nll [rows][1] of rows of the last hidden state against their targets. */
Tensor *model_loss(Tape *tape, const Model *model, Tensor *x, const int32_t *targets);

/* Logits [rows][V], for a few rows. */
Tensor *model_logits(Tape *tape, const Model *model, Tensor *x);

#endif
