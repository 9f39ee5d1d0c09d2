/* Building an adapter: count, allocate once, then hand out the block in order. */
#include "model/adapter.h"

#include "base/memory.h"
#include "base/rng.h"
#include "model/lora_sites.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    LayerAdapter *layer;
    const Model *model;
    size_t l, next_param, next_lora;
} LayerBuilder;

static Err *add_param(LayerBuilder *b, const char *stem, const char *suffix, size_t rows, size_t cols, Param **out)
{
    Param *p = &b->layer->params[b->next_param++];
    TRY(mem_format(&p->name, "%s.%s", stem, suffix));
    p->rows = rows;
    p->cols = cols;
    *out = p;
    return NULL;
}

static void place_param(LayerAdapter *layer, Param *p)
{
    p->offset = layer->n;
    layer->n += param_count(p);
}

/* A LoRA whose values have no place in the block yet. */
static Err *add_lora(LayerBuilder *b, const LoraSite *site, const LoraSpec *spec, Lora **out)
{
    char stem[MODULE_BYTES];
    const Weight *w = lora_site_weight(b->model, site);
    Lora *lora = &b->layer->loras[b->next_lora++];
    if (spec->halves == 3)
        lora_site_stem(site, stem);
    else
        lora_site_module(site, stem);
    TRY(add_param(b, stem, "lora_A", spec->r, w->cols, &lora->A));
    TRY(add_param(b, stem, "lora_B", w->rows * (spec->halves == 3 ? 2 : 1), spec->r, &lora->B));
    lora->col = spec->halves == 2 ? w->rows : 0;
    lora->scale = spec->scale;
    lora->dropout = site->kind == SITE_PLACE;
    lora->key = rng_name(0, stem);
    *out = lora;
    return NULL;
}

/* Experts of one kind lie stacked: all A, then all B. */
static Err *add_experts(LayerBuilder *b, LoraSiteKind kind, const LoraSpec *specs)
{
    LayerAdapter *layer = b->layer;
    for (size_t e = 0; e < b->model->router.E; e++) {
        LoraSite site = {.kind = kind, .l = b->l, .expert = e, .half = specs[e].halves == 2};
        Lora *lora;
        if (!specs[e].halves) continue;
        TRY(add_lora(b, &site, &specs[e], &lora));
        if (kind == SITE_EXPERT_IN)
            layer->experts[e].lora_gate_up = lora;
        else
            layer->experts[e].lora_down = lora;
    }
    for (int side = 0; side < 2; side++)
        for (size_t e = 0; e < b->model->router.E; e++) {
            const Lora *lora = kind == SITE_EXPERT_IN ? layer->experts[e].lora_gate_up : layer->experts[e].lora_down;
            if (lora) place_param(layer, side ? lora->B : lora->A);
        }
    return NULL;
}

static size_t count_loras(const Model *model, const LayerLoraSpec *spec)
{
    size_t n = 0;
    for (size_t i = 0; i < LORA_PLACES; i++) n += (spec->places[i].halves != 0) + (spec->places[i].r_up != 0);
    for (size_t e = 0; spec->in && e < model->router.E; e++)
        n += (spec->in[e].halves != 0) + (spec->out[e].halves != 0);
    return n;
}

static Err *build_lora(LayerBuilder *b, const LoraSite *site, const LoraSpec *spec, Lora **out)
{
    TRY(add_lora(b, site, spec, out));
    place_param(b->layer, (*out)->A);
    place_param(b->layer, (*out)->B);
    return NULL;
}

static Err *build_place(LayerBuilder *b, LoraPlace place, const LoraSpec *spec)
{
    LoraSite site = {.kind = SITE_PLACE, .l = b->l, .place = place, .half = spec->halves == 2};
    if (!spec->halves) return NULL;
    if (!spec->r_up) return build_lora(b, &site, spec, &b->layer->places[place]);
    TRY(build_lora(b, &site, &(LoraSpec){.halves = 1, .r = spec->r, .scale = spec->scale}, &b->layer->places[place]));
    site.half = 1;
    return build_lora(b, &site, &(LoraSpec){.halves = 2, .r = spec->r_up, .scale = spec->scale_up},
                      &b->layer->places_up[place]);
}

