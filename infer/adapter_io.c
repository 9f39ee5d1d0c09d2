/* From PEFT's LoRA modules to an Adapter and back. Two things stand between the two:
 *   1. PEFT's consumers require all experts of a layer, an Adapter has only those with LoRA. Writing adds zeros for the
 *      others, reading leaves out experts whose A and B are all zero.
 *   2. PEFT knows no moved correction biases: they are in a file of graft's own, router_bias.safetensors.
 * Source: PEFT 0.21; the layouts are in ckpt/adapter_file.h. */
#include "infer/adapter_io.h"

#include "base/arena.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/suffix.h"
#include "ckpt/adapter_file.h"
#include "infer/adapter_checkpoint.h"
#include "infer/adapter_path.h"
#include "model/lora_sites.h"
#include "tensor/safetensors.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static Err *read_module(LoraModule *to, const AdapterLora *from)
{
    if (from->embedding) return err_new(ERR_FORMAT, "%s: LoRA on the embedding is not supported", from->module);
    *to = (LoraModule){.r = from->r, .in = from->in, .out = from->out, .scale = from->scale};
    TRY(mem_new(&to->A, from->r * from->in, sizeof *to->A));
    TRY(mem_new(&to->B, from->out * from->r, sizeof *to->B));
    adapter_file_read_lora(from, to->A, to->B);
    to->module = from->module;
    return NULL;
}

static bool all_zero(size_t n, const float *x)
{
    size_t i = 0;
    while (i < n && x[i] == 0) i++;
    return i == n;
}

static bool is_zero(const LoraModule *p) { return all_zero(p->r * p->in, p->A) && all_zero(p->out * p->r, p->B); }

/* Are both modules of the same routed expert? */
static bool same_expert(const LoraModule *a, const LoraModule *b)
{
    if (!strstr(a->module, ".mlp.experts.")) return false;
    size_t n = (size_t)(strrchr(a->module, '.') - a->module) + 1;
    return strncmp(a->module, b->module, n) == 0 && !strchr(b->module + n, '.');
}

/* In a layer where only some experts have LoRA, the file has zeros for the others (ckpt/adapter_file). With A = B = 0
 * they would never learn, so they are left out. The modules are sorted by name. Returns how many remain. */
static size_t drop_placeholders(size_t n, LoraModule *loras)
{
    size_t kept = 0;
    for (size_t i = 0, end; i < n; i = end) {
        bool zero = same_expert(&loras[i], &loras[i]);
        for (end = i; end < n && (end == i || same_expert(&loras[i], &loras[end])); end++)
            zero = zero && is_zero(&loras[end]);
        for (size_t j = i; j < end; j++) {
            LoraModule lora = loras[j];
            loras[j] = (LoraModule){0};
            if (!zero) {
                loras[kept++] = lora;
                continue;
            }
            free(lora.A);
            free(lora.B);
        }
    }
    return kept;
}

#define BIAS_FILE "router_bias.safetensors" /* correction biases that training moved; only graft reads it */

static void bias_name(char name[MODULE_BYTES], size_t l)
{
    char stem[MODULE_BYTES];
    lora_site_module(&(LoraSite){.kind = SITE_ROUTER, .l = l}, stem);
    snprintf(name, MODULE_BYTES, "%.90s.e_score_correction_bias", stem);
}

static Err *read_biases(Adapter *adapter, const char *directory)
{
    Safetensors file;
    char path[PATH_BYTES], name[MODULE_BYTES];
    size_t E = adapter->model->router.E;
    TRY(file_join(path, directory, BIAS_FILE));
    if (!file_exists(path)) return NULL;
    TRY(adapter_own_biases(adapter));
    TRY(safetensors_open(&file, path));
    Err *err = NULL;
    for (size_t l = 0; l < adapter->n_layers && !err; l++) {
        if (!adapter->layers[l].router_bias) continue;
        bias_name(name, l);
        const TensorView *view = safetensors_find(&file, name);
        if (!view || view->dtype != DTYPE_F32 || view->bytes != E * sizeof(float))
            err = err_new(ERR_FORMAT, "%s: %s is not there, or not F32 [%zu]", path, name, E);
        else
            memcpy(adapter->layers[l].router_bias, view->data, view->bytes);
    }
    safetensors_close(&file);
    return err;
}

