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

const Weight *slot_weight(const Model *model, const Slot *slot)
{
    const Layer *layer = &model->layers[slot->l];
    switch (slot->kind) {
    case SLOT_PLACE: return place_weight(model, slot->l, slot->place, slot->half);
    case SLOT_ROUTER: return layer->dense ? NULL : &layer->router;
    case SLOT_EXPERT_IN: return layer->dense ? NULL : layer->expert_weights + 3 * slot->expert + slot->half;
    case SLOT_EXPERT_OUT: return layer->dense ? NULL : layer->expert_weights + 3 * slot->expert + 2;
    }
    return NULL;
}

static const char *place_name(LoraPlace place, unsigned half)
{
    for (size_t i = 0; i < N_NAMES; i++)
        if (names[i].place == place && names[i].half == half) return names[i].leaf;
    return "?";
}

void slot_module(const Slot *slot, char module[MODULE_BYTES])
{
    switch (slot->kind) {
    case SLOT_PLACE: snprintf(module, MODULE_BYTES, "model.layers.%zu.%s", slot->l, place_name(slot->place, slot->half)); break;
    case SLOT_ROUTER: snprintf(module, MODULE_BYTES, "model.layers.%zu.mlp.gate", slot->l); break;
    case SLOT_EXPERT_IN:
    case SLOT_EXPERT_OUT:
        snprintf(module, MODULE_BYTES, "model.layers.%zu.mlp.experts.%zu.%s", slot->l, slot->expert,
                 expert_leaf[slot->kind == SLOT_EXPERT_OUT ? 2 : slot->half]);
        break;
    }
}

void slot_stem(const Slot *slot, char stem[MODULE_BYTES])
{
    slot_module(slot, stem);
    bool two = slot->kind == SLOT_EXPERT_IN || (slot->kind == SLOT_PLACE && (slot->place == LORA_MLP_IN || slot->place == LORA_SHARED_IN));
    char *dot = strrchr(stem, '.');
    if (two && dot) snprintf(dot, MODULE_BYTES - (size_t)(dot - stem), ".gate_up_proj");
}

static bool find_expert(const char *leaf, Slot *slot)
{
    int used = 0;
    size_t expert;
    if (sscanf(leaf, "mlp.experts.%zu.%n", &expert, &used) != 1 || used == 0) return false;
    for (unsigned i = 0; i < 3; i++) {
        if (strcmp(leaf + used, expert_leaf[i]) != 0) continue;
        slot->kind = i == 2 ? SLOT_EXPERT_OUT : SLOT_EXPERT_IN;
        slot->half = i == 1;
        slot->expert = expert;
        return true;
    }
    return false;
}

bool slot_find(const Model *model, const char *module, Slot *slot)
{
    int used = 0;
    *slot = (Slot){0};
    if (sscanf(module, "model.layers.%zu.%n", &slot->l, &used) != 1 || used == 0 || slot->l >= model->n_layers) return false;
    const char *leaf = module + used;
    bool found = false;
    if (find_expert(leaf, slot)) {
        found = slot->expert < model->router.E;
    } else {
        for (size_t i = 0; i < N_NAMES && !found; i++) {
            if (strcmp(leaf, names[i].leaf) != 0) continue;
            slot->place = names[i].place;
            slot->half = names[i].half;
            found = true;
        }
    }
    char name[MODULE_BYTES];
    if (!found || !slot_weight(model, slot)) return false;
    slot_module(slot, name);
    return strcmp(name, module) == 0; /* scanf also reads " 1", "01" and numbers that do not fit */
}

Err *slots_visit(const Model *model, size_t l, SlotVisit visit, void *context)
{
    char module[MODULE_BYTES];
    for (size_t i = 0; i < N_NAMES; i++) {
        Slot slot = {.kind = SLOT_PLACE, .l = l, .place = names[i].place, .half = names[i].half};
        if (!slot_weight(model, &slot)) continue;
        slot_module(&slot, module);
        TRY(visit(context, &slot, module));
    }
    for (size_t e = 0; e < model->router.E && !model->layers[l].dense; e++)
        for (unsigned i = 0; i < 3; i++) {
            Slot slot = {.kind = i == 2 ? SLOT_EXPERT_OUT : SLOT_EXPERT_IN, .l = l, .expert = e, .half = i == 1};
            slot_module(&slot, module);
            TRY(visit(context, &slot, module));
        }
    return NULL;
}

Err *fills_new(LayerFill **fills, const Model *model)
{
    TRY(mem_new(fills, model->n_layers, sizeof **fills));
    Err *err = NULL;
    for (size_t l = 0; l < model->n_layers && !err; l++) {
        if (model->layers[l].dense) continue;
        err = mem_new(&(*fills)[l].in, model->router.E, sizeof(Fill));
        if (!err) err = mem_new(&(*fills)[l].out, model->router.E, sizeof(Fill));
    }
    if (err) {
        fills_free(*fills, model);
        *fills = NULL;
    }
    return err;
}

void fills_free(LayerFill *fills, const Model *model)
{
    for (size_t l = 0; l < model->n_layers && fills; l++) {
        free(fills[l].in);
        free(fills[l].out);
    }
    free(fills);
}

Fill *fill_of(LayerFill *fills, const Slot *slot)
{
    LayerFill *layer = &fills[slot->l];
    switch (slot->kind) {
    case SLOT_PLACE: return &layer->places[slot->place];
    case SLOT_EXPERT_IN: return &layer->in[slot->expert];
    case SLOT_EXPERT_OUT: return &layer->out[slot->expert];
    case SLOT_ROUTER: break;
    }
    return NULL;
}