static Err *build_layer(const Model *model, size_t l, const LayerLoraSpec *spec, LayerAdapter *layer)
{
    LayerBuilder b = {.layer = layer, .model = model, .l = l};
    if (spec->router && spec->places[LORA_ROUTER].halves)
        return err_new(ERR_FORMAT, "the router of layer %zu is trained both by LoRA and in full", l);
    layer->n_lora = count_loras(model, spec);
    layer->n_params = 2 * layer->n_lora + spec->router;
    TRY(mem_new(&layer->params, layer->n_params, sizeof *layer->params));
    TRY(mem_new(&layer->loras, layer->n_lora, sizeof *layer->loras));
    for (size_t i = 0; i < LORA_PLACES; i++) TRY(build_place(&b, (LoraPlace)i, &spec->places[i]));
    if (!model->layers[l].dense) {
        TRY(mem_new(&layer->experts, model->router.E, sizeof *layer->experts));
        memcpy(layer->experts, model->layers[l].experts, model->router.E * sizeof *layer->experts);
        TRY(add_experts(&b, SITE_EXPERT_IN, spec->in));
        TRY(add_experts(&b, SITE_EXPERT_OUT, spec->out));
    }
    if (spec->router) {
        char stem[MODULE_BYTES];
        const Weight *w = &model->layers[l].router;
        lora_site_stem(&(LoraSite){.kind = SITE_ROUTER, .l = l}, stem);
        TRY(add_param(&b, stem, "weight", w->rows, w->cols, &layer->router));
        place_param(layer, layer->router);
    }
    return NULL;
}

static void set_values(Adapter *adapter)
{
    for (size_t l = 0; l < adapter->n_layers; l++) {
        LayerAdapter *layer = &adapter->layers[l];
        for (size_t i = 0; i < layer->n_params; i++)
            layer->params[i].data = adapter->values + layer->offset + layer->params[i].offset;
        if (!layer->router) continue;
        const Weight *w = &adapter->model->layers[l].router;
        for (size_t row = 0; row < w->rows; row++) weight_read(w, row, 0, w->cols, layer->router->data + row * w->cols);
    }
}

Err *adapter_build(Adapter **out, const Model *model, const LayerLoraSpec *specs)
{
    Adapter *adapter;
    TRY(mem_new(&adapter, 1, sizeof *adapter));
    adapter->model = model;
    adapter->n_layers = model->n_layers;
    Err *err = mem_new(&adapter->layers, model->n_layers, sizeof *adapter->layers);
    for (size_t l = 0; l < model->n_layers && !err; l++) {
        adapter->layers[l].offset = adapter->n;
        err = build_layer(model, l, &specs[l], &adapter->layers[l]);
        adapter->n += adapter->layers[l].n;
    }
    if (!err && adapter->n == 0)
        err = err_new(ERR_USAGE, "nothing to train: no target_modules, no experts, no train_router");
    if (!err) err = mem_new(&adapter->values, adapter->n, sizeof *adapter->values);
    if (err) {
        adapter_free(adapter);
        return err;
    }
    set_values(adapter);
    *out = adapter;
    return NULL;
}

void adapter_free(Adapter *adapter)
{
    if (!adapter) return;
    for (size_t l = 0; l < adapter->n_layers && adapter->layers; l++) {
        LayerAdapter *layer = &adapter->layers[l];
        for (size_t i = 0; i < layer->n_params && layer->params; i++) free(layer->params[i].name);
        free(layer->params);
        free(layer->loras);
        free(layer->experts);
    }
    free(adapter->layers);
    free(adapter->values);
    free(adapter->biases);
    free(adapter);
}

/* The adapter's own LoRA that an expert points to; NULL stays NULL. */
static Lora *own(const LayerAdapter *layer, const Lora *lora)
{
    return lora ? &layer->loras[lora - layer->loras] : NULL;
}

