/* Adapters from single LoRA modules and back. Files keep gate and up apart; an Adapter has one LoRA on [gate | up]
 * where both share an A. With unequal A's an MLP keeps two; a routed expert gets one of r_gate + r_up, gate's A above
 * up's, and zeros in B where they do not meet. */
#include "base/memory.h"
#include "model/lora_sites.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The one or two modules at a LoRA site: gate or up, or both. */
typedef struct {
    const LoraModule *half[2];
} LoadedLora;

typedef struct {
    const Model *model;
    LoadedLora *places;  /* [n_layers][LORA_PLACES] */
    LoadedLora *experts; /* [n_layers][E][2] */
} LoadedTable;

static LoadedLora *loaded_of(const LoadedTable *table, const LoraSite *site)
{
    if (site->kind == SITE_PLACE) return &table->places[site->l * LORA_PLACES + site->place];
    return &table->experts[(site->l * table->model->router.E + site->expert) * 2 + (site->kind == SITE_EXPERT_OUT)];
}

/* A router is trained in full, or by LoRA like everything else. */
static bool locate(const Model *model, const LoraModule *given, LoraSite *site)
{
    if (!lora_site_find(model, given->module, site)) return false;
    if (site->kind == SITE_PLACE && site->place == LORA_ROUTER && !given->A) site->kind = SITE_ROUTER;
    return true;
}

static Err *find(const Model *model, const LoraModule *given, LoraSite *site)
{
    if (!locate(model, given, site)) return err_new(ERR_FORMAT, "adapter: this model has no module %s", given->module);
    const Weight *w = lora_site_weight(model, site);
    if (given->in != w->cols || given->out != w->rows)
        return err_new(ERR_FORMAT, "adapter: %s is for a weight [%zu][%zu]; the model's is [%zu][%zu]", given->module,
                       given->out, given->in, w->rows, w->cols);
    if (site->kind != SITE_ROUTER && !given->A)
        return err_new(ERR_FORMAT, "adapter: %s: only a router is trained in full", given->module);
    return NULL;
}

static bool share_A(const LoadedLora *loaded)
{
    const LoraModule *g = loaded->half[0], *u = loaded->half[1];
    return g->r == u->r && g->scale == u->scale && memcmp(g->A, u->A, g->r * g->in * sizeof *g->A) == 0;
}

static LoraSpec spec_for(const LoadedLora *loaded, LoraSiteKind kind)
{
    const LoraModule *g = loaded->half[0], *u = loaded->half[1], *first = g ? g : u;
    LoraSpec spec = {.halves = 3, .r = first->r, .scale = (float)first->scale};
    if (!g || !u) {
        spec.halves = g ? 1 : 2;
    } else if (!share_A(loaded)) {
        if (kind == SITE_PLACE) {
            spec.r_up = u->r;
            spec.scale_up = (float)u->scale;
        } else {
            spec.r += u->r;
        }
    }
    return spec;
}

static void copy_rows(Param *B, size_t row, size_t col, const LoraModule *given, double factor)
{
    for (size_t i = 0; i < given->out; i++)
        for (size_t j = 0; j < given->r; j++)
            B->data[(row + i) * B->cols + col + j] = (float)((double)given->B[i * given->r + j] * factor);
}

static void set_single(Lora *lora, const LoraModule *given)
{
    memcpy(lora->A->data, given->A, given->r * given->in * sizeof(float));
    copy_rows(lora->B, 0, 0, given, 1);
}

/* The values of a site from its modules; a scale other than the site's goes into B. */
static void set_values(Lora *lora, const LoadedLora *loaded)
{
    const LoraModule *g = loaded->half[0], *u = loaded->half[1], *first = g ? g : u;
    set_single(lora, first);
    if (!g || !u) return;
    bool shared = share_A(loaded);
    if (!shared) memcpy(lora->A->data + g->r * g->in, u->A, u->r * u->in * sizeof(float));
    copy_rows(lora->B, g->out, shared ? 0 : g->r, u, u->scale / g->scale);
}

