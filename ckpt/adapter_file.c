/* From tensor names to pairs, in four steps:
 *
 *   1. every name is cut into a module and a part (A, B, their embedding forms, an extra), or refused;
 *   2. parts are sorted by module, so that partners stand side by side;
 *   3. partners become one pair, or one for each expert;
 *   4. pairs are sorted by module, and no module may occur twice.
 *
 * A scale needs the path by which PEFT knew the weight: patterns are matched against the module, but against the
 * parameter (M.weight, experts.gate_up_proj) where target_parameters named it. */
#include "ckpt/adapter_file.h"

#include "base/arena.h"
#include "base/memory.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

typedef struct AdapterStore {
    Safetensors tensors;
    Arena names;
    size_t pair_capacity;
} Store;

typedef enum { PART_A, PART_B, PART_EMBEDDING_A, PART_EMBEDDING_B } Part;

static const char *const part_names[] = {"lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B"};

/* A tensor, understood. */
typedef struct {
    const char *module;
    Part part;
    const TensorView *tensor;
} Key;

typedef struct {
    AdapterFile *file;
    size_t n, unknown;
    Key *keys;            /* [n] by module, then part */
    char *unknown_names;  /* the first few */
    size_t n_experts;     /* what the first stacked or fused tensor said; 0: none yet */
    const char *n_experts_from;
} Reader;

/* ---- names ---- */

static bool ends_with(const char *text, const char *tail)
{
    size_t n = strlen(text), t = strlen(tail);
    return n >= t && !strcmp(text + n - t, tail);
}

PRINTF(3, 4) static Err *make_name(AdapterFile *file, const char **out, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = n < 0 ? NULL : arena_alloc(&file->store->names, (size_t)n + 1);
    if (text) vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    *out = text;
    return text ? NULL : err_new(ERR_MEMORY, "out of memory for a name");
}

/* Cut the ending of a part off a name; *length is that of the module. `.default` is the adapter's name in raw files. */
static bool cut_part(const char *name, Part *part, size_t *length)
{
    static const struct {
        const char *tail;
        Part part;
    } tails[] = {
        {".lora_A.weight", PART_A},           {".lora_A.default.weight", PART_A},
        {".lora_B.weight", PART_B},           {".lora_B.default.weight", PART_B},
        {".lora_embedding_A", PART_EMBEDDING_A}, {".lora_embedding_A.default", PART_EMBEDDING_A},
        {".lora_embedding_B", PART_EMBEDDING_B}, {".lora_embedding_B.default", PART_EMBEDDING_B},
    };
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        if (!ends_with(name, tails[i].tail)) continue;
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
    if (strstr(name, ".lora_B.") && ends_with(name, ".bias"))
        return err_new(ERR_FORMAT, "%s is a bias on B (lora_bias), which graft does not read", name);
    return NULL;
}

/* Whether a name is a tensor of a module that modules_to_save lists. */
static Err *is_extra(Reader *reader, const char *name, bool *yes)
{
    const char *dot = strrchr(name, '.'), *module;
    *yes = false;
    if (!dot) return NULL;
    TRY(make_name(reader->file, &module, "%.*s", (int)(dot - name), name));
    *yes = adapter_config_lists(reader->file->config.modules_to_save, module);
    return NULL;
}

static Err *take_extra(Reader *reader, const char *name, const TensorView *tensor)
{
    AdapterFile *file = reader->file;
    if (tensor->n_dims < 1 || tensor->n_dims > 2 || tensor->bytes == 0)
        return err_new(ERR_FORMAT, "%s has %zu dimensions; expected a matrix or a vector", tensor->name, tensor->n_dims);
    file->extras[file->n_extras++] = (AdapterExtra){
        .name = name,
        .rows = tensor->n_dims == 2 ? tensor->shape[0] : 1,
        .cols = tensor->shape[tensor->n_dims - 1],
        .tensor = tensor,
    };
    return NULL;
}

static Err *take_unknown(Reader *reader, const char *name)
{
    enum { SHOWN = 4 };
    if (reader->unknown++ >= SHOWN) return NULL;
    char *longer, *before = reader->unknown_names;
    TRY(mem_format(&longer, "%s%s%s", before ? before : "", before ? ", " : "", name));
    free(before);
    reader->unknown_names = longer;
    return NULL;
}

