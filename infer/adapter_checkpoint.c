/* Values can be read only into an adapter whose arrays are those of the file. So the settings are read first, and an
 * adapter is made as the run made it: from the settings, or in the shape of the adapter that the run began with
 * (init_adapter), which is in the checkpoint's settings under "init_adapter_shape". Then its values are read. */
#include "infer/adapter_checkpoint.h"

#include "base/memory.h"
#include "model/adapter_shape.h"

#include <stdlib.h>
#include <string.h>

Err *adapter_checkpoint_table(const Adapter *adapter, AdapterArray **names, CkptArray **arrays, size_t *n)
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

/* ---- the adapter as the run made it ------------------------------------------------------------------------------ */

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
static Err *make_from_settings(Adapter **adapter, const Model *model, const Json *settings)
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

static const char SHAPE[] = "init_adapter_shape";

Err *adapter_checkpoint_settings(const Adapter *adapter, const char *settings, char **text)
{
    Json *root, *shape;
    const char *began_with = NULL;
    TRY(json_parse(&root, settings, strlen(settings)));
    Err *err = json_may_string(root, "init_adapter", &began_with);
    if (!err && !began_with) {
        err = mem_copy_text(text, settings);
    } else if (!err && !(err = adapter_shape_json(adapter, &shape))) {
        json_set(root, SHAPE, shape);
        err = json_print(root, true, text);
    }
    json_free(root);
    return err;
}

Err *adapter_checkpoint_shape(Adapter **adapter, const Model *model, const char *settings)
{
    Json *root;
    *adapter = NULL;
    TRY(json_parse(&root, settings, strlen(settings)));
    const Json *shape = json_find(root, SHAPE);
    Err *err = shape ? err_wrap(adapter_from_shape(adapter, model, shape), "%s", SHAPE) : NULL;
    json_free(root);
    return err;
}

static Err *make_from_path(Adapter **adapter, const Model *model, const char *began_with, AdapterOpener *open_init)
{
    return err_wrap(
        open_init(adapter, model, began_with),
        "init_adapter %s: this older checkpoint holds only the path of the adapter that its run began with; "
        "put that adapter back where it was",
        began_with);
}

static Err *make_as_the_run_did(Adapter **adapter, const Model *model, const char *config, AdapterOpener *open_init)
{
    Json *settings;
    const char *began_with = NULL;
    Err *err = adapter_checkpoint_shape(adapter, model, config);
    if (err || *adapter) return err_wrap(err, "its settings");
    TRY(json_parse(&settings, config, strlen(config)));
    err = json_may_string(settings, "init_adapter", &began_with);
    if (!err && began_with)
        err = make_from_path(adapter, model, began_with, open_init);
    else if (!err)
        err = make_from_settings(adapter, model, settings);
    json_free(settings);
    return err_wrap(err, "its settings");
}

/* ---- its values -------------------------------------------------------------------------------------------------- */

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

static Err *read_values(Adapter *adapter, const Model *model, const char *path)
{
    AdapterArray *names;
    CkptArray *arrays;
    size_t n, n_biases = adapter->n_layers * model->router.E;
    float *biases = NULL;
    bool moved = false;
    TRY(adapter_checkpoint_table(adapter, &names, &arrays, &n));
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

Err *adapter_checkpoint_open(Adapter **adapter, const Model *model, const char *path, AdapterOpener *open_init)
{
    CkptInfo info;
    TRY(checkpoint_peek(&info, path));
    Err *err = check_base(model, &info);
    if (!err) err = make_as_the_run_did(adapter, model, info.config_json, open_init);
    checkpoint_info_free(&info);
    if (err) return err_wrap(err, "checkpoint %s", path);
    err = read_values(*adapter, model, path);
    if (!err) return NULL;
    adapter_free(*adapter);
    *adapter = NULL;
    return err;
}
