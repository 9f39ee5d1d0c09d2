/* Names of modules are PEFT's, which are the published tensors' without ".weight". What always holds: lora_site_find of
 * the name that lora_site_module writes is the same site. */
#include "model/lora_sites.h"

#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *leaf;
    LoraPlace place;
    unsigned half;
} names[] = {
    {"self_attn.q_proj", LORA_Q, 0},
    {"self_attn.q_a_proj", LORA_Q_DOWN, 0},
    {"self_attn.q_b_proj", LORA_Q_UP, 0},
    {"self_attn.kv_a_proj_with_mqa", LORA_KV_DOWN, 0},
    {"self_attn.kv_b_proj", LORA_KV_UP, 0},
    {"self_attn.o_proj", LORA_O, 0},
    {"mlp.gate_proj", LORA_MLP_IN, 0},
    {"mlp.up_proj", LORA_MLP_IN, 1},
    {"mlp.down_proj", LORA_MLP_OUT, 0},
    {"mlp.shared_experts.gate_proj", LORA_SHARED_IN, 0},
    {"mlp.shared_experts.up_proj", LORA_SHARED_IN, 1},
    {"mlp.shared_experts.down_proj", LORA_SHARED_OUT, 0},
    {"mlp.gate", LORA_ROUTER, 0},
};
enum { N_NAMES = sizeof names / sizeof *names };

static const char *const expert_leaf[] = {"gate_proj", "up_proj", "down_proj"};

static const Weight *place_weight(const Model *model, size_t l, LoraPlace place, unsigned half)
{
    const Layer *layer = &model->layers[l];
    const Weight *w = NULL;
    switch (place) {
    case LORA_Q: w = &layer->q_proj; break;
    case LORA_Q_DOWN: w = &layer->q_down; break;
    case LORA_Q_UP: w = &layer->q_up; break;
    case LORA_KV_DOWN: w = &layer->kv_down; break;
    case LORA_KV_UP: w = &layer->kv_up; break;
    case LORA_O: w = &layer->o_proj; break;
    case LORA_MLP_IN:
    case LORA_SHARED_IN: w = half ? &layer->up : &layer->gate; break;
    case LORA_MLP_OUT:
    case LORA_SHARED_OUT: w = &layer->down; break;
    case LORA_ROUTER: w = &layer->router; break;
    case LORA_PLACES: break;
    }
    bool mlp = place == LORA_MLP_IN || place == LORA_MLP_OUT, sparse = place >= LORA_SHARED_IN;
    if ((mlp && !layer->dense) || (sparse && layer->dense)) return NULL;
    return w && w->rows ? w : NULL;
}

const Weight *lora_site_weight(const Model *model, const LoraSite *site)
{
    const Layer *layer = &model->layers[site->l];
    switch (site->kind) {
    case SITE_PLACE: return place_weight(model, site->l, site->place, site->half);
    case SITE_ROUTER: return layer->dense ? NULL : &layer->router;
    case SITE_EXPERT_IN: return layer->dense ? NULL : layer->expert_weights + 3 * site->expert + site->half;
    case SITE_EXPERT_OUT: return layer->dense ? NULL : layer->expert_weights + 3 * site->expert + 2;
    }
    return NULL;
}

static const char *place_name(LoraPlace place, unsigned half)
{
    for (size_t i = 0; i < N_NAMES; i++)
        if (names[i].place == place && names[i].half == half) return names[i].leaf;
    return "?";
}

void lora_site_module(const LoraSite *site, char module[MODULE_BYTES])
{
    switch (site->kind) {
    case SITE_PLACE:
        snprintf(module, MODULE_BYTES, "model.layers.%zu.%s", site->l, place_name(site->place, site->half));
        break;
    case SITE_ROUTER: snprintf(module, MODULE_BYTES, "model.layers.%zu.mlp.gate", site->l); break;
    case SITE_EXPERT_IN:
    case SITE_EXPERT_OUT:
        snprintf(module, MODULE_BYTES, "model.layers.%zu.mlp.experts.%zu.%s", site->l, site->expert,
                 expert_leaf[site->kind == SITE_EXPERT_OUT ? 2 : site->half]);
        break;
    }
}

