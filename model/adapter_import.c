/* Adapters from outside and back: single modules' pairs, gate and up apart. */
#include "base/memory.h"
#include "model/lora_sites.h"

#include <stdlib.h>
#include <string.h>

/* The one or two pairs that meet in a slot. */
typedef struct {
    const LoraModule *half[2];
} Met;

typedef struct {
    const Model *model;
    Met *places;  /* [n_layers][LORA_PLACES] */
    Met *experts; /* [n_layers][E][2] */
} Meeting;

static Met *met_of(const Meeting *meeting, const Slot *slot)
{
    if (slot->kind == SLOT_PLACE) return &meeting->places[slot->l * LORA_PLACES + slot->place];
    return &meeting->experts[(slot->l * meeting->model->router.E + slot->expert) * 2 + (slot->kind == SLOT_EXPERT_OUT)];
}

/* A router is trained in full, or by a pair like everything else. */
static bool locate(const Model *model, const LoraModule *given, Slot *slot)
{
    if (!slot_find(model, given->module, slot)) return false;
    if (slot->kind == SLOT_PLACE && slot->place == LORA_ROUTER && !given->A) slot->kind = SLOT_ROUTER;
    return true;
}

static Err *find(const Model *model, const LoraModule *given, Slot *slot)
{
    if (!locate(model, given, slot)) return err_new(ERR_FORMAT, "adapter: this model has no module %s", given->module);
    const Weight *w = slot_weight(model, slot);
    if (given->in != w->cols || given->out != w->rows)
        return err_new(ERR_FORMAT, "adapter: %s is for a weight [%zu][%zu]; the model's is [%zu][%zu]", given->module, given->out, given->in, w->rows, w->cols);
    if (slot->kind != SLOT_ROUTER && !given->A) return err_new(ERR_FORMAT, "adapter: %s: only a router is trained in full", given->module);
    return NULL;
}

static bool one_A(const Met *met)
{
    const LoraModule *g = met->half[0], *u = met->half[1];
    return g->r == u->r && g->scale == u->scale && memcmp(g->A, u->A, g->r * g->in * sizeof *g->A) == 0;
}

static Fill fill_for(const Met *met, SlotKind kind)
{
    const LoraModule *g = met->half[0], *u = met->half[1], *first = g ? g : u;
    Fill fill = {.halves = 3, .r = first->r, .scale = (float)first->scale};
    if (!g || !u) {
        fill.halves = g ? 1 : 2;
    } else if (!one_A(met)) {
        if (kind == SLOT_PLACE) {
            fill.r_up = u->r;
            fill.scale_up = (float)u->scale;
        } else {
            fill.r += u->r;
        }
    }
    return fill;
}

static void copy_rows(Param *B, size_t row, size_t col, const LoraModule *given, double factor)
{
    for (size_t i = 0; i < given->out; i++)
        for (size_t j = 0; j < given->r; j++) B->data[(row + i) * B->cols + col + j] = (float)((double)given->B[i * given->r + j] * factor);
}

static void set_one(Lora *lora, const LoraModule *given)
{
    memcpy(lora->A->data, given->A, given->r * given->in * sizeof(float));
    copy_rows(lora->B, 0, 0, given, 1);
}

/* Values of a slot from the pairs that met there; a scale other than the slot's goes into B. */
static void set_pair(Lora *lora, const Met *met)
{
    const LoraModule *g = met->half[0], *u = met->half[1], *first = g ? g : u;
    set_one(lora, first);
    if (!g || !u) return;
    bool shared = one_A(met);
    if (!shared) memcpy(lora->A->data + g->r * g->in, u->A, u->r * u->in * sizeof(float));
    copy_rows(lora->B, g->out, shared ? 0 : g->r, u, u->scale / g->scale);
}