static Err *take_tensor(Reader *reader, const TensorView *tensor)
{
    static const char PREFIX[] = "base_model.model.";
    const char *name = tensor->name;
    Part part;
    size_t length;
    bool extra;
    if (!strncmp(name, PREFIX, strlen(PREFIX))) name += strlen(PREFIX);
    if (ends_with(name, ".base_layer.weight")) return NULL; /* PEFT's copy of a base matrix */
    if (tensor->dtype != DTYPE_F32 && tensor->dtype != DTYPE_BF16 && tensor->dtype != DTYPE_F16)
        return err_new(ERR_FORMAT, "%s is %s; expected F32, BF16 or F16", tensor->name, dtype_name(tensor->dtype));
    TRY(refuse_variants(name));
    if (cut_part(name, &part, &length)) {
        Key *key = &reader->keys[reader->n++];
        *key = (Key){.part = part, .tensor = tensor};
        return make_name(reader->file, &key->module, "%.*s", (int)length, name);
    }
    TRY(is_extra(reader, name, &extra));
    return extra ? take_extra(reader, name, tensor) : take_unknown(reader, tensor->name);
}

static int by_module_and_part(const void *a, const void *b)
{
    const Key *x = a, *y = b;
    int order = strcmp(x->module, y->module);
    return order ? order : (int)x->part - (int)y->part;
}

static const Key *find_key(const Reader *reader, const char *module, Part part)
{
    Key key = {module, part, NULL};
    return reader->n ? bsearch(&key, reader->keys, reader->n, sizeof key, by_module_and_part) : NULL;
}

/* ---- scales ---- */

/* The paths by which PEFT may have known a weight; the first n count. */
typedef struct {
    const char *path[2];
    size_t n;
} Paths;

static double scale_of(const AdapterConfig *cfg, const Paths *paths, double r)
{
    double alpha = cfg->alpha;
    adapter_config_match(&cfg->alpha_pattern, paths->path, paths->n, &alpha);
    return cfg->use_rslora ? alpha / sqrt(r) : alpha / r;
}

/* Without a rank_pattern every r is the config's. With one, shapes speak: PEFT's own saving sorts its keys, after which
 * the first match is no longer the one that training used. */
static Err *check_r(const AdapterConfig *cfg, const TensorView *tensor, size_t r)
{
    if (cfg->rank_pattern.n || r == (size_t)cfg->r) return NULL;
    return err_new(ERR_FORMAT, "%s: r is %zu in the tensor, %" PRId64 " in adapter_config.json", tensor->name, r, cfg->r);
}

/* ---- pairs ---- */

static Err *add_pair(Reader *reader, const AdapterPair *pair)
{
    AdapterFile *file = reader->file;
    TRY(mem_grow(&file->pairs, &file->store->pair_capacity, file->n_pairs + 1, sizeof *file->pairs));
    file->pairs[file->n_pairs++] = *pair;
    return NULL;
}

static Err *check_dims(const TensorView *tensor, size_t n_dims)
{
    bool good = tensor->n_dims == n_dims;
    for (size_t i = 0; good && i < n_dims; i++) good = tensor->shape[i] > 0;
    if (good) return NULL;
    return err_new(ERR_FORMAT, "%s has %zu dimensions; expected %zu, none of them zero", tensor->name, tensor->n_dims,
                   n_dims);
}

static Err *r_differs(const TensorView *A, size_t r_A, const TensorView *B, size_t r_B)
{
    return err_new(ERR_FORMAT, "%s has r %zu, %s has r %zu", A->name, r_A, B->name, r_B);
}

