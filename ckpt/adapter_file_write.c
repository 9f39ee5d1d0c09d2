/* The one layout that every consumer reads (adapter_config_write says what its config holds): per-expert names, one r
 * and one scale, since older readers know one of each for all modules.
 *
 * Both files are written into a draft directory, read back through adapter_file_open and compared. Then the old config
 * is removed, the tensors are moved, and the config is moved last: a reader finds the old adapter, none, or the new
 * one. */
#include "base/arena.h"
#include "base/memory.h"
#include "ckpt/adapter_config_write.h"
#include "ckpt/adapter_file.h"
#include "ckpt/adapter_modules.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const AdapterOut *out;
    size_t r;
    double alpha;
    size_t n;
    TensorView *tensors; /* [n] */
    Arena arena;         /* names, and numbers that differ from the caller's */
    float *zeros;        /* as many as the largest matrix has elements */
} AdapterWriter;

static const char CONFIG_NAME[] = "adapter_config.json", TENSORS_NAME[] = "adapter_model.safetensors";

/* ---- what is written ---- */

/* The factor by which B is multiplied, because the config has one scale; 1 when the scales differ by rounding only. */
static double fold_of(const AdapterWriter *w, const AdapterOutLora *lora)
{
    double factor = lora->scale / (w->alpha / (double)w->r);
    return fabs(factor - 1) < 1e-12 ? 1 : factor;
}

static float round_to(DType dtype, double x)
{
    float y = (float)x;
    return dtype == DTYPE_BF16 ? bf16_to_f32(bf16_from_f32(y)) : y;
}

/* A as it is written: padded with zero rows up to the common r. */
static void final_A(const AdapterWriter *w, const AdapterOutLora *lora, float *A)
{
    size_t given = lora->A ? lora->r * lora->in : 0;
    for (size_t i = 0; i < given; i++) A[i] = round_to(w->out->dtype, (double)lora->A[i]);
    for (size_t i = given; i < w->r * lora->in; i++) A[i] = 0;
}

/* B as it is written: scaled, and padded with zero columns. */
static void final_B(const AdapterWriter *w, const AdapterOutLora *lora, float *B)
{
    double fold = fold_of(w, lora);
    for (size_t o = 0; o < lora->out; o++) {
        for (size_t j = 0; j < w->r; j++, B++)
            *B = lora->B && j < lora->r ? round_to(w->out->dtype, (double)lora->B[o * lora->r + j] * fold) : 0;
    }
}

/* ---- checks ---- */

static int by_expert(const void *a, const void *b)
{
    const ExpertMatrix *x = a, *y = b;
    size_t shorter = x->stem < y->stem ? x->stem : y->stem;
    int order = strncmp(x->module, y->module, shorter);
    if (order) return order;
    if (x->stem != y->stem) return x->stem < y->stem ? -1 : 1;
    if (x->expert != y->expert) return x->expert < y->expert ? -1 : 1;
    return (x->projection > y->projection) - (x->projection < y->projection);
}

/* PEFT stacks a layer's experts without reading their numbers, and vLLM and llama.cpp require every matrix. */
static Err *check_experts(AdapterWriter *w)
{
    size_t n = 0;
    ExpertMatrix *list;
    Err *err = NULL;
    TRY(mem_new(&list, w->out->n_loras, sizeof *list));
    for (size_t i = 0; i < w->out->n_loras; i++) n += adapter_module_is_expert(w->out->loras[i].module, &list[n]);
    if (n) qsort(list, n, sizeof *list, by_expert);
    for (size_t i = 0, begin = 0; !err && i < n; i++) {
        bool last = i + 1 == n || list[i + 1].stem != list[i].stem ||
                    strncmp(list[i + 1].module, list[i].module, list[i].stem) != 0;
        size_t matrix = i - begin;
        bool good = list[i].expert == matrix / 3 && list[i].projection == matrix % 3 && (!last || matrix % 3 == 2);
        if (!good)
            err = err_new(ERR_USAGE,
                          "%s: expected down_proj, gate_proj and up_proj of every expert from 0, once each "
                          "(zeros for those that are not adapted)",
                          list[i].module);
        if (last) begin = i + 1;
    }
    free(list);
    return err;
}

