/* Tensors are listed from the config (model_config_tensors), and generated and written piece by piece, in shards of
 * about 1 GB. config.json is written last, so a directory that has one is complete. */
#include "bench/random_model.h"

#include "base/byte_size.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/suffix.h"
#include "model/config.h"
#include "tensor/safetensors.h"
#include "tensor/weight.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

enum { SHARD_BYTES = 1000000000 };

typedef struct {
    uint64_t seed;
    bool fp8;
    size_t n, views_capacity, names_capacity;
    TensorView *views; /* [n] */
    char **names;      /* [n] of the views, owned */
} TensorList;

/* ---- values --------------------------------------------------------------------------------------------------- */

/* A number with mean 0 and deviation 1: the sum of four uniform numbers, which is close to normal and fast. */
static float almost_normal(uint64_t key, uint64_t index)
{
    uint64_t bits = rng_bits(key, index);
    int64_t sum = 0;
    for (int i = 0; i < 4; i++) sum += (int64_t)(bits >> (16 * i) & 0xFFFF);
    return (float)(sum - 2 * 0xFFFF) * 2.6428759e-5f; /* sqrt(3) / 65536 */
}

static const char scales[] = "_scale_inv";
static const float code_deviation = 64; /* codes use most of the range of E4M3; the scale of a block divides by it */

static Err *fill_tensor(void *context, const TensorView *view, size_t at, size_t bytes, void *out)
{
    const TensorList *list = context;
    uint64_t key = rng_name(list->seed, view->name);
    size_t size = dtype_bytes(view->dtype), n = bytes / size, first = at / size;
    bool vector = view->n_dims == 1, bias = has_suffix(view->name, ".bias"),
         table = strcmp(view->name, "model.embed_tokens.weight") == 0;
    bool factors = has_suffix(view->name, scales);
    float deviation = table    ? 1
                      : vector ? 0.02f
                               : (float)(1 / sqrt((double)view->shape[1])),
          mean = vector && !bias ? 1 : 0;
    if (factors) deviation = 1 / (code_deviation * sqrtf((float)(view->shape[1] * WEIGHT_BLOCK)));
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        if (view->dtype == DTYPE_F32) {
            float value = factors ? deviation : (rng_uniform(key, first + i) - 0.5f) * 0.1f;
            memcpy((char *)out + 4 * i, &value, 4);
        } else if (view->dtype == DTYPE_F8_E4M3) {
            ((uint8_t *)out)[i] = f8_e4m3_from_f32(code_deviation * almost_normal(key, first + i));
        } else {
            uint16_t value = bf16_from_f32(mean + deviation * almost_normal(key, first + i));
            memcpy((char *)out + 2 * i, &value, 2);
        }
    }
    return NULL;
}

/* ---- files ---------------------------------------------------------------------------------------------------- */

static Err *add_view(TensorList *list, const char *name, const char *suffix, DType dtype, size_t n_dims, size_t rows,
                     size_t cols)
{
    TRY(mem_grow(&list->views, &list->views_capacity, list->n + 1, sizeof *list->views));
    TRY(mem_grow(&list->names, &list->names_capacity, list->n + 1, sizeof *list->names));
    TensorView *view = &list->views[list->n];
    TRY(mem_format(&list->names[list->n], "%s%s", name, suffix));
    *view = (TensorView){.name = list->names[list->n],
                         .dtype = dtype,
                         .n_dims = n_dims,
                         .shape = {n_dims == 1 ? cols : rows, cols},
                         .bytes = rows * cols * dtype_bytes(dtype)};
    list->n++;
    return NULL;
}