Lora *adapter_lora(const Adapter *adapter, const LoraSite *site)
{
    const LayerAdapter *layer = &adapter->layers[site->l];
    switch (site->kind) {
    case SITE_PLACE:
        return site->half && layer->places_up[site->place] ? layer->places_up[site->place] : layer->places[site->place];
    case SITE_EXPERT_IN: return layer->experts ? own(layer, layer->experts[site->expert].lora_gate_up) : NULL;
    case SITE_EXPERT_OUT: return layer->experts ? own(layer, layer->experts[site->expert].lora_down) : NULL;
    case SITE_ROUTER: break;
    }
    return NULL;
}

/* A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0. */
static void initialise(Adapter *adapter, uint64_t seed)
{
    for (size_t l = 0; l < adapter->n_layers; l++)
        for (size_t i = 0; i < adapter->layers[l].n_lora; i++) {
            Param *A = adapter->layers[l].loras[i].A;
            uint64_t key = rng_name(rng_name(seed, "adapter init"), A->name);
            double bound = 1 / sqrt((double)A->cols);
            for (size_t j = 0; j < param_count(A); j++)
                A->data[j] = (float)((2 * rng_uniform_double(key, j) - 1) * bound);
        }
}

Err *adapter_new(Adapter **adapter, const Model *model, const LoraConfig *config, uint64_t seed)
{
    LayerLoraSpec *specs;
    TRY(lora_specs_new(&specs, model));
    Err *err = lora_targets_resolve(model, config, specs);
    if (!err) err = adapter_build(adapter, model, specs);
    lora_specs_free(specs, model);
    if (err) return err;
    (*adapter)->config = *config;
    initialise(*adapter, seed);
    return NULL;
}

Err *adapter_own_biases(Adapter *adapter)
{
    size_t E = adapter->model->router.E;
    if (adapter->biases) return NULL;
    TRY(mem_new(&adapter->biases, adapter->n_layers * E, sizeof *adapter->biases));
    for (size_t l = 0; l < adapter->n_layers; l++) {
        if (adapter->model->layers[l].dense) continue;
        adapter->layers[l].router_bias = adapter->biases + l * E;
        memcpy(adapter->layers[l].router_bias, adapter->model->layers[l].router_bias, E * sizeof *adapter->biases);
    }
    return NULL;
}

size_t adapter_lowest_layer(const Adapter *adapter)
{
    size_t l = 0;
    while (l < adapter->n_layers && adapter->layers[l].n == 0) l++;
    return l;
}

void adapter_set_forest(Adapter *adapter, size_t l, Forest *forest)
{
    LayerAdapter *layer = &adapter->layers[l];
    layer->forest = forest;
    for (size_t i = 0; i < layer->n_params; i++) layer->params[i].forest = forest;
}

/* ---- the table of contents ------------------------------------------------------------------------------------ */

typedef struct {
    AdapterArray *items;
    size_t n, capacity;
} ArrayList;

static Err *add_array(ArrayList *list, const char *module, const char *suffix, size_t n_dims, const size_t *dims,
                      size_t offset)
{
    int used = 0;
    size_t l;
    TRY(mem_grow(&list->items, &list->capacity, list->n + 1, sizeof *list->items));
    AdapterArray *item = &list->items[list->n++];
    *item = (AdapterArray){.n_dims = n_dims, .offset = offset};
    memcpy(item->dims, dims, n_dims * sizeof *dims);
    if (sscanf(module, "model.layers.%zu.%n", &l, &used) != 1)
        return err_new(ERR_FORMAT, "module %s has no layer", module);
    return mem_format(&item->name, "layers/%03zu/%s/%s", l, module + used, suffix);
}

/* A parameter's name is its module and the suffix. */
static Err *add_param_array(ArrayList *list, const LayerAdapter *layer, const Param *p, const char *suffix)
{
    char stem[MODULE_BYTES];
    snprintf(stem, sizeof stem, "%.*s", (int)(strlen(p->name) - strlen(suffix) - 1), p->name);
    return add_array(list, stem, suffix, 2, (size_t[]){p->rows, p->cols}, layer->offset + p->offset);
}