static Err *place_all(LoadedTable *table, size_t n, const LoraModule *modules, LayerLoraSpec *specs)
{
    for (size_t i = 0; i < n; i++) {
        LoraSite site;
        TRY(find(table->model, &modules[i], &site));
        if (site.kind == SITE_ROUTER) {
            if (specs[site.l].router) return err_new(ERR_FORMAT, "adapter: %s is there twice", modules[i].module);
            specs[site.l].router = true;
            continue;
        }
        LoadedLora *loaded = loaded_of(table, &site);
        if (loaded->half[site.half]) return err_new(ERR_FORMAT, "adapter: %s is there twice", modules[i].module);
        loaded->half[site.half] = &modules[i];
        *lora_spec_of(specs, &site) = spec_for(loaded, site.kind);
    }
    return NULL;
}

static void set_all_values(Adapter *adapter, const LoadedTable *table, size_t n, const LoraModule *modules)
{
    for (size_t i = 0; i < n; i++) {
        LoraSite site;
        locate(adapter->model, &modules[i], &site);
        if (site.kind == SITE_ROUTER) {
            const Param *router = adapter->layers[site.l].router;
            memcpy(router->data, modules[i].B, param_count(router) * sizeof(float));
            continue;
        }
        if (site.kind == SITE_PLACE && adapter->layers[site.l].places_up[site.place])
            set_single(adapter_lora(adapter, &site), &modules[i]);
        else
            set_values(adapter_lora(adapter, &site), loaded_of(table, &site));
    }
}

Err *adapter_from_modules(Adapter **adapter, const Model *model, size_t n, const LoraModule *modules)
{
    LoadedTable table = {.model = model};
    LayerLoraSpec *specs;
    TRY(lora_specs_new(&specs, model));
    Err *err = mem_new(&table.places, model->n_layers * LORA_PLACES, sizeof *table.places);
    if (!err) err = mem_new(&table.experts, model->n_layers * model->router.E * 2, sizeof *table.experts);
    if (!err) err = place_all(&table, n, modules, specs);
    if (!err) err = adapter_build(adapter, model, specs);
    if (!err) set_all_values(*adapter, &table, n, modules);
    lora_specs_free(specs, model);
    free(table.places);
    free(table.experts);
    return err;
}

/* ---- back ----------------------------------------------------------------------------------------------------- */

/* Names stand behind the array, in one block with it. */
typedef struct {
    const Adapter *adapter;
    LoraModule *modules; /* NULL: they are only counted */
    char (*names)[MODULE_BYTES];
    size_t n;
} List;

static void add(List *list, const char *module, LoraModule given)
{
    if (list->modules) {
        snprintf(list->names[list->n], MODULE_BYTES, "%s", module);
        given.module = list->names[list->n];
        list->modules[list->n] = given;
    }
    list->n++;
}

static Err *add_module(void *context, const LoraSite *site, const char *module)
{
    List *list = context;
    const Lora *lora = adapter_lora(list->adapter, site);
    if (!lora) return NULL;
    const Weight *w = lora_site_weight(list->adapter->model, site);
    size_t row = site->half * w->rows; /* among the rows of y that the LoRA adds to */
    if (row < lora->col || row >= lora->col + lora->B->rows) return NULL;
    add(list, module,
        (LoraModule){NULL, lora->A->rows, w->cols, w->rows, (double)lora->scale, lora->A->data,
                     lora->B->data + (row - lora->col) * lora->B->cols});
    return NULL;
}

static Err *add_all(List *list)
{
    for (size_t l = 0; l < list->adapter->n_layers; l++) {
        const Param *router = list->adapter->layers[l].router;
        char module[MODULE_BYTES];
        TRY(lora_sites_visit(list->adapter->model, l, add_module, list));
        lora_site_module(&(LoraSite){.kind = SITE_ROUTER, .l = l}, module);
        if (router) add(list, module, (LoraModule){NULL, 0, router->cols, router->rows, 1, NULL, router->data});
    }
    return NULL;
}

Err *adapter_modules(const Adapter *adapter, LoraModule **modules, size_t *n)
{
    List list = {.adapter = adapter};
    TRY(add_all(&list));
    *n = list.n;
    TRY(mem_new(modules, list.n, sizeof **modules + MODULE_BYTES));
    list = (List){.adapter = adapter, .modules = *modules, .names = (void *)(*modules + list.n)};
    return add_all(&list);
}

void lora_modules_free(LoraModule *modules) { free(modules); }