void lora_site_stem(const LoraSite *site, char stem[MODULE_BYTES])
{
    lora_site_module(site, stem);
    bool two = site->kind == SITE_EXPERT_IN ||
               (site->kind == SITE_PLACE && (site->place == LORA_MLP_IN || site->place == LORA_SHARED_IN));
    char *dot = strrchr(stem, '.');
    if (two && dot) snprintf(dot, MODULE_BYTES - (size_t)(dot - stem), ".gate_up_proj");
}

static bool find_expert(const char *leaf, LoraSite *site)
{
    int used = 0;
    size_t expert;
    if (sscanf(leaf, "mlp.experts.%zu.%n", &expert, &used) != 1 || used == 0) return false;
    for (unsigned i = 0; i < 3; i++) {
        if (strcmp(leaf + used, expert_leaf[i]) != 0) continue;
        site->kind = i == 2 ? SITE_EXPERT_OUT : SITE_EXPERT_IN;
        site->half = i == 1;
        site->expert = expert;
        return true;
    }
    return false;
}

bool lora_site_find(const Model *model, const char *module, LoraSite *site)
{
    int used = 0;
    *site = (LoraSite){0};
    if (sscanf(module, "model.layers.%zu.%n", &site->l, &used) != 1 || used == 0 || site->l >= model->n_layers)
        return false;
    const char *leaf = module + used;
    bool found = false;
    if (find_expert(leaf, site)) {
        found = site->expert < model->router.E;
    } else {
        for (size_t i = 0; i < N_NAMES && !found; i++) {
            if (strcmp(leaf, names[i].leaf) != 0) continue;
            site->place = names[i].place;
            site->half = names[i].half;
            found = true;
        }
    }
    char name[MODULE_BYTES];
    if (!found || !lora_site_weight(model, site)) return false;
    lora_site_module(site, name);
    return strcmp(name, module) == 0; /* scanf also reads " 1", "01" and numbers that do not fit */
}

Err *lora_sites_visit(const Model *model, size_t l, LoraSiteVisit visit, void *context)
{
    char module[MODULE_BYTES];
    for (size_t i = 0; i < N_NAMES; i++) {
        LoraSite site = {.kind = SITE_PLACE, .l = l, .place = names[i].place, .half = names[i].half};
        if (!lora_site_weight(model, &site)) continue;
        lora_site_module(&site, module);
        TRY(visit(context, &site, module));
    }
    for (size_t e = 0; e < model->router.E && !model->layers[l].dense; e++)
        for (unsigned i = 0; i < 3; i++) {
            LoraSite site = {.kind = i == 2 ? SITE_EXPERT_OUT : SITE_EXPERT_IN, .l = l, .expert = e, .half = i == 1};
            lora_site_module(&site, module);
            TRY(visit(context, &site, module));
        }
    return NULL;
}

Err *lora_specs_new(LayerLoraSpec **specs, const Model *model)
{
    TRY(mem_new(specs, model->n_layers, sizeof **specs));
    Err *err = NULL;
    for (size_t l = 0; l < model->n_layers && !err; l++) {
        if (model->layers[l].dense) continue;
        err = mem_new(&(*specs)[l].in, model->router.E, sizeof(LoraSpec));
        if (!err) err = mem_new(&(*specs)[l].out, model->router.E, sizeof(LoraSpec));
    }
    if (err) {
        lora_specs_free(*specs, model);
        *specs = NULL;
    }
    return err;
}

void lora_specs_free(LayerLoraSpec *specs, const Model *model)
{
    for (size_t l = 0; l < model->n_layers && specs; l++) {
        free(specs[l].in);
        free(specs[l].out);
    }
    free(specs);
}

LoraSpec *lora_spec_of(LayerLoraSpec *specs, const LoraSite *site)
{
    LayerLoraSpec *layer = &specs[site->l];
    switch (site->kind) {
    case SITE_PLACE: return &layer->places[site->place];
    case SITE_EXPERT_IN: return &layer->in[site->expert];
    case SITE_EXPERT_OUT: return &layer->out[site->expert];
    case SITE_ROUTER: break;
    }
    return NULL;
}