static Err *check_lora(const AdapterOutLora *lora)
{
    if (lora->r == 0 || lora->in == 0 || lora->out == 0)
        return err_new(ERR_USAGE, "%s: r %zu, in %zu, out %zu; expected none to be zero", lora->module, lora->r,
                       lora->in, lora->out);
    if (!isfinite(lora->scale) || lora->scale <= 0)
        return err_new(ERR_USAGE, "%s: the scale is %g; expected a positive number", lora->module, lora->scale);
    if (!strcmp(adapter_module_leaf(lora->module), "embed_tokens"))
        return err_new(ERR_USAGE, "%s: LoRA on an embedding cannot be written", lora->module);
    if (!lora->A != !lora->B) return err_new(ERR_USAGE, "%s: one of A and B is missing", lora->module);
    return NULL;
}

static Err *check_and_settle(AdapterWriter *w)
{
    const AdapterOut *out = w->out;
    if (out->dtype != DTYPE_F32 && out->dtype != DTYPE_BF16)
        return err_new(ERR_USAGE, "an adapter is written as F32 or BF16, not %s", dtype_name(out->dtype));
    if (out->n_loras + out->n_extras == 0) return err_new(ERR_USAGE, "there is nothing to write");
    w->r = 1;
    for (size_t i = 0; i < out->n_loras; i++) {
        TRY(check_lora(&out->loras[i]));
        if (out->loras[i].r > w->r) w->r = out->loras[i].r;
    }
    w->alpha = (double)w->r * (out->n_loras ? out->loras[0].scale : 1);
    if (fabs(w->alpha - round(w->alpha)) < 1e-9 * w->alpha)
        w->alpha = round(w->alpha); /* r times a scale of 0.1 has a rounding error */
    return check_experts(w);
}

/* ---- tensors ---- */

static Err *alloc(AdapterWriter *w, size_t bytes, void *out)
{
    void *block = arena_alloc(&w->arena, bytes);
    memcpy(out, &block, sizeof block);
    return block ? NULL : err_new(ERR_MEMORY, "out of memory: %zu bytes of a tensor", bytes);
}

static Err *add_tensor(AdapterWriter *w, const char *name, const char *ending, DType dtype, size_t rows, size_t cols,
                       const void *data)
{
    TensorView *tensor = &w->tensors[w->n++];
    size_t length = strlen("base_model.model.") + strlen(name) + strlen(ending) + 1;
    char *full;
    TRY(alloc(w, length, &full));
    snprintf(full, length, "base_model.model.%s%s", name, ending);
    *tensor = (TensorView){.name = full, .dtype = dtype, .n_dims = 2, .shape = {rows, cols}, .data = data};
    tensor->bytes = rows * cols * dtype_bytes(dtype);
    return NULL;
}

/* Floats that are already rounded to the file's dtype, as its bytes. */
static Err *narrow(AdapterWriter *w, DType dtype, size_t n, const float *x, const void **data)
{
    uint16_t *halves;
    *data = x;
    if (dtype == DTYPE_F32) return NULL;
    TRY(alloc(w, n * sizeof *halves, &halves));
    for (size_t i = 0; i < n; i++) halves[i] = bf16_from_f32(x[i]);
    *data = halves;
    return NULL;
}

