/* A random model to measure and to test with: config.json, and every tensor that it asks for under its published name.
 *
 *     build/bench/make_model S build/bench/S              configs/S.json
 *     build/bench/make_model my/config.json DIR --seed 3
 *     build/bench/make_model G1 DIR --fp8                 matrices in blocks of 128 x 128, as FP8 repositories have them
 *
 * Matrices are normal with deviation 1 / sqrt(columns), so that a normed row keeps its size through each of them; the
 * embedding's is 1, so that tokens differ more than their contexts and routing is spread; norms lie near 1;
 * e_score_correction_bias is uniform +-0.05. A value is a function of (seed, tensor, index). Tensors are made and
 * written a piece at a time, in shards of about 1 GB. */
#include "base/memory.h"
#include "base/options.h"
#include "base/rng.h"
#include "model/config.h"
#include "tensor/safetensors.h"
#include "tensor/weight.h"

#include <math.h>
#include <stdlib.h>

enum { SHARD_BYTES = 1000000000 };

typedef struct {
    int64_t seed;
    bool fp8, help;
} Settings;

static const Option options[] = {
    {"seed", OPT_INT, offsetof(Settings, seed), .preset = "0", .min = 0, .max = 1e15, .help = "of every value"},
    {"fp8", OPT_FLAG, offsetof(Settings, fp8), .help = "quantise what FP8 repositories quantise"},
    {"help", OPT_FLAG, offsetof(Settings, help), .help = "this list"},
    {0}};

typedef struct {
    uint64_t seed;
    bool fp8;
    size_t n, capacity;
    TensorView *views; /* names owned */
} List;

/* ---- values --------------------------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Mean 0, deviation 1: the sum of four uniform numbers is near enough to normal, and quick. */
static float bell(uint64_t key, uint64_t index)
{
    uint64_t bits = rng_bits(key, index);
    int64_t sum = 0;
    for (int i = 0; i < 4; i++) sum += (int64_t)(bits >> (16 * i) & 0xFFFF);
    return (float)(sum - 2 * 0xFFFF) * 2.6428759e-5f; /* sqrt(3) / 65536 */
}

static const char scales[] = "_scale_inv";
static const float code_deviation = 64; /* codes use most of E4M3's range; a block's factor takes it out again */

static Err *fill(void *context, const TensorView *view, size_t at, size_t bytes, void *out)
{
    const List *list = context;
    uint64_t key = rng_name(list->seed, view->name);
    size_t size = dtype_bytes(view->dtype), n = bytes / size, first = at / size;
    bool vector = view->n_dims == 1, bias = ends_with(view->name, ".bias"), table = strcmp(view->name, "model.embed_tokens.weight") == 0;
    bool factors = ends_with(view->name, scales);
    float deviation = factors ? 1 / (code_deviation * sqrtf((float)(view->shape[1] * WEIGHT_BLOCK))) : table ? 1 : vector ? 0.02f : (float)(1 / sqrt((double)view->shape[1])), mean = vector && !bias ? 1 : 0;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        if (view->dtype == DTYPE_F32) {
            float value = factors ? deviation : (rng_uniform(key, first + i) - 0.5f) * 0.1f;
            memcpy((char *)out + 4 * i, &value, 4);
        } else if (view->dtype == DTYPE_F8_E4M3) {
            ((uint8_t *)out)[i] = f8_e4m3_from_f32(code_deviation * bell(key, first + i));
        } else {
            uint16_t value = bf16_from_f32(mean + deviation * bell(key, first + i));
            memcpy((char *)out + 2 * i, &value, 2);
        }
    }
    return NULL;
}

/* ---- files ---------------------------------------------------------------------------------------------------- */

static Err *add_view(List *list, const char *name, const char *suffix, DType dtype, size_t n_dims, size_t rows, size_t cols)
{
    TRY(mem_grow(&list->views, &list->capacity, list->n + 1, sizeof *list->views));
    TensorView *view = &list->views[list->n];
    *view = (TensorView){.dtype = dtype, .n_dims = n_dims, .shape = {n_dims == 1 ? cols : rows, cols}, .bytes = rows * cols * dtype_bytes(dtype)};
    TRY(mem_format((char **)(void *)&view->name, "%s%s", name, suffix));
    list->n++;
    return NULL;
}