static Err *write_biases(const Adapter *adapter, const char *directory)
{
    char path[PATH_BYTES], (*names)[MODULE_BYTES];
    TensorView *tensors;
    size_t n = 0, E = adapter->model->router.E;
    TRY(file_join(path, directory, BIAS_FILE));
    if (!adapter->biases) return remove(path) && errno != ENOENT ? err_errno("remove %s", path) : NULL;
    TRY(mem_new(&names, adapter->n_layers, sizeof *names));
    Err *err = mem_new(&tensors, adapter->n_layers, sizeof *tensors);
    for (size_t l = 0; l < adapter->n_layers && !err; l++) {
        if (!adapter->layers[l].router_bias) continue;
        bias_name(names[n], l);
        tensors[n] = (TensorView){.name = names[n],
                                  .dtype = DTYPE_F32,
                                  .n_dims = 1,
                                  .shape = {E},
                                  .bytes = E * sizeof(float),
                                  .data = adapter->layers[l].router_bias};
        n++;
    }
    if (!err) {
        err = safetensors_write(path, tensors, n);
        free(tensors);
    }
    free(names);
    return err;
}

/* PEFT saves a router's correction bias beside its weight. If training did not move it, it must equal the base's. */
static Err *check_bias(const Model *model, const AdapterExtra *extra)
{
    size_t l, E = model->router.E;
    float *bias;
    if (sscanf(extra->name, "model.layers.%zu.", &l) != 1 || l >= model->n_layers || model->layers[l].dense ||
        extra->rows * extra->cols != E)
        return err_new(ERR_FORMAT, "%s does not fit this model", extra->name);
    TRY(mem_new(&bias, E, sizeof *bias));
    adapter_file_read_extra(extra, bias);
    bool same = memcmp(bias, model->layers[l].router_bias, E * sizeof *bias) == 0;
    free(bias);
    return same ? NULL
                : err_new(ERR_FORMAT, "%s differs from the base's; a changed correction bias is not supported",
                          extra->name);
}

/* The modules of a PEFT directory. */
typedef struct {
    size_t n;
    LoraModule *loras; /* [n] */
    Arena names;       /* of routers */
} PeftModules;

/* A router that was trained in full. */
static Err *read_router(PeftModules *to, const Model *model, const AdapterExtra *extra)
{
    if (has_suffix(extra->name, ".e_score_correction_bias")) return check_bias(model, extra);
    if (!has_suffix(extra->name, ".weight")) return err_new(ERR_FORMAT, "%s is not supported", extra->name);
    const char *module;
    int n = (int)(strlen(extra->name) - strlen(".weight"));
    TRY(arena_format(&to->names, &module, "%.*s", n, extra->name));
    LoraModule *lora = &to->loras[to->n++];
    *lora = (LoraModule){.module = module, .in = extra->cols, .out = extra->rows, .scale = 1};
    Err *err = mem_new(&lora->B, extra->rows * extra->cols, sizeof *lora->B);
    if (!err) adapter_file_read_extra(extra, lora->B);
    return err;
}

static Err *import(Adapter **adapter, const Model *model, const AdapterFile *file, const char *directory,
                   PeftModules *modules)
{
    char path[PATH_BYTES];
    TRY(file_join(path, directory, BIAS_FILE));
    bool moved = file_exists(path);
    for (size_t i = 0; i < file->n_loras; i++) TRY(read_module(&modules->loras[i], &file->loras[i]));
    modules->n = drop_placeholders(file->n_loras, modules->loras);
    for (size_t i = 0; i < file->n_extras; i++)
        if (!moved || !has_suffix(file->extras[i].name, ".e_score_correction_bias"))
            TRY(read_router(modules, model, &file->extras[i]));
    TRY(adapter_from_modules(adapter, model, modules->n, modules->loras));
    Err *err = read_biases(*adapter, directory);
    if (!err) return NULL;
    adapter_free(*adapter);
    *adapter = NULL;
    return err;
}

static Err *open_peft(Adapter **adapter, const Model *model, const char *path)
{
    AdapterFile *file;
    PeftModules modules = {0};
    TRY(adapter_file_open(&file, path));
    size_t capacity = file->n_loras + file->n_extras;
    Err *err = mem_new(&modules.loras, capacity, sizeof *modules.loras);
    if (!err) err = err_wrap(import(adapter, model, file, path, &modules), "adapter %s", path);
    for (size_t i = 0; i < capacity && modules.loras; i++) {
        free(modules.loras[i].A);
        free(modules.loras[i].B);
    }
    free(modules.loras);
    arena_free(&modules.names);
    adapter_file_close(file);
    return err;
}