static Err *add_lora(AdapterWriter *w, const AdapterOutLora *lora, float *scratch)
{
    DType dtype = w->out->dtype;
    const void *A = lora->A ? (const void *)lora->A : w->zeros, *B = lora->B ? (const void *)lora->B : w->zeros;
    bool as_given = !lora->A || (dtype == DTYPE_F32 && lora->r == w->r && fold_of(w, lora) == 1);
    if (!as_given) {
        float *x = scratch;
        size_t n_A = w->r * lora->in, n_B = lora->out * w->r;
        if (dtype == DTYPE_F32) TRY(alloc(w, n_A * sizeof *x, &x));
        final_A(w, lora, x);
        TRY(narrow(w, dtype, n_A, x, &A));
        if (dtype == DTYPE_F32) TRY(alloc(w, n_B * sizeof *x, &x));
        final_B(w, lora, x);
        TRY(narrow(w, dtype, n_B, x, &B));
    }
    TRY(add_tensor(w, lora->module, ".lora_A.weight", dtype, w->r, lora->in, A));
    return add_tensor(w, lora->module, ".lora_B.weight", dtype, lora->out, w->r, B);
}

static DType dtype_of_extra(const AdapterWriter *w, const AdapterOutExtra *extra)
{
    return extra->rows == 1 ? DTYPE_F32 : w->out->dtype;
}

static Err *add_extra(AdapterWriter *w, const AdapterOutExtra *extra)
{
    const void *data;
    DType dtype = dtype_of_extra(w, extra);
    TRY(narrow(w, dtype, extra->rows * extra->cols, extra->data, &data));
    TRY(add_tensor(w, extra->name, "", dtype, extra->rows, extra->cols, data));
    if (extra->rows > 1) return NULL;
    TensorView *vector = &w->tensors[w->n - 1];
    vector->n_dims = 1;
    vector->shape[0] = extra->cols;
    return NULL;
}

/* Elements of the largest matrix. */
static size_t largest(const AdapterWriter *w)
{
    size_t n = 1;
    for (size_t i = 0; i < w->out->n_loras; i++) {
        const AdapterOutLora *lora = &w->out->loras[i];
        size_t wider = lora->in > lora->out ? lora->in : lora->out;
        if (wider * w->r > n) n = wider * w->r;
    }
    return n;
}

static Err *add_tensors(AdapterWriter *w)
{
    const AdapterOut *out = w->out;
    float *scratch = NULL;
    TRY(mem_new(&w->tensors, 2 * out->n_loras + out->n_extras, sizeof *w->tensors));
    TRY(mem_new(&w->zeros, largest(w), sizeof *w->zeros));
    TRY(mem_new(&scratch, largest(w), sizeof *scratch));
    Err *err = NULL;
    for (int matrices = 0; matrices < 2; matrices++) { /* F32 first, so that every tensor is aligned to its own size */
        for (size_t i = 0; !err && i < out->n_extras; i++)
            if ((out->extras[i].rows > 1) == matrices) err = add_extra(w, &out->extras[i]);
    }
    for (size_t i = 0; !err && i < out->n_loras; i++) err = add_lora(w, &out->loras[i], scratch);
    free(scratch);
    return err;
}

/* ---- comparing what was written ---- */

static Err *differs(const char *name, const char *what)
{
    return err_new(ERR_FORMAT, "%s was read back with another %s than was written", name, what);
}

static Err *compare_lora(const AdapterWriter *w, const AdapterFile *file, const AdapterOutLora *lora, float *expected,
                         float *A, float *B)
{
    const AdapterLora *found = adapter_file_find(file, lora->module);
    if (!found) return err_new(ERR_FORMAT, "%s was written, but is not in the file", lora->module);
    if (found->r != w->r || found->in != lora->in || found->out != lora->out) return differs(lora->module, "shape");
    double scale = lora->scale / fold_of(w, lora); /* the factor in B is not part of the scale */
    if (fabs(found->scale / scale - 1) > 1e-9) return differs(lora->module, "scale");
    adapter_file_read_lora(found, A, B);
    final_A(w, lora, expected);
    if (memcmp(expected, A, w->r * lora->in * sizeof *A) != 0) return differs(lora->module, "A");
    final_B(w, lora, expected);
    return memcmp(expected, B, lora->out * w->r * sizeof *B) ? differs(lora->module, "B") : NULL;
}

