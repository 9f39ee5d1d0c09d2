/* A tensor's name ends in its part (".lora_A.weight"); what stands before it, without PEFT's prefix, is the module. A
 * name that is neither a part nor of a module in modules_to_save is kept as unknown, so that one error can list them
 * all.
 * Source: PEFT 0.21, utils/save_and_load.py (get_peft_model_state_dict). */
#include "ckpt/adapter_keys.h"

#include "base/memory.h"
#include "base/suffix.h"

#include <stdlib.h>
#include <string.h>

/* Split off the ending that names a part; *length is that of the module. `.default` is the adapter's name in raw
 * files. */
static bool split_part(const char *name, AdapterPart *part, size_t *length)
{
    static const struct {
        const char *tail;
        AdapterPart part;
    } tails[] = {
        {".lora_A.weight", PART_A},
        {".lora_A.default.weight", PART_A},
        {".lora_B.weight", PART_B},
        {".lora_B.default.weight", PART_B},
        {".lora_embedding_A", PART_EMBEDDING_A},
        {".lora_embedding_A.default", PART_EMBEDDING_A},
        {".lora_embedding_B", PART_EMBEDDING_B},
        {".lora_embedding_B.default", PART_EMBEDDING_B},
    };
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        if (!has_suffix(name, tails[i].tail)) continue;
        *part = tails[i].part;
        *length = strlen(name) - strlen(tails[i].tail);
        return true;
    }
    return false;
}

static Err *refuse_variants(const char *name)
{
    if (strstr(name, ".lora_magnitude_vector"))
        return err_new(ERR_FORMAT, "%s belongs to DoRA, which graft does not read", name);
    if (strstr(name, ".lora_B.") && has_suffix(name, ".bias"))
        return err_new(ERR_FORMAT, "%s is a bias on B (lora_bias), which graft does not read", name);
    return NULL;
}

/* Does a name belong to a module that modules_to_save lists? */
static Err *is_extra(AdapterReader *reader, const char *name, bool *yes)
{
    const char *dot = strrchr(name, '.'), *module;
    *yes = false;
    if (!dot) return NULL;
    TRY(arena_format(&reader->file->store->names, &module, "%.*s", (int)(dot - name), name));
    *yes = adapter_config_lists(reader->file->config.modules_to_save, module);
    return NULL;
}

static Err *take_extra(AdapterReader *reader, const char *name, const TensorView *tensor)
{
    AdapterFile *file = reader->file;
    if (tensor->n_dims < 1 || tensor->n_dims > 2 || tensor->bytes == 0)
        return err_new(ERR_FORMAT, "%s has %zu dimensions; expected a matrix or a vector", tensor->name,
                       tensor->n_dims);
    file->extras[file->n_extras++] = (AdapterExtra){
        .name = name,
        .rows = tensor->n_dims == 2 ? tensor->shape[0] : 1,
        .cols = tensor->shape[tensor->n_dims - 1],
        .tensor = tensor,
    };
    return NULL;
}

static Err *take_unknown(AdapterReader *reader, const char *name)
{
    enum { SHOWN = 4 };
    if (reader->unknown++ >= SHOWN) return NULL;
    char *longer, *before = reader->unknown_names;
    TRY(mem_format(&longer, "%s%s%s", before ? before : "", before ? ", " : "", name));
    free(before);
    reader->unknown_names = longer;
    return NULL;
}

Err *adapter_keys_take(AdapterReader *reader, const TensorView *tensor)
{
    static const char PREFIX[] = "base_model.model.";
    const char *name = tensor->name;
    AdapterPart part;
    size_t length;
    bool extra;
    if (!strncmp(name, PREFIX, strlen(PREFIX))) name += strlen(PREFIX);
    if (has_suffix(name, ".base_layer.weight")) return NULL; /* PEFT's copy of a base matrix */
    if (tensor->dtype != DTYPE_F32 && tensor->dtype != DTYPE_BF16 && tensor->dtype != DTYPE_F16)
        return err_new(ERR_FORMAT, "%s is %s; expected F32, BF16 or F16", tensor->name, dtype_name(tensor->dtype));
    TRY(refuse_variants(name));
    if (split_part(name, &part, &length)) {
        AdapterKey *key = &reader->keys[reader->n++];
        *key = (AdapterKey){.part = part, .tensor = tensor};
        return arena_format(&reader->file->store->names, &key->module, "%.*s", (int)length, name);
    }
    TRY(is_extra(reader, name, &extra));
    return extra ? take_extra(reader, name, tensor) : take_unknown(reader, tensor->name);
}

int adapter_keys_compare(const void *a, const void *b)
{
    const AdapterKey *x = a, *y = b;
    int order = strcmp(x->module, y->module);
    return order ? order : (int)x->part - (int)y->part;
}

const AdapterKey *adapter_keys_find(const AdapterReader *reader, const char *module, AdapterPart part)
{
    AdapterKey key = {module, part, NULL};
    return reader->n ? bsearch(&key, reader->keys, reader->n, sizeof key, adapter_keys_compare) : NULL;
}