Err *adapter_open(Adapter **adapter, const Model *model, const char *path)
{
    AdapterPath found;
    TRY(adapter_path_find(&found, path));
    if (*found.says) log_line("  adapter   %s", found.says);
    return found.is_checkpoint ? adapter_checkpoint_open(adapter, model, found.path, adapter_open)
                               : open_peft(adapter, model, found.path);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

typedef struct {
    const Adapter *adapter;
    size_t r; /* of experts without LoRA, which are written as zeros */
    double scale;
    AdapterOutLora *loras;
    size_t n, capacity;
    AdapterOutExtra *extras;
    size_t n_extras, extras_capacity;
    Arena names;
} PeftExport;

static bool layer_has_experts(const LayerAdapter *layer, size_t E)
{
    for (size_t e = 0; layer->experts && e < E; e++)
        if (layer->experts[e].lora_gate_up || layer->experts[e].lora_down) return true;
    return false;
}

/* Zeros for experts without LoRA, in a layer where other experts have it. */
static Err *add_zeros(void *context, const LoraSite *site, const char *module)
{
    PeftExport *out = context;
    const Model *model = out->adapter->model;
    if (site->kind == SITE_PLACE) return NULL;
    const Weight *w = lora_site_weight(model, site);
    const Lora *lora = adapter_lora(out->adapter, site);
    size_t row = site->half * w->rows;
    if (lora && row >= lora->col && row < lora->col + lora->B->rows) return NULL;
    const char *name;
    TRY(mem_grow(&out->loras, &out->capacity, out->n + 1, sizeof *out->loras));
    TRY(arena_format(&out->names, &name, "%s", module));
    out->loras[out->n++] = (AdapterOutLora){name, out->r, w->cols, w->rows, NULL, NULL, out->scale};
    return NULL;
}

static Err *add_extra(PeftExport *out, const char *stem, const char *leaf, size_t rows, size_t cols, const float *data)
{
    const char *name;
    TRY(mem_grow(&out->extras, &out->extras_capacity, out->n_extras + 1, sizeof *out->extras));
    TRY(arena_format(&out->names, &name, "%s.%s", stem, leaf));
    out->extras[out->n_extras++] = (AdapterOutExtra){name, rows, cols, data};
    return NULL;
}

static Err *collect(PeftExport *out, const LoraModule *loras, size_t n)
{
    const Adapter *adapter = out->adapter;
    for (size_t i = 0; i < n; i++) {
        const LoraModule *p = &loras[i];
        if (!p->A) continue;
        TRY(mem_grow(&out->loras, &out->capacity, out->n + 1, sizeof *out->loras));
        out->loras[out->n++] = (AdapterOutLora){p->module, p->r, p->in, p->out, p->A, p->B, p->scale};
        if (out->r == 0) out->scale = p->scale;
        if (p->r > out->r) out->r = p->r;
    }
    for (size_t l = 0; l < adapter->n_layers; l++) {
        const LayerAdapter *layer = &adapter->layers[l];
        if (layer_has_experts(layer, adapter->model->router.E))
            TRY(lora_sites_visit(adapter->model, l, add_zeros, out));
        if (!layer->router) continue;
        char stem[MODULE_BYTES];
        lora_site_module(&(LoraSite){.kind = SITE_ROUTER, .l = l}, stem);
        TRY(add_extra(out, stem, "weight", layer->router->rows, layer->router->cols, layer->router->data));
        TRY(add_extra(out, stem, "e_score_correction_bias", 1, layer->router->rows,
                      layer->router_bias ? layer->router_bias : adapter->model->layers[l].router_bias));
    }
    return NULL;
}

Err *adapter_export(const Adapter *adapter, const char *directory, const char *base_model, bool bf16)
{
    LoraModule *loras;
    size_t n;
    PeftExport out = {.adapter = adapter};
    TRY(adapter_modules(adapter, &loras, &n));
    Err *err = collect(&out, loras, n);
    if (!err)
        err = adapter_file_write(directory, &(AdapterOut){.base_model = base_model,
                                                          .dtype = bf16 ? DTYPE_BF16 : DTYPE_F32,
                                                          .n_loras = out.n,
                                                          .loras = out.loras,
                                                          .n_extras = out.n_extras,
                                                          .extras = out.extras});
    if (!err) err = write_biases(adapter, directory);
    free(out.loras);
    free(out.extras);
    arena_free(&out.names);
    lora_modules_free(loras);
    return err_wrap(err, "export adapter to %s", directory);
}

Err *adapter_is_in(const char *directory, bool *is)
{
    char path[PATH_BYTES];
    TRY(file_join(path, directory, "adapter_config.json"));
    *is = file_exists(path);
    return NULL;
}

/* The config goes first: without it nobody takes the rest for an adapter. */
Err *adapter_remove(const char *directory)
{
    static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors", BIAS_FILE};
    char path[PATH_BYTES];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        TRY(file_join(path, directory, files[i]));
        if (unlink(path) && errno != ENOENT && errno != ENOTDIR) return err_errno("remove %s", path);
    }
    rmdir(directory); /* fails when other files are in it, which is as it should be */
    return NULL;
}