static Err *list_tensor(void *context, const char *name, const TensorSpec *spec)
{
    TensorList *list = context;
    bool fp8 = list->fp8 && spec->may_fp8;
    TRY(add_view(list, name, "",
                 spec->must_f32 ? DTYPE_F32
                 : fp8          ? DTYPE_F8_E4M3
                                : DTYPE_BF16,
                 spec->vector ? 1 : 2, spec->rows, spec->cols));
    if (!fp8) return NULL;
    return add_view(list, name, scales, DTYPE_F32, 2, (spec->rows + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK,
                    (spec->cols + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK);
}

/* The end of the shard that begins with tensor `at`. */
static size_t shard_end(const TensorList *list, size_t at)
{
    size_t bytes = list->views[at++].bytes;
    while (at < list->n && bytes + list->views[at].bytes <= SHARD_BYTES) bytes += list->views[at++].bytes;
    return at;
}

static size_t count_shards(const TensorList *list)
{
    size_t n = 0;
    for (size_t at = 0; at < list->n; n++) at = shard_end(list, at);
    return n;
}

static Err *write_shard_index(const char *directory, Json *map, size_t bytes)
{
    char path[PATH_BYTES], *text;
    Json *root = json_new_object(), *metadata = json_new_object();
    json_add_number(metadata, "total_size", (double)bytes);
    json_add(root, "metadata", metadata);
    json_add(root, "weight_map", map);
    Err *err = json_print(root, true, &text);
    json_free(root);
    if (err) return err;
    err = file_join(path, directory, "model.safetensors.index.json");
    if (!err) err = file_write(path, text, strlen(text));
    free(text);
    return err;
}

static Err *write_shards(const char *directory, TensorList *list)
{
    size_t shards = count_shards(list), bytes = 0, end;
    Json *map = json_new_object();
    Err *err = NULL;
    for (size_t at = 0, s = 1; at < list->n && !err; at = end, s++) {
        char name[64] = "model.safetensors", path[PATH_BYTES];
        end = shard_end(list, at);
        if (shards > 1) snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", s, shards);
        if ((err = file_join(path, directory, name))) break;
        for (size_t i = at; i < end; i++) {
            json_add_string(map, list->views[i].name, name);
            bytes += list->views[i].bytes;
        }
        err = safetensors_write_filled(path, list->views + at, end - at, fill_tensor, list);
    }
    if (err || shards == 1)
        json_free(map);
    else
        err = write_shard_index(directory, map, bytes);
    return err;
}

/* Print the size of the model; fail when it does not fit on the disk. */
static Err *announce(const char *directory, const TensorList *list)
{
    struct statvfs disk;
    size_t bytes = 0, elements = 0;
    for (size_t i = 0; i < list->n; i++) {
        bytes += list->views[i].bytes;
        elements += list->views[i].bytes / dtype_bytes(list->views[i].dtype);
    }
    if (statvfs(directory, &disk)) return err_errno("read the free space of %s", directory);
    size_t available = (size_t)disk.f_bavail * disk.f_frsize;
    if (available < bytes)
        return err_new(ERR_IO, "%s: a model of %s does not fit into the %s that are free", directory, BYTES(bytes),
                       BYTES(available));
    log_line("  writes    a random model of %.1f M parameters, %s, into %s", (double)elements / 1e6, BYTES(bytes),
             directory);
    return NULL;
}

/* The file itself, or configs/SHAPE.json. */
static Err *config_path(char path[PATH_BYTES], const char *shape)
{
    bool is_path = has_suffix(shape, ".json");
    int n = snprintf(path, PATH_BYTES, is_path ? "%s" : "configs/%s.json", shape);
    if (n >= PATH_BYTES) return err_new(ERR_USAGE, "the shape's name is too long");
    return file_exists(path)
               ? NULL
               : err_new(ERR_USAGE, "there is no shape %s: %s is not here; give the path of a config.json", shape,
                         path);
}

static Err *write_model(TensorList *list, const char *directory)
{
    TRY(file_make_directory(directory));
    TRY(announce(directory, list));
    return write_shards(directory, list);
}

static Err *copy_config(const char *from, const char *directory)
{
    char to[PATH_BYTES], *text;
    size_t bytes;
    TRY(file_join(to, directory, "config.json"));
    TRY(file_read(&text, &bytes, from));
    Err *err = file_write(to, text, bytes);
    free(text);
    return err;
}

Err *random_model_make(const char *shape, const char *directory, uint64_t seed)
{
    char from[PATH_BYTES];
    ModelConfig config;
    TensorList list = {.seed = seed};
    TRY(config_path(from, shape));
    TRY(model_config_read(&config, from));
    list.fp8 = config.fp8;
    Err *err = model_config_tensors(&config, false, list_tensor, &list);
    if (!err) err = write_model(&list, directory);
    if (!err) err = copy_config(from, directory);
    for (size_t i = 0; i < list.n; i++) free(list.names[i]);
    free(list.names);
    free(list.views);
    model_config_free(&config);
    return err_wrap(err, "make a random model");
}

static Err *same_json(const char *a, const char *b, bool *same)
{
    Json *x, *y;
    TRY(json_read_file(&x, a));
    Err *err = json_read_file(&y, b);
    if (!err) {
        *same = json_equal(x, y);
        json_free(y);
    }
    json_free(x);
    return err;
}

/* "configs/S.json" and "S" are S. */
static const char *shape_name(const char *shape, size_t *n)
{
    const char *slash = strrchr(shape, '/');
    if (slash) shape = slash + 1;
    *n = strlen(shape) - (has_suffix(shape, ".json") ? 5 : 0);
    return shape;
}

Err *random_model_have(char directory[PATH_BYTES], const char *folder, const char *shape, uint64_t seed)
{
    char from[PATH_BYTES], there[PATH_BYTES], name[PATH_BYTES];
    size_t n;
    bool same;
    const char *base = shape_name(shape, &n);
    snprintf(name, sizeof name, "%.*s", (int)n, base);
    TRY(config_path(from, shape));
    TRY(file_join(directory, folder, name));
    TRY(file_join(there, directory, "config.json"));
    if (!file_exists(there)) return random_model_make(shape, directory, seed);
    TRY(same_json(from, there, &same));
    return same ? NULL
                : err_new(ERR_USAGE,
                          "%s is not the config of %s; remove that directory, or name another with --directory", there,
                          from);
}
