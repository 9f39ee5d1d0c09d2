/* Written in the order of the adapter's layers; modules that follow each other with the same r and scale are one group.
 * An MLP whose gate and up have a LoRA each is two modules, gate_proj and then up_proj, of one site. */
#include "model/adapter_shape.h"

#include "model/lora_sites.h"
#include "model/model.h"

#include <stdio.h>
#include <string.h>

static const char BOTH[] = ".gate_up_proj", GATE[] = ".gate_proj";

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* A group that modules are added to. r 0: of routers trained in full. */
typedef struct {
    Json *shape, *modules;
    size_t r;
    float scale;
} ShapeGroup;

static void add_module(ShapeGroup *group, const Param *param, const char *suffix, size_t r, float scale)
{
    char module[MODULE_BYTES];
    snprintf(module, sizeof module, "%.*s", (int)(strlen(param->name) - strlen(suffix)), param->name);
    if (!group->modules || group->r != r || group->scale != scale) {
        Json *item = json_new_object();
        *group = (ShapeGroup){group->shape, json_new_array(), r, scale};
        json_add(item, "modules", group->modules);
        if (r) json_add_number(item, "r", (double)r);
        if (r) json_add_number(item, "scale", (double)scale);
        json_add(group->shape, NULL, item);
    }
    json_add_string(group->modules, NULL, module);
}

Err *adapter_shape_json(const Adapter *adapter, Json **shape)
{
    ShapeGroup loras = {.shape = json_new_array()}, routers = {.shape = loras.shape};
    for (size_t l = 0; l < adapter->n_layers; l++)
        for (size_t i = 0; i < adapter->layers[l].n_lora; i++) {
            const Lora *lora = &adapter->layers[l].loras[i];
            add_module(&loras, lora->A, ".lora_A", lora->A->rows, lora->scale);
        }
    for (size_t l = 0; l < adapter->n_layers; l++)
        if (adapter->layers[l].router) add_module(&routers, adapter->layers[l].router, ".weight", 0, 0);
    if (adapter->biases) {
        Json *item = json_new_object();
        json_add(item, "modules", json_new_array());
        json_add_bool(item, "router_bias", true);
        json_add(loras.shape, NULL, item);
    }
    *shape = loras.shape;
    return loras.shape ? NULL : err_new(ERR_MEMORY, "out of memory for the adapter's shape");
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static Err *find_site(const Model *model, const char *module, LoraSite *site, unsigned *halves)
{
    char name[MODULE_BYTES + sizeof GATE];
    size_t n = strlen(module), end = strlen(BOTH);
    bool both = n > end && strcmp(module + n - end, BOTH) == 0;
    snprintf(name, sizeof name, "%.*s%s", (int)(both ? n - end : n), module, both ? GATE : "");
    if (n >= MODULE_BYTES || !lora_site_find(model, name, site))
        return err_new(ERR_FORMAT, "this model has no module %.100s", module);
    *halves = both ? 3 : site->half ? 2 : 1;
    return NULL;
}

static Err *put_lora(LayerLoraSpec *specs, const Model *model, const char *module, int64_t r, double scale)
{
    LoraSite site;
    unsigned halves;
    TRY(find_site(model, module, &site, &halves));
    LoraSpec *spec = lora_spec_of(specs, &site);
    if (!spec->halves) {
        *spec = (LoraSpec){.halves = halves, .r = (size_t)r, .scale = (float)scale};
    } else if (spec->halves == 1 && halves == 2 && site.kind == SITE_PLACE) { /* gate and up, with a LoRA each */
        spec->halves = 3;
        spec->r_up = (size_t)r;
        spec->scale_up = (float)scale;
    } else {
        return err_new(ERR_FORMAT, "%s is there twice", module);
    }
    return NULL;
}

static Err *put_router(LayerLoraSpec *specs, const Model *model, const char *module)
{
    LoraSite site;
    unsigned halves;
    TRY(find_site(model, module, &site, &halves));
    if (site.kind != SITE_PLACE || site.place != LORA_ROUTER)
        return err_new(ERR_FORMAT, "%s has no r; only a router is trained in full", module);
    specs[site.l].router = true;
    return NULL;
}

static Err *put_group(LayerLoraSpec *specs, const Model *model, const Json *group, bool *own_biases)
{
    enum { R_MAX = 1 << 21 }; /* an adapter file's greatest r, twice: gate's and up's together, in an expert */
    const Json *modules;
    int64_t r = 0;
    double scale = 0;
    if (json_kind(group) != JSON_OBJECT)
        return err_new(ERR_FORMAT, "a group is %s; expected an object", json_kind_name(group));
    TRY(json_get_array(group, "modules", &modules));
    TRY(json_may_int(group, "r", 1, R_MAX, &r));
    TRY(json_may_bool(group, "router_bias", own_biases));
    if (r) TRY(json_get_number(group, "scale", &scale));
    for (const Json *module = json_first(modules); module; module = json_next(module)) {
        if (json_kind(module) != JSON_STRING)
            return err_new(ERR_FORMAT, "a module is %s; expected a text", json_kind_name(module));
        TRY(r ? put_lora(specs, model, json_string(module), r, scale) : put_router(specs, model, json_string(module)));
    }
    return NULL;
}

Err *adapter_from_shape(Adapter **adapter, const Model *model, const Json *shape)
{
    LayerLoraSpec *specs;
    bool own_biases = false;
    if (json_kind(shape) != JSON_ARRAY)
        return err_new(ERR_FORMAT, "the shape is %s; expected an array", json_kind_name(shape));
    TRY(lora_specs_new(&specs, model));
    Err *err = NULL;
    for (const Json *group = json_first(shape); group && !err; group = json_next(group))
        err = put_group(specs, model, group, &own_biases);
    if (!err) err = adapter_build(adapter, model, specs);
    lora_specs_free(specs, model);
    if (err || !own_biases || !(err = adapter_own_biases(*adapter))) return err;
    adapter_free(*adapter);
    *adapter = NULL;
    return err;
}
