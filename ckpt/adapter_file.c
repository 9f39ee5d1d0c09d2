/* From tensor names to LoRA modules, in four steps:
 *
 *   1. Every name is split into a module and a part (A, B, their embedding forms, an extra), or refused (adapter_keys).
 *   2. The parts are sorted by module, so that A and B of a module are neighbours.
 *   3. A and B become one LoRA module, or one for each expert (adapter_layouts).
 *   4. The LoRA modules are sorted by name, and no name may occur twice. */
#include "ckpt/adapter_file.h"

#include "base/memory.h"
#include "ckpt/adapter_layouts.h"

#include <stdlib.h>
#include <string.h>

static int by_module(const void *a, const void *b)
{
    return strcmp(((const AdapterLora *)a)->module, ((const AdapterLora *)b)->module);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const AdapterExtra *)a)->name, ((const AdapterExtra *)b)->name);
}

static Err *finish(AdapterFile *file)
{
    if (file->n_loras) qsort(file->loras, file->n_loras, sizeof *file->loras, by_module);
    if (file->n_extras) qsort(file->extras, file->n_extras, sizeof *file->extras, by_name);
    for (size_t i = 1; i < file->n_loras; i++)
        if (!by_module(&file->loras[i - 1], &file->loras[i]))
            return err_new(ERR_FORMAT, "%s has LoRA twice", file->loras[i].module);
    for (size_t i = 1; i < file->n_extras; i++)
        if (!by_name(&file->extras[i - 1], &file->extras[i]))
            return err_new(ERR_FORMAT, "%s is there twice", file->extras[i].name);
    if (file->config.modules_to_save && !file->n_extras)
        return err_new(ERR_FORMAT, "adapter_config.json has modules_to_save, but no tensor belongs to such a module");
    return file->n_loras || file->n_extras ? NULL : err_new(ERR_FORMAT, "it has no LoRA tensor");
}

static Err *read_tensors(AdapterFile *file)
{
    const Safetensors *tensors = &file->store->tensors;
    AdapterReader reader = {.file = file};
    Err *err = mem_new(&reader.keys, tensors->n_tensors, sizeof *reader.keys);
    if (!err) err = mem_new(&file->extras, tensors->n_tensors, sizeof *file->extras);
    for (size_t i = 0; !err && i < tensors->n_tensors; i++) err = adapter_keys_take(&reader, &tensors->tensors[i]);
    if (!err && reader.unknown)
        err = err_new(ERR_FORMAT, "%zu tensors are not LoRA as graft knows it: %s%s", reader.unknown,
                      reader.unknown_names, reader.unknown > 4 ? ", ..." : "");
    if (!err && reader.n) qsort(reader.keys, reader.n, sizeof *reader.keys, adapter_keys_compare);
    if (!err) err = adapter_layouts_add_loras(&reader);
    if (!err) err = finish(file);
    free(reader.keys);
    free(reader.unknown_names);
    return err;
}

static Err *open_tensors(Safetensors *tensors, const char *directory)
{
    char path[PATH_BYTES], pickle[PATH_BYTES];
    TRY(file_join(path, directory, "adapter_model.safetensors"));
    TRY(file_join(pickle, directory, "adapter_model.bin"));
    if (!file_exists(path) && file_exists(pickle))
        return err_new(ERR_FORMAT,
                       "adapter_model.bin is a pickle, which only Python can read; save the adapter again with "
                       "safe_serialization=True");
    return safetensors_open(tensors, path);
}

Err *adapter_file_open(AdapterFile **out, const char *directory)
{
    AdapterFile *file = NULL;
    char path[PATH_BYTES];
    *out = NULL;
    Err *err = mem_new(&file, 1, sizeof *file);
    if (!err) err = mem_new(&file->store, 1, sizeof *file->store);
    if (!err) err = file_join(path, directory, "adapter_config.json");
    if (!err) err = adapter_config_read(&file->config, path);
    if (!err) err = open_tensors(&file->store->tensors, directory);
    if (!err) err = err_wrap(read_tensors(file), "adapter_model.safetensors");
    if (err)
        adapter_file_close(file);
    else
        *out = file;
    return err_wrap(err, "adapter %s", directory);
}

void adapter_file_close(AdapterFile *file)
{
    if (!file) return;
    adapter_config_free(&file->config);
    if (file->store) {
        safetensors_close(&file->store->tensors);
        arena_free(&file->store->names);
    }
    free(file->store);
    free(file->loras);
    free(file->extras);
    free(file);
}

const AdapterLora *adapter_file_find(const AdapterFile *file, const char *module)
{
    AdapterLora key = {.module = module};
    return file->n_loras ? bsearch(&key, file->loras, file->n_loras, sizeof key, by_module) : NULL;
}

static void read_slice(const AdapterSlice *slice, size_t rows, size_t cols, float *out)
{
    DType dtype = slice->tensor->dtype;
    size_t bytes = dtype_bytes(dtype);
    const unsigned char *data = slice->tensor->data;
    for (size_t i = 0; i < rows; i++, out += cols) {
        const unsigned char *row = data + (slice->first + i * slice->row_step) * bytes;
        if (slice->col_step == 1)
            dtype_widen(cols, out, dtype, row);
        else
            for (size_t j = 0; j < cols; j++) dtype_widen(1, out + j, dtype, row + j * slice->col_step * bytes);
    }
}

void adapter_file_read_lora(const AdapterLora *lora, float *A, float *B)
{
    read_slice(&lora->A, lora->r, lora->in, A);
    read_slice(&lora->B, lora->out, lora->r, B);
}

void adapter_file_read_extra(const AdapterExtra *extra, float *data)
{
    dtype_widen(extra->rows * extra->cols, data, extra->tensor->dtype, extra->tensor->data);
}