static Err *add_embedding(Reader *reader, const char *module, const TensorView *A, const TensorView *B)
{
    TRY(check_dims(A, 2));
    TRY(check_dims(B, 2));
    size_t r = A->shape[0], vocab = A->shape[1], hidden = B->shape[0];
    if (B->shape[1] != r) return r_differs(A, r, B, B->shape[1]);
    TRY(check_r(&reader->file->config, A, r));
    Paths paths = {{module}, 1};
    AdapterPair pair = {
        .module = module, .r = r, .in = hidden, .out = vocab, .embedding = true,
        .A = {B, 0, 1, r}, .B = {A, 0, 1, vocab}, /* dE = s (B A)' = s A' B' */
        .scale = scale_of(&reader->file->config, &paths, (double)r),
    };
    return add_pair(reader, &pair);
}

/* Cut a module into `STEM.experts`, a number and a projection; false: it is not one of a named expert. */
static bool cut_expert(const char *module, size_t *stem, const char **projection)
{
    const char *dot = strrchr(module, '.'), *at = dot;
    static const char EXPERTS[] = ".experts.";
    size_t n = strlen(EXPERTS);
    if (!dot) return false;
    while (at > module && isdigit((unsigned char)at[-1])) at--;
    if (at == dot || (size_t)(at - module) < n || strncmp(at - n, EXPERTS, n) != 0) return false;
    *stem = (size_t)(at - module) - 1;
    *projection = dot + 1;
    return true;
}

/* Mixtral's names of the three, as some exporters write them. */
static const char *usual_projection(const char *name)
{
    if (!strcmp(name, "w1")) return "gate_proj";
    if (!strcmp(name, "w2")) return "down_proj";
    if (!strcmp(name, "w3")) return "up_proj";
    return name;
}

/* One pair under its own name. Of a named expert PEFT makes the fused parameter, where gate and up get 2 r together:
 * a config that says so in rank_pattern has the alpha for that. */
static Err *add_plain(Reader *reader, const char *module, const TensorView *A, const TensorView *B)
{
    const AdapterConfig *cfg = &reader->file->config;
    TRY(check_dims(A, 2));
    TRY(check_dims(B, 2));
    size_t r = A->shape[0], stem;
    if (B->shape[1] != r) return r_differs(A, r, B, B->shape[1]);
    TRY(check_r(cfg, A, r));
    AdapterPair pair = {
        .module = module, .r = r, .in = A->shape[1], .out = B->shape[0],
        .A = {A, 0, A->shape[1], 1}, .B = {B, 0, r, 1},
    };
    const char *projection, *parameter;
    double counted = (double)r, said = 0;
    Paths paths = {{module}, 1};
    if (cut_expert(module, &stem, &projection)) {
        bool down = !strcmp(usual_projection(projection), "down_proj");
        TRY(make_name(reader->file, &pair.module, "%.*s%s", (int)(projection - module), module,
                      usual_projection(projection)));
        TRY(make_name(reader->file, &parameter, "%.*s.%s", (int)stem, module, down ? "down_proj" : "gate_up_proj"));
        paths = (Paths){{pair.module, parameter}, 2};
        if (!down && adapter_config_match(&cfg->rank_pattern, &parameter, 1, &said) && said == 2 * (double)r) counted = said;
    } else {
        TRY(make_name(reader->file, &parameter, "%s.weight", module));
        if (adapter_config_lists(cfg->target_parameters, parameter)) paths.path[0] = parameter;
    }
    pair.scale = scale_of(cfg, &paths, counted);
    return add_pair(reader, &pair);
}

/* The projections that a fused parameter holds, each with its share of the rows. */
typedef struct {
    size_t n;
    const char *projection[2];
} Halves;

static const Halves gate_up = {2, {"gate_proj", "up_proj"}}, down_only = {1, {"down_proj"}};

static Err *agree_on_experts(Reader *reader, const TensorView *tensor, size_t n_experts)
{
    if (!reader->n_experts) {
        reader->n_experts = n_experts;
        reader->n_experts_from = tensor->name;
    }
    if (reader->n_experts == n_experts) return NULL;
    return err_new(ERR_FORMAT, "%s speaks of %zu experts, %s of %zu", tensor->name, n_experts, reader->n_experts_from,
                   reader->n_experts);
}

/* Fused files that PEFT wrote before 0.19.1 have in and out exchanged: A [E r][out], B [in][r E]. Where both
 * parameters are there, their shapes tell. */