static Err *compare_extra(const AdapterWriter *w, const AdapterFile *file, const AdapterOutExtra *extra)
{
    for (size_t i = 0; i < file->n_extras; i++) {
        const AdapterExtra *found = &file->extras[i];
        if (strcmp(found->name, extra->name) != 0) continue;
        if (found->rows != extra->rows || found->cols != extra->cols) return differs(extra->name, "shape");
        float *data;
        size_t n = extra->rows * extra->cols;
        TRY(mem_new(&data, n, sizeof *data));
        adapter_file_read_extra(found, data);
        bool same = true;
        for (size_t k = 0; same && k < n; k++) {
            float expected = round_to(dtype_of_extra(w, extra), (double)extra->data[k]);
            same = !memcmp(&expected, &data[k], sizeof expected);
        }
        free(data);
        return same ? NULL : differs(extra->name, "content");
    }
    return err_new(ERR_FORMAT, "%s was written, but is not in the file", extra->name);
}

static Err *compare(const AdapterWriter *w, const char *directory)
{
    AdapterFile *file;
    float *buffers[3] = {NULL};
    TRY(adapter_file_open(&file, directory));
    Err *err = NULL;
    if (file->n_loras != w->out->n_loras || file->n_extras != w->out->n_extras)
        err = err_new(ERR_FORMAT, "%zu LoRA modules and %zu other weights were read back; %zu and %zu were written",
                      file->n_loras, file->n_extras, w->out->n_loras, w->out->n_extras);
    for (int i = 0; !err && i < 3; i++) err = mem_new(&buffers[i], largest(w), sizeof **buffers);
    for (size_t i = 0; !err && i < w->out->n_loras; i++)
        err = compare_lora(w, file, &w->out->loras[i], buffers[0], buffers[1], buffers[2]);
    for (size_t i = 0; !err && i < w->out->n_extras; i++) err = compare_extra(w, file, &w->out->extras[i]);
    for (int i = 0; i < 3; i++) free(buffers[i]);
    adapter_file_close(file);
    return err;
}

/* ---- the directory ---- */

/* A directory and the two files in it. */
typedef struct {
    char directory[PATH_BYTES], config[PATH_BYTES], tensors[PATH_BYTES];
} AdapterPaths;

static Err *set_paths(AdapterPaths *paths, const char *directory)
{
    if (snprintf(paths->directory, PATH_BYTES, "%s", directory) >= PATH_BYTES) return err_new(ERR_IO, "path too long");
    TRY(file_join(paths->config, directory, CONFIG_NAME));
    return file_join(paths->tensors, directory, TENSORS_NAME);
}

static void remove_files(const AdapterPaths *paths)
{
    unlink(paths->config);
    unlink(paths->tensors);
    rmdir(paths->directory);
}

static Err *move(const AdapterPaths *draft, const AdapterPaths *target)
{
    bool made = !file_exists(target->directory);
    TRY(file_make_directory(target->directory));
    Err *err = NULL;
    if (file_exists(target->config) && unlink(target->config)) err = err_errno("remove %s", target->config);
    if (!err) err = file_replace(draft->tensors, target->tensors);
    if (!err) err = file_replace(draft->config, target->config);
    if (err && made) remove_files(target);
    return err;
}

Err *adapter_file_write(const char *directory, const AdapterOut *out)
{
    AdapterWriter w = {.out = out};
    AdapterPaths target, draft;
    char name[PATH_BYTES];
    bool drafted = false;
    Err *err = check_and_settle(&w);
    if (!err) err = set_paths(&target, directory);
    if (!err) err = file_draft_name(name, directory);
    if (!err) err = set_paths(&draft, name);
    if (!err) drafted = !(err = file_make_directory(draft.directory));
    if (!err) err = add_tensors(&w);
    if (!err) err = safetensors_write(draft.tensors, w.tensors, w.n);
    if (!err) err = adapter_config_write(draft.config, out, w.r, w.alpha);
    if (!err) err = compare(&w, draft.directory);
    if (!err) err = move(&draft, &target);
    if (drafted) remove_files(&draft);
    arena_free(&w.arena);
    free(w.tensors);
    free(w.zeros);
    return err_wrap(err, "write adapter %s", directory);
}
