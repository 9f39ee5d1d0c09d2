#include "train/dump.h"

#include "base/memory.h"
#include "tensor/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct Dump {
    size_t rows, n, capacity;
    TensorView *tensors; /* names and data are owned */
    StepProbe probe;
    Err *err; /* the first: a probe cannot return one */
};

/* A zeroed tensor of that name. */
static Err *add(Dump *dump, const char *name, DType dtype, size_t rows, size_t cols, void **data)
{
    char *own;
    TRY(mem_grow(&dump->tensors, &dump->capacity, dump->n + 1, sizeof *dump->tensors));
    TRY(mem_copy_text(&own, name));
    TensorView *tensor = &dump->tensors[dump->n++];
    *tensor = (TensorView){
        .name = own, .dtype = dtype, .n_dims = 2, .shape = {rows, cols}, .bytes = rows * cols * dtype_bytes(dtype)};
    TRY(mem_new(data, rows * cols, dtype_bytes(dtype)));
    tensor->data = *data;
    return NULL;
}

/* A group's rows go where they stand among the rank's. */
static void see(void *context, const char *what, size_t l, size_t row, size_t rows, size_t cols, const void *data)
{
    Dump *dump = context;
    char name[64];
    void *to = NULL;
    snprintf(name, sizeof name, "%s.%zu", what, l);
    for (size_t i = 0; i < dump->n && !to; i++)
        if (strcmp(dump->tensors[i].name, name) == 0) to = (void *)(size_t)dump->tensors[i].data;
    bool ids = strcmp(what, "router.experts") == 0;
    if (!to && !dump->err) dump->err = add(dump, name, ids ? DTYPE_I64 : DTYPE_F32, dump->rows, cols, &to);
    if (to && !ids) memcpy((float *)to + row * cols, data, rows * cols * sizeof(float));
    for (size_t i = 0; to && ids && i < rows * cols; i++) ((int64_t *)to)[row * cols + i] = ((const int32_t *)data)[i];
}

Err *dump_new(Dump **dump, size_t rows)
{
    TRY(mem_new(dump, 1, sizeof **dump));
    **dump = (Dump){.rows = rows};
    (*dump)->probe = (StepProbe){*dump, see};
    return NULL;
}

void dump_free(Dump *dump)
{
    if (!dump) return;
    for (size_t i = 0; i < dump->n; i++) {
        free((char *)(size_t)dump->tensors[i].name);
        free((void *)(size_t)dump->tensors[i].data);
    }
    free(dump->tensors);
    err_free(dump->err);
    free(dump);
}

const StepProbe *dump_probe(Dump *dump) { return &dump->probe; }

static Err *add_gradients(Dump *dump, const Dp *dp, Step *step, const LayerAdapter *layer, size_t l)
{
    char name[256];
    float *block;
    void *to;
    TRY(mem_new(&block, layer->n, sizeof *block));
    Err *err = dp_collect(dp, layer->n, step_gradient(step, l), block);
    for (size_t i = 0; i < layer->n_params && !err && dp->rank == 0; i++) {
        const Param *p = &layer->params[i];
        snprintf(name, sizeof name, "grad.%s", p->name);
        err = add(dump, name, DTYPE_F32, p->rows, p->cols, &to);
        if (!err) memcpy(to, block + p->offset, param_count(p) * sizeof(float));
    }
    free(block);
    return err;
}

Err *dump_write(Dump *dump, const Dp *dp, Step *step, const Adapter *adapter, uint64_t number, const char *directory)
{
    char name[64], path[PATH_BYTES];
    Err *err = dump->err;
    dump->err = NULL;
    for (size_t l = 0; l < adapter->n_layers && !err; l++)
        if (adapter->layers[l].n) err = add_gradients(dump, dp, step, &adapter->layers[l], l);
    if (!err) err = file_make_directory(directory);
    snprintf(name, sizeof name, "step-%06llu-rank-%d.safetensors", (unsigned long long)number, dp->rank);
    if (!err) err = file_join(path, directory, name);
    if (!err && dump->n) err = safetensors_write(path, dump->tensors, dump->n);
    return err_wrap(err, "dump to %s", directory);
}
