/* The places of a model that can carry LoRA, by PEFT's module names, and which of them an adapter uses. */
#ifndef GRAFT_MODEL_LORA_SITES_H
#define GRAFT_MODEL_LORA_SITES_H

#include "model/adapter.h"
#include "model/model.h"

enum { MODULE_BYTES = 128 };

/* Gate and up are two modules in one slot: half 0 and 1. */
typedef enum { SLOT_PLACE, SLOT_EXPERT_IN, SLOT_EXPERT_OUT, SLOT_ROUTER } SlotKind;
typedef struct {
    SlotKind kind;
    size_t l;
    LoraPlace place; /* of SLOT_PLACE */
    size_t expert;   /* of SLOT_EXPERT_* */
    unsigned half;
} Slot;

/* The frozen weight behind a module. */
const Weight *slot_weight(const Model *model, const Slot *slot);

/* "model.layers.3.mlp.experts.7.up_proj" and the slot it names; false: this model has no such module. A router's name gives
 * the place of its pair. */
void slot_module(const Slot *slot, char module[MODULE_BYTES]);
bool slot_find(const Model *model, const char *module, Slot *slot);

/* "gate_up_proj" for a slot of two halves, else the module's own last name: what parameters are named by. */
void slot_stem(const Slot *slot, char stem[MODULE_BYTES]);

/* Every module of a layer that can carry LoRA, experts and the router included. Stops at the first error. */
typedef Err *(*SlotVisit)(void *context, const Slot *slot, const char *module);
MUST_USE Err *slots_visit(const Model *model, size_t l, SlotVisit visit, void *context);

/* What sits in a slot: halves is 0 for nothing, 1, or a mask of gate (1) and up (2). */
typedef struct {
    unsigned halves;
    size_t r, r_up; /* r_up > 0: gate and up have pairs of their own */
    float scale, scale_up;
} Fill;

typedef struct {
    Fill places[LORA_PLACES];
    Fill *in, *out; /* [E], NULL in dense layers */
    bool router;
} LayerFill;

MUST_USE Err *fills_new(LayerFill **fills, const Model *model); /* [n_layers], all empty */
void fills_free(LayerFill *fills, const Model *model);
Fill *fill_of(LayerFill *fills, const Slot *slot);

/* What the settings ask for (targets.c). Fails: ERR_USAGE, as adapter_new says. */
MUST_USE Err *targets_fill(const Model *model, const LoraConfig *config, LayerFill *fills);

/* Build an adapter with every value zero but the routers', which are the base's. Fails also when nothing is filled. */
MUST_USE Err *adapter_build(Adapter **adapter, const Model *model, const LayerFill *fills);

/* The pair in a slot, NULL when there is none. */
Lora *adapter_lora(const Adapter *adapter, const Slot *slot);

#endif