static bool is_exchanged(const Reader *reader, const char *stem_experts, const char *stem_base)
{
    const Key *up_A = find_key(reader, stem_base, PART_A), *up_B = find_key(reader, stem_base, PART_B);
    const Key *down_A = find_key(reader, stem_experts, PART_A), *down_B = find_key(reader, stem_experts, PART_B);
    if (!up_A || !up_B || !down_A || !down_B) return false;
    return up_A->tensor->shape[1] == 2 * down_B->tensor->shape[0] && up_B->tensor->shape[0] == down_A->tensor->shape[1];
}

/* The parameter behind a fused key. PEFT nests one wrapper per parameter, gate_up inside and down outside; when only one
 * parameter was adapted its wrapper is the outer one, and target_parameters must say which it is. */
static Err *which_parameter(const Reader *reader, const char *module, const char *experts, const char *base, bool *down)
{
    const AdapterConfig *cfg = &reader->file->config;
    char up_path[PATH_BYTES], down_path[PATH_BYTES];
    if (snprintf(up_path, sizeof up_path, "%s.gate_up_proj", experts) >= (int)sizeof up_path ||
        snprintf(down_path, sizeof down_path, "%s.down_proj", experts) >= (int)sizeof down_path)
        return err_new(ERR_FORMAT, "name too long: %.60s...", module);
    bool lists_up = adapter_config_lists(cfg->target_parameters, up_path);
    bool lists_down = adapter_config_lists(cfg->target_parameters, down_path);
    bool both = find_key(reader, base, PART_A) && find_key(reader, experts, PART_A);
    *down = both ? !strcmp(module, experts) : lists_down;
    if (both) return NULL;
    if (!strcmp(module, base))
        return err_new(ERR_FORMAT, "%s.lora_A.weight has no companion %s.lora_A.weight", base, experts);
    if (lists_up != lists_down) return NULL;
    return err_new(ERR_FORMAT, "%s.lora_A.weight stands alone and target_parameters names %s of gate_up_proj and down_proj; "
                   "expected one", experts, lists_up ? "both" : "neither");
}

static Err *add_fused(Reader *reader, const char *module, const TensorView *A, const TensorView *B)
{
    const AdapterConfig *cfg = &reader->file->config;
    bool inner = ends_with(module, ".base_layer"), down = false;
    size_t stem = strlen(module) - (inner ? strlen(".base_layer") : 0);
    const char *experts, *base;
    TRY(make_name(reader->file, &experts, "%.*s", (int)stem, module));
    TRY(make_name(reader->file, &base, "%s.base_layer", experts));
    TRY(check_dims(A, 2));
    TRY(check_dims(B, 2));
    TRY(which_parameter(reader, module, experts, base, &down));

    Paths paths = {.n = 1};
    double said = (double)cfg->r;
    TRY(make_name(reader->file, &paths.path[0], "%s.%s", experts, down ? "down_proj" : "gate_up_proj"));
    adapter_config_match(&cfg->rank_pattern, paths.path, 1, &said);
    size_t rows = A->shape[0], r = said >= 1 && said <= (double)rows ? (size_t)said : 0;
    if (B->shape[1] != rows) return r_differs(A, rows, B, B->shape[1]);
    if (r == 0 || rows % r)
        return err_new(ERR_FORMAT, "%s has %zu rows; expected a multiple of r, %g", A->name, rows, said);
    size_t E = rows / r;
    TRY(agree_on_experts(reader, A, E));

    bool exchanged = is_exchanged(reader, experts, base);
    const Halves *halves = down ? &down_only : &gate_up;
    size_t wide = A->shape[1], high = B->shape[0], in = exchanged ? high : wide, out = exchanged ? wide : high;
    if (out % halves->n)
        return err_new(ERR_FORMAT, "%s: %zu rows; expected an even number, for gate and up", B->name, out);
    out /= halves->n;
    for (size_t e = 0; e < E; e++) {
        for (size_t h = 0; h < halves->n; h++) {
            AdapterSlice rows_of_e = {A, e * r * wide, wide, 1}, columns_of_e = {B, e, rows, E};
            AdapterPair pair = {.r = r, .in = in, .out = out, .scale = scale_of(cfg, &paths, (double)r)};
            if (exchanged) {
                pair.A = (AdapterSlice){B, e, E, rows};
                pair.B = (AdapterSlice){A, rows_of_e.first + h * out, 1, wide};
            } else {
                pair.A = rows_of_e;
                pair.B = columns_of_e;
                pair.B.first += h * out * rows;
            }
            TRY(make_name(reader->file, &pair.module, "%s.%zu.%s", experts, e, halves->projection[h]));
            TRY(add_pair(reader, &pair));
        }
    }
    return NULL;
}