/* The name that a stack of experts has: of gate, up or both together, or down. */
static const char *stack_name(const Adapter *adapter, size_t l, LoraSiteKind kind, const Lora *lora)
{
    size_t F = adapter->model->layers[l].expert_weights->rows;
    if (kind == SITE_EXPERT_OUT) return "down_proj";
    return lora->B->rows == 2 * F ? "gate_up_proj" : lora->col ? "up_proj" : "gate_proj";
}

/* Experts are stacked when they have the same halves and the same r. */
static bool same_shapes(const Adapter *adapter, size_t l, LoraSiteKind kind, const Lora **first, size_t *count)
{
    *first = NULL;
    *count = 0;
    for (size_t e = 0; e < adapter->model->router.E; e++) {
        const Lora *lora = adapter_lora(adapter, &(LoraSite){.kind = kind, .l = l, .expert = e});
        if (!lora) continue;
        if (!*first) *first = lora;
        if (lora->A->rows != (*first)->A->rows || lora->B->rows != (*first)->B->rows || lora->col != (*first)->col)
            return false;
        (*count)++;
    }
    return true;
}

static Err *add_expert_arrays(ArrayList *list, const Adapter *adapter, size_t l, LoraSiteKind kind)
{
    const LayerAdapter *layer = &adapter->layers[l];
    const Lora *first;
    size_t count, E = adapter->model->router.E;
    char stem[MODULE_BYTES];
    bool stacked = same_shapes(adapter, l, kind, &first, &count);
    if (stacked && count == 0) return NULL;
    for (int side = 0; side < 2; side++) {
        const char *suffix = side ? "lora_B" : "lora_A";
        if (stacked) {
            const Param *p = side ? first->B : first->A;
            snprintf(stem, sizeof stem, "model.layers.%zu.mlp.experts.%s", l, stack_name(adapter, l, kind, first));
            TRY(add_array(list, stem, suffix, 3, (size_t[]){count, p->rows, p->cols}, layer->offset + p->offset));
            int32_t *ids;
            TRY(mem_new(&ids, count, sizeof *ids));
            list->items[list->n - 1].ids = ids;
            for (size_t e = 0, i = 0; e < E; e++)
                if (adapter_lora(adapter, &(LoraSite){.kind = kind, .l = l, .expert = e})) ids[i++] = (int32_t)e;
        } else {
            for (size_t e = 0; e < E; e++) {
                LoraSite site = {.kind = kind, .l = l, .expert = e};
                const Lora *lora = adapter_lora(adapter, &site);
                if (lora) TRY(add_param_array(list, layer, side ? lora->B : lora->A, suffix));
            }
        }
    }
    return NULL;
}

static Err *add_layer_arrays(ArrayList *list, const Adapter *adapter, size_t l)
{
    const LayerAdapter *layer = &adapter->layers[l];
    for (size_t i = 0; i < LORA_PLACES; i++)
        for (int half = 0; half < 2; half++) {
            const Lora *lora = half ? layer->places_up[i] : layer->places[i];
            if (!lora) continue;
            TRY(add_param_array(list, layer, lora->A, "lora_A"));
            TRY(add_param_array(list, layer, lora->B, "lora_B"));
        }
    if (layer->experts) {
        TRY(add_expert_arrays(list, adapter, l, SITE_EXPERT_IN));
        TRY(add_expert_arrays(list, adapter, l, SITE_EXPERT_OUT));
    }
    if (!layer->router) return NULL;
    return add_param_array(list, layer, layer->router, "weight");
}

Err *adapter_arrays(const Adapter *adapter, AdapterArray **arrays, size_t *n)
{
    ArrayList list = {0};
    Err *err = NULL;
    for (size_t l = 0; l < adapter->n_layers && !err; l++) err = add_layer_arrays(&list, adapter, l);
    if (err) {
        arrays_free(list.items, list.n);
        return err;
    }
    *arrays = list.items;
    *n = list.n;
    return NULL;
}

void arrays_free(AdapterArray *arrays, size_t n)
{
    for (size_t i = 0; i < n && arrays; i++) {
        free(arrays[i].name);
        free(arrays[i].ids);
    }
    free(arrays);
}