static Err *meet(Meeting *meeting, size_t n, const LoraModule *modules, LayerFill *fills)
{
    for (size_t i = 0; i < n; i++) {
        Slot slot;
        TRY(find(meeting->model, &modules[i], &slot));
        if (slot.kind == SLOT_ROUTER) {
            if (fills[slot.l].router) return err_new(ERR_FORMAT, "adapter: %s is there twice", modules[i].module);
            fills[slot.l].router = true;
            continue;
        }
        Met *met = met_of(meeting, &slot);
        if (met->half[slot.half]) return err_new(ERR_FORMAT, "adapter: %s is there twice", modules[i].module);
        met->half[slot.half] = &modules[i];
        *fill_of(fills, &slot) = fill_for(met, slot.kind);
    }
    for (size_t l = 0; l < meeting->model->n_layers; l++)
        if (fills[l].router && fills[l].places[LORA_ROUTER].halves) return err_new(ERR_FORMAT, "adapter: the router of layer %zu is there by a pair and in full", l);
    return NULL;
}

static void set_all(Adapter *adapter, const Meeting *meeting, size_t n, const LoraModule *modules)
{
    for (size_t i = 0; i < n; i++) {
        Slot slot;
        locate(adapter->model, &modules[i], &slot);
        if (slot.kind == SLOT_ROUTER) {
            const Param *router = adapter->layers[slot.l].router;
            memcpy(router->data, modules[i].B, param_count(router) * sizeof(float));
            continue;
        }
        if (slot.kind == SLOT_PLACE && adapter->layers[slot.l].places_up[slot.place]) set_one(adapter_lora(adapter, &slot), &modules[i]);
        else set_pair(adapter_lora(adapter, &slot), met_of(meeting, &slot));
    }
}

Err *adapter_from_modules(Adapter **adapter, const Model *model, size_t n, const LoraModule *modules)
{
    Meeting meeting = {.model = model};
    LayerFill *fills;
    TRY(fills_new(&fills, model));
    Err *err = mem_new(&meeting.places, model->n_layers * LORA_PLACES, sizeof *meeting.places);
    if (!err) err = mem_new(&meeting.experts, model->n_layers * model->router.E * 2, sizeof *meeting.experts);
    if (!err) err = meet(&meeting, n, modules, fills);
    if (!err) err = adapter_build(adapter, model, fills);
    if (!err) set_all(*adapter, &meeting, n, modules);
    fills_free(fills, model);
    free(meeting.places);
    free(meeting.experts);
    return err;
}

/* ---- back ----------------------------------------------------------------------------------------------------- */

typedef struct {
    const Adapter *adapter;
    LoraModule *modules;
    size_t n, capacity;
} List;

static Err *add(List *list, const char *module, LoraModule given)
{
    char *name;
    TRY(mem_grow(&list->modules, &list->capacity, list->n + 1, sizeof *list->modules));
    TRY(mem_copy_text(&name, module));
    given.module = name;
    list->modules[list->n++] = given;
    return NULL;
}

static Err *add_module(void *context, const Slot *slot, const char *module)
{
    List *list = context;
    const Lora *lora = adapter_lora(list->adapter, slot);
    if (!lora) return NULL;
    const Weight *w = slot_weight(list->adapter->model, slot);
    size_t row = slot->half * w->rows; /* among the rows of y that the pair adds to */
    if (row < lora->col || row >= lora->col + lora->B->rows) return NULL;
    return add(list, module, (LoraModule){NULL, lora->A->rows, w->cols, w->rows, (double)lora->scale, lora->A->data,
                                           lora->B->data + (row - lora->col) * lora->B->cols});
}

Err *adapter_modules(const Adapter *adapter, LoraModule **modules, size_t *n)
{
    List list = {.adapter = adapter};
    Err *err = NULL;
    for (size_t l = 0; l < adapter->n_layers && !err; l++) {
        err = slots_visit(adapter->model, l, add_module, &list);
        const Param *router = adapter->layers[l].router;
        char module[MODULE_BYTES];
        slot_module(&(Slot){.kind = SLOT_ROUTER, .l = l}, module);
        if (!err && router) err = add(&list, module, (LoraModule){NULL, 0, router->cols, router->rows, 1, NULL, router->data});
    }
    if (err) {
        lora_modules_free(list.modules, list.n);
        return err;
    }
    *modules = list.modules;
    *n = list.n;
    return NULL;
}

void lora_modules_free(LoraModule *modules, size_t n)
{
    for (size_t i = 0; i < n && modules; i++) free((char *)(size_t)modules[i].module);
    free(modules);
}
