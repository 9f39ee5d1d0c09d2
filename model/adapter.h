/* Which weights carry LoRA. An Adapter owns its values: one flat block, layer after layer.
 *
 *     values   | layer 0: A B A B ... | layer 1: ... |     a layer's block is what one tree of gradients adds up
 *
 * Gate and up of one MLP or expert share one A: B then has 2 F rows, gate's first, and every consumer's format holds
 * it without loss (docs/design.md, section 4). */
#ifndef GRAFT_MODEL_ADAPTER_H
#define GRAFT_MODEL_ADAPTER_H

#include "autograd/op.h"
#include "base/json.h"
#include "base/options.h"

typedef struct Model Model;

/* The places of a layer that may carry LoRA, but for its routed experts; in this order they lie in the layer's
 * block. */
typedef enum {
    LORA_Q,
    LORA_Q_DOWN,
    LORA_Q_UP,
    LORA_KV_DOWN,
    LORA_KV_UP,
    LORA_O,
    LORA_MLP_IN, /* gate|up of the dense MLP, then its down */
    LORA_MLP_OUT,
    LORA_SHARED_IN,
    LORA_SHARED_OUT,
    LORA_ROUTER, /* instead of, not beside, training it in full */
    LORA_PLACES,
} LoraPlace;

enum { LORA_R_MAX = 4096 }; /* the greatest r in settings; readers of checkpoints accept the same range */

/* The settings, under PEFT's names. */
typedef struct {
    int64_t r;
    double lora_alpha, lora_dropout;
    bool use_rslora;
    const Json *target_modules;      /* a list of names or suffixes, or one regular expression; NULL: none */
    const Json *layers_to_transform; /* a number, a list of them, or NULL: all */
    /* "all", "none", or ESFT's expert_cfg.json: {"experts": {"3": [1, 2]}, ...}; NULL: by target_modules */
    const Json *experts;
    bool train_router;
} LoraConfig;

typedef struct {
    size_t n_params;
    Param *params;                /* in the order of the block */
    size_t offset, n;             /* of the block in Adapter.values, in floats */
    Lora *places[LORA_PLACES];    /* NULL: none */
    Lora *places_up[LORA_PLACES]; /* the up half, where an imported MLP has two A's; places has the gate half then */
    Param *router;                /* NULL: frozen */
    float *router_bias;           /* [E] instead of the base's correction bias, in Adapter.biases; NULL: the base's */
    Expert *experts;              /* [E] base weights with this adapter's LoRA; NULL in dense layers */
    size_t n_lora;
    Lora *loras;    /* [n_lora] to which places and experts point */
    Forest *forest; /* not owned */
} LayerAdapter;

typedef struct Adapter {
    const Model *model;
    LoraConfig config; /* texts are borrowed only while the adapter is made */
    size_t n_layers, n;
    LayerAdapter *layers;
    float *values; /* [n] */
    float *biases; /* [n_layers][E] the routers' correction biases, where they change; NULL: the base's stand */
} Adapter;

/* The setting `experts` may also be the name of a file, ending in .json, that holds ESFT's object. Resolve it before an
 * adapter is made and before settings are saved: *table is the file's content, or NULL when `experts` is no such name.
 * Fails: ERR_IO, ERR_FORMAT, naming the key and the file.   Owner: the caller, json_free. */
MUST_USE Err *lora_experts_read(Json **table, const Json *experts);

/* Make an adapter as the settings say, A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0 (PEFT's default), the router's values from
 * the base. Every random number is a function of (seed, parameter, index).
 * Fails: ERR_USAGE: a pattern that matches nothing (with the nearest names), an expert or layer that is not there, a
 * router both by LoRA and in full, nothing to train at all. */
MUST_USE Err *adapter_new(Adapter **adapter, const Model *model, const LoraConfig *config, uint64_t seed);
void adapter_free(Adapter *adapter);

/* One LoRA module, or a trained router, as files hold it: module is "model.layers.3.self_attn.q_a_proj",
 * "...mlp.experts.7.up_proj" or, with A NULL, "model.layers.3.mlp.gate" and its weight [out][in] in B. */
typedef struct {
    const char *module;
    size_t r, in, out;
    double scale;
    float *A, *B; /* [r][in], [out][r] */
} LoraModule;

/* Make an adapter of given modules. Gate and up with equal A become one LoRA; with unequal A they remain two in an MLP,
 * and become one of r_gate + r_up in a routed expert.
 * Fails: ERR_FORMAT naming the module that this model does not have, or whose shape differs. */
MUST_USE Err *adapter_from_modules(Adapter **adapter, const Model *model, size_t n, const LoraModule *places);

/* The opposite: gate and up as two modules. A and B point into the adapter's values, B of `out` rows each.
 * Owner of the array and the module names: the caller, lora_modules_free. */
MUST_USE Err *adapter_modules(const Adapter *adapter, LoraModule **modules, size_t *n);
void lora_modules_free(LoraModule *modules);

/* The layout for checkpoints: arrays of the flat block, experts of a kind stacked. */
typedef struct {
    char *name; /* "layers/003/self_attn.q_a_proj/lora_A", "layers/003/mlp.experts.gate_up_proj/lora_B" */
    size_t n_dims, dims[3], offset;
    int32_t *ids; /* [dims[0]] experts, or NULL */
} AdapterArray;
MUST_USE Err *adapter_arrays(const Adapter *adapter, AdapterArray **arrays, size_t *n);
void arrays_free(AdapterArray *arrays, size_t n);

/* Give every router a correction bias of its own, at first the base's. It has no gradient: train/ moves it by the
 * load. */
MUST_USE Err *adapter_own_biases(Adapter *adapter);

/* The lowest layer with something to train; n_layers when there is none. */
size_t adapter_lowest_layer(const Adapter *adapter);

/* Give one layer's parameters a forest to put gradients into, or take it away (NULL). */
void adapter_set_forest(Adapter *adapter, size_t l, Forest *forest);

#endif
