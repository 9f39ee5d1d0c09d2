/* A dump copies what a StepProbe sees into tensors of its own, and writes them when the step is done. The tensors are
 * found by name; groups of a step add their rows to the same tensor. */
#include "train/dump.h"

#include "base/memory.h"
#include "tensor/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *name; /* owned, as is data */
    DType dtype;
    size_t rows, cols;
    void *data;
} DumpTensor;

struct Dump {
    size_t rows, n, capacity;
    DumpTensor *tensors;
    StepProbe probe;
    Err *err; /* the first: a probe cannot return one */
};

/* Add a tensor of zeros. *data is borrowed. */
static Err *add(Dump *dump, DumpTensor tensor, const char *name, void **data)
{
    TRY(mem_grow(&dump->tensors, &dump->capacity, dump->n + 1, sizeof *dump->tensors));
    TRY(mem_copy_text(&tensor.name, name));
    DumpTensor *to = &dump->tensors[dump->n++];
    *to = tensor;
    TRY(mem_new(&to->data, tensor.rows * tensor.cols, dtype_bytes(tensor.dtype)));
    *data = to->data;
    return NULL;
}

/* Copy rows [row, row + rows) of the rank, which one group has computed. */
static void observe(void *context, const char *what, size_t l, size_t row, size_t rows, size_t cols, const void *data)
{
    Dump *dump = context;
    char name[64];
    void *to = NULL;
    snprintf(name, sizeof name, "%s.%zu", what, l);
    for (size_t i = 0; i < dump->n && !to; i++)
        if (strcmp(dump->tensors[i].name, name) == 0) to = dump->tensors[i].data;
    bool ids = strcmp(what, "router.experts") == 0;
    if (!to && !dump->err)
        dump->err = add(dump, (DumpTensor){.dtype = ids ? DTYPE_I64 : DTYPE_F32, .rows = dump->rows, .cols = cols},
                        name, &to);
    if (to && !ids) memcpy((float *)to + row * cols, data, rows * cols * sizeof(float));
    for (size_t i = 0; to && ids && i < rows * cols; i++) ((int64_t *)to)[row * cols + i] = ((const int32_t *)data)[i];
}

Err *dump_new(Dump **dump, size_t rows)
{
    TRY(mem_new(dump, 1, sizeof **dump));
    **dump = (Dump){.rows = rows};
    (*dump)->probe = (StepProbe){*dump, observe};
    return NULL;
}

void dump_free(Dump *dump)
{
    if (!dump) return;
    for (size_t i = 0; i < dump->n; i++) {
        free(dump->tensors[i].name);
        free(dump->tensors[i].data);
    }
    free(dump->tensors);
    err_free(dump->err);
    free(dump);
}

const StepProbe *dump_probe(const Dump *dump) { return dump ? &dump->probe : NULL; }

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
        err = add(dump, (DumpTensor){.dtype = DTYPE_F32, .rows = p->rows, .cols = p->cols}, name, &to);
        if (!err) memcpy(to, block + p->offset, param_count(p) * sizeof(float));
    }
    free(block);
    return err;
}

static Err *write_tensors(const Dump *dump, const char *path)
{
    TensorView *views;
    TRY(mem_new(&views, dump->n, sizeof *views));
    for (size_t i = 0; i < dump->n; i++) {
        const DumpTensor *t = &dump->tensors[i];
        views[i] = (TensorView){.name = t->name,
                                .dtype = t->dtype,
                                .n_dims = 2,
                                .shape = {t->rows, t->cols},
                                .bytes = t->rows * t->cols * dtype_bytes(t->dtype),
                                .data = t->data};
    }
    Err *err = safetensors_write(path, views, dump->n);
    free(views);
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
    if (!err && dump->n) err = write_tensors(dump, path);
    return err_wrap(err, "dump to %s", directory);
}