/* A [E or 1][r][in], B [E or 1][out][r] under experts.PROJECTION, as SGLang and Megatron exporters stack them. */
static Err *add_stacked(Reader *reader, const char *module, const TensorView *A, const TensorView *B)
{
    const AdapterConfig *cfg = &reader->file->config;
    const char *dot = strrchr(module, '.'), *projection = usual_projection(dot + 1);
    TRY(check_dims(A, 3));
    TRY(check_dims(B, 3));
    size_t r = A->shape[1], in = A->shape[2], out = B->shape[1];
    size_t E = A->shape[0] > B->shape[0] ? A->shape[0] : B->shape[0];
    if (B->shape[2] != r) return r_differs(A, r, B, B->shape[2]);
    if ((A->shape[0] != E && A->shape[0] != 1) || (B->shape[0] != E && B->shape[0] != 1))
        return err_new(ERR_FORMAT, "%s has %zu experts, %s has %zu", A->name, A->shape[0], B->name, B->shape[0]);
    TRY(check_r(cfg, A, r));
    TRY(agree_on_experts(reader, A, E));
    bool fused = !strcmp(projection, "gate_up_proj");
    Halves alone = {1, {projection}};
    const Halves *halves = fused ? &gate_up : &alone;
    if (out % halves->n)
        return err_new(ERR_FORMAT, "%s: %zu rows; expected an even number, for gate and up", B->name, out);
    out /= halves->n;
    for (size_t e = 0; e < E; e++) {
        for (size_t h = 0; h < halves->n; h++) {
            AdapterPair pair = {.r = r, .in = in, .out = out};
            pair.A = (AdapterSlice){A, (A->shape[0] == 1 ? 0 : e) * r * in, in, 1};
            pair.B = (AdapterSlice){B, ((B->shape[0] == 1 ? 0 : e) * halves->n + h) * out * r, r, 1};
            TRY(make_name(reader->file, &pair.module, "%.*s.%zu.%s", (int)(dot - module), module, e, halves->projection[h]));
            Paths paths = {{pair.module, module}, 2};
            pair.scale = scale_of(cfg, &paths, (double)r);
            TRY(add_pair(reader, &pair));
        }
    }
    return NULL;
}

static bool is_stacked(const char *module, const TensorView *A)
{
    const char *dot = strrchr(module, '.');
    static const char EXPERTS[] = ".experts";
    size_t n = strlen(EXPERTS), stem = dot ? (size_t)(dot - module) : 0;
    return A->n_dims == 3 && stem >= n && !strncmp(module + stem - n, EXPERTS, n);
}

static Err *add_partners(Reader *reader, const Key *A, const Key *B)
{
    const char *module = A->module;
    if (A->part == PART_EMBEDDING_A) return add_embedding(reader, module, A->tensor, B->tensor);
    if (ends_with(module, ".experts") || ends_with(module, ".experts.base_layer"))
        return add_fused(reader, module, A->tensor, B->tensor);
    if (is_stacked(module, A->tensor)) return add_stacked(reader, module, A->tensor, B->tensor);
    return add_plain(reader, module, A->tensor, B->tensor);
}

static Err *add_all(Reader *reader)
{
    for (size_t i = 0; i < reader->n; i += 2) {
        const Key *A = &reader->keys[i], *B = i + 1 < reader->n ? A + 1 : NULL;
        if (B && !by_module_and_part(A, B))
            return err_new(ERR_FORMAT, "%s and %s are the same part", A->tensor->name, B->tensor->name);
        bool first = A->part == PART_A || A->part == PART_EMBEDDING_A;
        if (!first || !B || strcmp(A->module, B->module) != 0 || B->part != A->part + 1)
            return err_new(ERR_FORMAT, "%s has no partner %s.%s", A->tensor->name, A->module,
                           part_names[first ? A->part + 1 : A->part - 1]);
        TRY(add_partners(reader, A, B));
    }
    return NULL;
}