static Err *list_tensor(void *context, const char *name, const TensorSpec *spec)
{
    List *list = context;
    bool fp8 = list->fp8 && spec->may_fp8;
    TRY(add_view(list, name, "", spec->must_f32 ? DTYPE_F32 : fp8 ? DTYPE_F8_E4M3 : DTYPE_BF16, spec->vector ? 1 : 2, spec->rows, spec->cols));
    if (!fp8) return NULL;
    return add_view(list, name, scales, DTYPE_F32, 2, (spec->rows + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK, (spec->cols + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK);
}

/* Where the shard that begins at tensor `at` ends. */
static size_t shard_end(const List *list, size_t at)
{
    size_t bytes = list->views[at++].bytes;
    while (at < list->n && bytes + list->views[at].bytes <= SHARD_BYTES) bytes += list->views[at++].bytes;
    return at;
}

static size_t count_shards(const List *list)
{
    size_t n = 0;
    for (size_t at = 0; at < list->n; n++) at = shard_end(list, at);
    return n;
}

static Err *write_index(const char *directory, Json *map, size_t bytes)
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

static Err *write_shards(const char *directory, List *list)
{
    size_t shards = count_shards(list), bytes = 0, elements = 0, end;
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
            elements += list->views[i].bytes / dtype_bytes(list->views[i].dtype);
        }
        err = safetensors_write_filled(path, list->views + at, end - at, fill, list);
    }
    if (err || shards == 1) json_free(map);
    else err = write_index(directory, map, bytes);
    if (!err) printf("%s: %.1f M parameters, %.3f GB, %zu tensors in %zu files\n", directory, (double)elements / 1e6, (double)bytes / 1e9, list->n, shards);
    return err;
}

/* The shape's config, which says so when matrices are FP8. Owner of *text: the caller. */
static Err *config_text(char **text, const char *from, bool fp8)
{
    size_t bytes;
    Json *root;
    if (!fp8) return file_read(text, &bytes, from);
    TRY(json_read_file(&root, from));
    Json *how = json_new_object(), *block = json_new_array();
    json_add_string(how, "quant_method", "fp8");
    json_add_string(how, "fmt", "e4m3");
    json_add_string(how, "activation_scheme", "dynamic");
    for (int i = 0; i < 2; i++) json_add_number(block, NULL, WEIGHT_BLOCK);
    json_add(how, "weight_block_size", block);
    json_add(root, "quantization_config", how);
    Err *err = json_print(root, true, text);
    json_free(root);
    return err;
}

/* The file itself, or configs/SHAPE.json. */
static Err *config_path(char path[PATH_BYTES], const char *shape)
{
    char name[PATH_BYTES];
    if (ends_with(shape, ".json")) {
        snprintf(path, PATH_BYTES, "%s", shape);
        return NULL;
    }
    snprintf(name, sizeof name, "%s.json", shape);
    return file_join(path, "configs", name);
}

static Err *make(const char *shape, const char *directory, List *list)
{
    char from[PATH_BYTES], to[PATH_BYTES], *text = NULL;
    ModelConfig config;
    TRY(config_path(from, shape));
    TRY(model_config_read(&config, from));
    Err *err = model_config_tensors(&config, false, list_tensor, list);
    if (!err) err = file_make_directory(directory);
    if (!err) err = write_shards(directory, list);
    if (!err) err = config_text(&text, from, list->fp8); /* last: a directory with a config is whole */
    if (!err) err = file_join(to, directory, "config.json");
    if (!err) err = file_write(to, text, strlen(text));
    free(text);
    model_config_free(&config);
    return err;
}

static Err *run(int argc, char **argv)
{
    Settings settings = {0};
    List list = {0};
    const char *words[2];
    size_t n_words;
    TRY(options_defaults(&settings, options));
    TRY(options_arguments(&settings, options, argc, argv, words, 2, &n_words));
    if (settings.help || n_words < 2) {
        printf("make_model SHAPE|CONFIG.json DIR [options]\n");
        options_help(stdout, options);
        return settings.help ? NULL : err_new(ERR_USAGE, "which shape, and where?");
    }
    list.seed = (uint64_t)settings.seed;
    list.fp8 = settings.fp8;
    Err *err = make(words[0], words[1], &list);
    for (size_t i = 0; i < list.n; i++) free((char *)(size_t)list.views[i].name);
    free(list.views);
    return err;
}

int main(int argc, char **argv) { return err_report("make_model", run(argc - 1, argv + 1)); }
