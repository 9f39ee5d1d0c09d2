/* A model whose files are not there: every tensor that the config asks for, laid out in a mapping of zeros that is
 * never touched beyond its norms. Whatever works on shapes and places works on it as on files: adapters, plans,
 * reports. */
#define _GNU_SOURCE
#include "base/memory.h"
#include "model/weights.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

typedef struct {
    Safetensors *file;
    DType matrices;
    size_t capacity, bytes;
    size_t name_bytes, name_capacity; /* of file->names */
} Outline;

static Err *add(Outline *o, const char *name, const char *suffix, DType dtype, size_t n_dims, size_t rows, size_t cols)
{
    Safetensors *file = o->file;
    size_t n = file->n_tensors, length = strlen(name) + strlen(suffix) + 1;
    TRY(mem_grow(&file->tensors, &o->capacity, n + 1, sizeof *file->tensors));
    TRY(mem_grow(&file->names, &o->name_capacity, o->name_bytes + length, 1));
    snprintf(file->names + o->name_bytes, length, "%s%s", name, suffix);
    o->name_bytes += length;
    TensorView *view = &file->tensors[n];
    *view = (TensorView){.dtype = dtype, .n_dims = n_dims, .shape = {n_dims == 1 ? cols : rows, cols}};
    view->bytes = rows * cols * dtype_bytes(dtype);
    o->bytes += view->bytes;
    file->n_tensors++;
    return NULL;
}

static Err *visit(void *context, const char *name, const TensorSpec *spec)
{
    Outline *o = context;
    bool fp8 = o->matrices == DTYPE_F8_E4M3 && spec->may_fp8;
    if (spec->mtp) return NULL;
    TRY(add(o, name, "",
            spec->must_f32 ? DTYPE_F32
            : fp8          ? DTYPE_F8_E4M3
                           : DTYPE_BF16,
            spec->vector ? 1 : 2, spec->rows, spec->cols));
    if (!fp8) return NULL;
    return add(o, name, "_scale_inv", DTYPE_F32, 2, (spec->rows + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK,
               (spec->cols + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK);
}

Err *weights_outline_file(Safetensors *file, const ModelConfig *config, DType matrices)
{
    Outline o = {.file = file, .matrices = matrices};
    *file = (Safetensors){0};
    Err *err = mem_copy_text(&file->path, config->path);
    if (!err) err = model_config_tensors(config, false, visit, &o);
    void *at = err ? MAP_FAILED : mmap(NULL, o.bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!err && at == MAP_FAILED) err = err_errno("reserve %zu bytes of addresses", o.bytes);
    if (err) {
        safetensors_close(file);
        return err;
    }
    file->map = (FileMap){at, o.bytes, at};
    size_t used = 0;
    const char *name = file->names; /* they no longer move */
    for (size_t i = 0; i < file->n_tensors; used += file->tensors[i++].bytes) {
        file->tensors[i].data = (const char *)at + used;
        file->tensors[i].name = name;
        name += strlen(name) + 1;
    }
    return NULL;
}