/* ---- the directory ---- */

static int by_module(const void *a, const void *b)
{
    return strcmp(((const AdapterPair *)a)->module, ((const AdapterPair *)b)->module);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const AdapterExtra *)a)->name, ((const AdapterExtra *)b)->name);
}

static Err *finish(AdapterFile *file)
{
    if (file->n_pairs) qsort(file->pairs, file->n_pairs, sizeof *file->pairs, by_module);
    if (file->n_extras) qsort(file->extras, file->n_extras, sizeof *file->extras, by_name);
    for (size_t i = 1; i < file->n_pairs; i++)
        if (!by_module(&file->pairs[i - 1], &file->pairs[i]))
            return err_new(ERR_FORMAT, "%s has two pairs", file->pairs[i].module);
    for (size_t i = 1; i < file->n_extras; i++)
        if (!by_name(&file->extras[i - 1], &file->extras[i]))
            return err_new(ERR_FORMAT, "%s is there twice", file->extras[i].name);
    if (file->config.modules_to_save && !file->n_extras)
        return err_new(ERR_FORMAT, "adapter_config.json has modules_to_save, but no tensor is of such a module");
    return file->n_pairs || file->n_extras ? NULL : err_new(ERR_FORMAT, "there is no LoRA tensor in it");
}

static Err *read_tensors(AdapterFile *file)
{
    const Safetensors *tensors = &file->store->tensors;
    Reader reader = {.file = file};
    Err *err = mem_new(&reader.keys, tensors->n_tensors, sizeof *reader.keys);
    if (!err) err = mem_new(&file->extras, tensors->n_tensors, sizeof *file->extras);
    for (size_t i = 0; !err && i < tensors->n_tensors; i++) err = take_tensor(&reader, &tensors->tensors[i]);
    if (!err && reader.unknown)
        err = err_new(ERR_FORMAT, "%zu tensors are not LoRA as graft knows it: %s%s", reader.unknown, reader.unknown_names,
                      reader.unknown > 4 ? ", ..." : "");
    if (!err && reader.n) qsort(reader.keys, reader.n, sizeof *reader.keys, by_module_and_part);
    if (!err) err = add_all(&reader);
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
        return err_new(ERR_FORMAT, "adapter_model.bin is a pickle, which only Python can read; save the adapter again with "
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
    if (err) adapter_file_close(file);
    else *out = file;
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
    free(file->pairs);
    free(file->extras);
    free(file);
}

const AdapterPair *adapter_file_find(const AdapterFile *file, const char *module)
{
    AdapterPair key = {.module = module};
    return file->n_pairs ? bsearch(&key, file->pairs, file->n_pairs, sizeof key, by_module) : NULL;
}

static void read_slice(const AdapterSlice *slice, size_t rows, size_t cols, float *out)
{
    DType dtype = slice->tensor->dtype;
    size_t bytes = dtype_bytes(dtype);
    const unsigned char *data = slice->tensor->data;
    for (size_t i = 0; i < rows; i++, out += cols) {
        const unsigned char *row = data + (slice->first + i * slice->row_step) * bytes;
        if (slice->col_step == 1) dtype_widen(cols, out, dtype, row);
        else
            for (size_t j = 0; j < cols; j++) dtype_widen(1, out + j, dtype, row + j * slice->col_step * bytes);
    }
}

void adapter_file_read_pair(const AdapterPair *pair, float *A, float *B)
{
    read_slice(&pair->A, pair->r, pair->in, A);
    read_slice(&pair->B, pair->out, pair->r, B);
}

void adapter_file_read_extra(const AdapterExtra *extra, float *data)
{
    dtype_widen(extra->rows * extra->cols, data, extra->tensor->dtype, extra->tensor->data);
}
