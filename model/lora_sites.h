/* The places of a model that can carry LoRA, by PEFT's module names, and which of them an adapter uses. */
#ifndef GRAFT_MODEL_LORA_SITES_H
#define GRAFT_MODEL_LORA_SITES_H

#include "model/adapter.h"
#include "model/model.h"

enum { MODULE_BYTES = 128 };

/* One place of one layer, or one projection of one expert. Gate and up are two modules at one site: half 0 and 1. */
typedef enum { SITE_PLACE, SITE_EXPERT_IN, SITE_EXPERT_OUT, SITE_ROUTER } LoraSiteKind;
typedef struct {
    LoraSiteKind kind;
    size_t l;
    LoraPlace place; /* of SITE_PLACE */
    size_t expert;   /* of SITE_EXPERT_* */
    unsigned half;
} LoraSite;

/* The frozen weight behind a module. */
const Weight *lora_site_weight(const Model *model, const LoraSite *site);

/* "model.layers.3.mlp.experts.7.up_proj" and the site it names; false: this model has no such module. A router's name
 * gives the site of its LoRA. */
void lora_site_module(const LoraSite *site, char module[MODULE_BYTES]);
bool lora_site_find(const Model *model, const char *module, LoraSite *site);

/* "gate_up_proj" for a site of two halves, else the module's own last name: what parameters are named by. */
void lora_site_stem(const LoraSite *site, char stem[MODULE_BYTES]);

/* Every module of a layer that can carry LoRA, experts and the router included. Stops at the first error. */
typedef Err *(*LoraSiteVisit)(void *context, const LoraSite *site, const char *module);
MUST_USE Err *lora_sites_visit(const Model *model, size_t l, LoraSiteVisit visit, void *context);

/* What sits at a site: halves is 0 for nothing, 1, or a mask of gate (1) and up (2). */
typedef struct {
    unsigned halves;
    size_t r, r_up; /* r_up > 0: gate and up have a LoRA each */
    float scale, scale_up;
} LoraSpec;

typedef struct {
    LoraSpec places[LORA_PLACES];
    LoraSpec *in, *out; /* [E], NULL in dense layers */
    bool router;
} LayerLoraSpec;

MUST_USE Err *lora_specs_new(LayerLoraSpec **specs, const Model *model); /* [n_layers], all empty */
void lora_specs_free(LayerLoraSpec *specs, const Model *model);
LoraSpec *lora_spec_of(LayerLoraSpec *specs, const LoraSite *site);

/* What the settings ask for (lora_targets.c). Fails: ERR_USAGE, as adapter_new says. */
MUST_USE Err *lora_targets_resolve(const Model *model, const LoraConfig *config, LayerLoraSpec *specs);

/* Build an adapter with every value zero but the routers', which are the base's. Fails: ERR_FORMAT, a router both by
 * LoRA and in full; ERR_USAGE, nothing is filled. */
MUST_USE Err *adapter_build(Adapter **adapter, const Model *model, const LayerLoraSpec *specs);

/* The LoRA at a site, NULL when there is none. */
Lora *adapter_lora(const Adapter *adapter, const LoraSite *site);

#endif
