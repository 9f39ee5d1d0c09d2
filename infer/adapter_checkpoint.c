/* Values may only be read into an adapter whose arrays are those of the file, so the settings are read first, and one is
 * made as the run made it: anew, or from the adapter that the run began with. */
#include "infer/adapter_checkpoint.h"

#include "base/memory.h"
#include "infer/adapter_io.h"

#include <stdlib.h>
#include <string.h>

Err *trained_table(const Adapter *adapter, AdapterArray **names, CkptArray **arrays, size_t *n)
{
    TRY(adapter_arrays(adapter, names, n));
    Err *err = mem_new(arrays, *n, sizeof **arrays);
    if (err) {
        arrays_free(*names, *n);
        return err;
    }
    for (size_t i = 0; i < *n; i++) {
        const AdapterArray *a = &(*names)[i];
        (*arrays)[i] = (CkptArray){.name = a->name, .n_dims = a->n_dims, .offset = a->offset, .ids = a->ids};
        memcpy((*arrays)[i].dims, a->dims, sizeof a->dims);
    }
    return NULL;
}

/* ---- as the run made it --------------------------------------------------------------------------------------- */

static Err *read_lora(LoraConfig *lora, const Json *settings)
{
    *lora = (LoraConfig){.target_modules = json_find(settings, "target_modules"),
                         .layers_to_transform = json_find(settings, "layers_to_transform"),
                         .experts = json_find(settings, "experts")};
    const Json **const values[] = {&lora->target_modules, &lora->layers_to_transform, &lora->experts};
    for (size_t i = 0; i < 3; i++)
        if (*values[i] && json_kind(*values[i]) == JSON_NULL) *values[i] = NULL;
    TRY(json_get_int(settings, "r", 1, LORA_R_MAX, &lora->r));
    TRY(json_get_number(settings, "lora_alpha", &lora->lora_alpha));
    TRY(json_may_bool(settings, "use_rslora", &lora->use_rslora));
    return json_may_bool(settings, "train_router", &lora->train_router);
}

/* Settings of older checkpoints may hold the name of an `experts` file instead of its content. */
static Err *make_anew(Adapter **adapter, const Model *model, const Json *settings)
{
    LoraConfig lora;
    Json *table = NULL;
    TRY(read_lora(&lora, settings));
    TRY(err_wrap(lora_experts_read(&table, lora.experts),
                 "this older checkpoint holds only the name of a file; put the file back where it was"));
    if (table) lora.experts = table;
    Err *err = adapter_new(adapter, model, &lora, 0);
    json_free(table);
    return err;
}

static Err *make(Adapter **adapter, const Model *model, const char *config)
{
    Json *settings;
    const char *began_with = NULL;
    TRY(json_parse(&settings, config, strlen(config)));
    Err *err = json_may_string(settings, "init_adapter", &began_with);
    if (!err && began_with)
        err = err_wrap(adapter_open(adapter, model, began_with), "init_adapter, with which the run began");
    else if (!err)
        err = make_anew(adapter, model, settings);
    json_free(settings);
    return err_wrap(err, "its settings");
}

/* ---- what it became ------------------------------------------------------------------------------------------- */

static Err *check_base(const Model *model, const CkptInfo *info)
{
    char digest[DIGEST_BYTES];
    weights_digest(model->weights, digest);
    if (strcmp(digest, info->base_digest) == 0) return NULL;
    return err_new(
        ERR_FORMAT,
        "it was trained on another base: base_digest is %s, this model's %s; give the model that it was trained on",
        info->base_digest, digest);
}

static Err *fill(Adapter *adapter, const Model *model, const char *path)
{
    AdapterArray *names;
    CkptArray *arrays;
    size_t n, n_biases = adapter->n_layers * model->router.E;
    float *biases = NULL;
    bool moved = false;
    TRY(trained_table(adapter, &names, &arrays, &n));
    Err *err = mem_new(&biases, n_biases, sizeof *biases);
    CkptExtra extra = {"router_bias", n_biases, NULL, biases};
    Checkpoint ckpt = {.n_arrays = n,
                       .arrays = arrays,
                       .n = adapter->n,
                       .values = adapter->values,
                       .n_extras = n_biases > 0,
                       .extras = &extra};
    if (!err) err = checkpoint_load_values(&ckpt, path, &moved);
    if (!err && moved) err = adapter_own_biases(adapter);
    if (!err && moved) memcpy(adapter->biases, biases, n_biases * sizeof *biases);
    checkpoint_info_free(&ckpt.info);
    arrays_free(names, n);
    free(arrays);
    free(biases);
    return err;
}

Err *trained_open(Adapter **adapter, const Model *model, const char *path)
{
    CkptInfo info;
    TRY(checkpoint_peek(&info, path));
    Err *err = check_base(model, &info);
    if (!err) err = make(adapter, model, info.config_json);
    checkpoint_info_free(&info);
    if (err) return err_wrap(err, "checkpoint %s", path);
    err = fill(*adapter, model, path);
    if (!err) return NULL;
    adapter_free(*adapter);
    *adapter = NULL;
    return err;
}
