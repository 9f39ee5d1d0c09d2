/* One layout for all consumers (`serve`): per-expert names; gate_proj, up_proj and down_proj in target_modules for vLLM
 * and SGLang; and for PEFT, which takes those three to mean routed experts alone, the dense and shared matrices again as
 * target_parameters. Older readers know one r and one alpha for all modules, so there is one of each.
 *
 * Both files are written into a draft directory, read back through adapter_file_open and compared. Then the old config goes,
 * the tensors come, and the config comes last: whoever looks finds the old adapter, none, or the new one. */
#include "base/arena.h"
#include "base/memory.h"
#include "ckpt/adapter_file.h"

#include <ctype.h>
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
    float *zeros;        /* as many as the largest matrix has */
    bool has_experts;
} Writer;

static const char CONFIG_NAME[] = "adapter_config.json", TENSORS_NAME[] = "adapter_model.safetensors";

/* ---- what is written ---- */

/* The factor on B that makes the config's scale this pair's; 1 where they agree but for rounding. */
static double fold_of(const Writer *w, const AdapterOutLora *lora)
{
    double factor = lora->scale / (w->alpha / (double)w->r);
    return fabs(factor - 1) < 1e-12 ? 1 : factor;
}

static float round_to(DType dtype, double x)
{
    float y = (float)x;
    return dtype == DTYPE_BF16 ? bf16_to_f32(bf16_from_f32(y)) : y;
}

/* A as the file shall have it: zero rows below, up to the common r. */
static void final_A(const Writer *w, const AdapterOutLora *lora, float *A)
{
    size_t given = lora->A ? lora->r * lora->in : 0;
    for (size_t i = 0; i < given; i++) A[i] = round_to(w->out->dtype, (double)lora->A[i]);
    for (size_t i = given; i < w->r * lora->in; i++) A[i] = 0;
}

/* B as the file shall have it: scaled, zero columns at the right. */
static void final_B(const Writer *w, const AdapterOutLora *lora, float *B)
{
    double fold = fold_of(w, lora);
    for (size_t o = 0; o < lora->out; o++) {
        for (size_t j = 0; j < w->r; j++, B++)
            *B = lora->B && j < lora->r ? round_to(w->out->dtype, (double)lora->B[o * lora->r + j] * fold) : 0;
    }
}

/* ---- checks ---- */

static const char *leaf_of(const char *module)
{
    const char *dot = strrchr(module, '.');
    return dot ? dot + 1 : module;
}

/* The three projections in the order of the alphabet; 3 for another name. */
static size_t projection_of(const char *leaf)
{
    static const char *const names[] = {"down_proj", "gate_proj", "up_proj"};
    size_t i = 0;
    while (i < 3 && strcmp(leaf, names[i]) != 0) i++;
    return i;
}

/* A routed expert's matrix. */
typedef struct {
    const char *module;
    size_t stem, expert, projection;
} Routed;

static bool is_routed(const char *module, Routed *routed)
{
    const char *at = strstr(module, ".experts.");
    if (!at || !isdigit((unsigned char)at[strlen(".experts.")])) return false;
    char *end;
    *routed = (Routed){.module = module, .stem = (size_t)(at - module) + strlen(".experts")};
    routed->expert = strtoull(at + strlen(".experts."), &end, 10);
    routed->projection = *end == '.' ? projection_of(end + 1) : 3;
    return true;
}

static int by_expert(const void *a, const void *b)
{
    const Routed *x = a, *y = b;
    size_t shorter = x->stem < y->stem ? x->stem : y->stem;
    int order = strncmp(x->module, y->module, shorter);
    if (order) return order;
    if (x->stem != y->stem) return x->stem < y->stem ? -1 : 1;
    if (x->expert != y->expert) return x->expert < y->expert ? -1 : 1;
    return (x->projection > y->projection) - (x->projection < y->projection);
}

/* PEFT stacks a layer's experts without reading their numbers, vLLM and llama.cpp want every matrix: so do we. */
static Err *check_experts(Writer *w)
{
    size_t n = 0;
    Routed *list;
    Err *err = NULL;
    TRY(mem_new(&list, w->out->n_loras, sizeof *list));
    for (size_t i = 0; i < w->out->n_loras; i++) n += is_routed(w->out->loras[i].module, &list[n]);
    if (n) qsort(list, n, sizeof *list, by_expert);
    w->has_experts = n > 0;
    for (size_t i = 0, begin = 0; !err && i < n; i++) {
        bool last = i + 1 == n || list[i + 1].stem != list[i].stem ||
                    strncmp(list[i + 1].module, list[i].module, list[i].stem) != 0;
        size_t place = i - begin;
        bool good = list[i].expert == place / 3 && list[i].projection == place % 3 && (!last || place % 3 == 2);
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

static Err *check_pair(const AdapterOutLora *lora)
{
    if (lora->r == 0 || lora->in == 0 || lora->out == 0)
        return err_new(ERR_USAGE, "%s: r %zu, in %zu, out %zu; expected none to be zero", lora->module, lora->r,
                       lora->in, lora->out);
    if (!isfinite(lora->scale) || lora->scale <= 0)
        return err_new(ERR_USAGE, "%s: the scale is %g; expected a positive number", lora->module, lora->scale);
    if (!strcmp(leaf_of(lora->module), "embed_tokens"))
        return err_new(ERR_USAGE, "%s: an embedding's pair cannot be written", lora->module);
    if (!lora->A != !lora->B) return err_new(ERR_USAGE, "%s: one of A and B is missing", lora->module);
    return NULL;
}

static Err *check_and_settle(Writer *w)
{
    const AdapterOut *out = w->out;
    if (out->dtype != DTYPE_F32 && out->dtype != DTYPE_BF16)
        return err_new(ERR_USAGE, "an adapter is written as F32 or BF16, not %s", dtype_name(out->dtype));
    if (out->n_loras + out->n_extras == 0) return err_new(ERR_USAGE, "there is nothing to write");
    w->r = 1;
    for (size_t i = 0; i < out->n_loras; i++) {
        TRY(check_pair(&out->loras[i]));
        if (out->loras[i].r > w->r) w->r = out->loras[i].r;
    }
    w->alpha = (double)w->r * (out->n_loras ? out->loras[0].scale : 1);
    if (fabs(w->alpha - round(w->alpha)) < 1e-9 * w->alpha)
        w->alpha = round(w->alpha); /* a scale of 0.1 is not quite one */
    return check_experts(w);
}

/* ---- tensors ---- */

static Err *room(Writer *w, size_t bytes, void *out)
{
    void *block = arena_alloc(&w->arena, bytes);
    memcpy(out, &block, sizeof block);
    return block ? NULL : err_new(ERR_MEMORY, "out of memory: %zu bytes of a tensor", bytes);
}

static Err *add_tensor(Writer *w, const char *name, const char *ending, DType dtype, size_t rows, size_t cols,
                       const void *data)
{
    TensorView *tensor = &w->tensors[w->n++];
    size_t length = strlen("base_model.model.") + strlen(name) + strlen(ending) + 1;
    char *full;
    TRY(room(w, length, &full));
    snprintf(full, length, "base_model.model.%s%s", name, ending);
    *tensor = (TensorView){.name = full, .dtype = dtype, .n_dims = 2, .shape = {rows, cols}, .data = data};
    tensor->bytes = rows * cols * dtype_bytes(dtype);
    return NULL;
}

/* Floats that are final already, as the bytes of the file's dtype. */
static Err *narrow(Writer *w, DType dtype, size_t n, const float *x, const void **data)
{
    uint16_t *halves;
    *data = x;
    if (dtype == DTYPE_F32) return NULL;
    TRY(room(w, n * sizeof *halves, &halves));
    for (size_t i = 0; i < n; i++) halves[i] = bf16_from_f32(x[i]);
    *data = halves;
    return NULL;
}

static Err *add_pair(Writer *w, const AdapterOutLora *lora, float *scratch)
{
    DType dtype = w->out->dtype;
    const void *A = lora->A ? (const void *)lora->A : w->zeros, *B = lora->B ? (const void *)lora->B : w->zeros;
    bool as_given = !lora->A || (dtype == DTYPE_F32 && lora->r == w->r && fold_of(w, lora) == 1);
    if (!as_given) {
        float *x = scratch;
        size_t n_A = w->r * lora->in, n_B = lora->out * w->r;
        if (dtype == DTYPE_F32) TRY(room(w, n_A * sizeof *x, &x));
        final_A(w, lora, x);
        TRY(narrow(w, dtype, n_A, x, &A));
        if (dtype == DTYPE_F32) TRY(room(w, n_B * sizeof *x, &x));
        final_B(w, lora, x);
        TRY(narrow(w, dtype, n_B, x, &B));
    }
    TRY(add_tensor(w, lora->module, ".lora_A.weight", dtype, w->r, lora->in, A));
    return add_tensor(w, lora->module, ".lora_B.weight", dtype, lora->out, w->r, B);
}

static DType dtype_of_extra(const Writer *w, const AdapterOutExtra *extra)
{
    return extra->rows == 1 ? DTYPE_F32 : w->out->dtype;
}

static Err *add_extra(Writer *w, const AdapterOutExtra *extra)
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
static size_t largest(const Writer *w)
{
    size_t n = 1;
    for (size_t i = 0; i < w->out->n_loras; i++) {
        const AdapterOutLora *lora = &w->out->loras[i];
        size_t wider = lora->in > lora->out ? lora->in : lora->out;
        if (wider * w->r > n) n = wider * w->r;
    }
    return n;
}

static Err *add_tensors(Writer *w)
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
    for (size_t i = 0; !err && i < out->n_loras; i++) err = add_pair(w, &out->loras[i], scratch);
    free(scratch);
    return err;
}

/* ---- adapter_config.json ---- */

/* Add a text to an array of texts that stays sorted and without doubles. */
static Err *add_name(const char ***names, size_t *n, size_t *capacity, const char *name)
{
    size_t i = 0;
    while (i < *n && strcmp((*names)[i], name) < 0) i++;
    if (i < *n && !strcmp((*names)[i], name)) return NULL;
    TRY(mem_grow(names, capacity, *n + 1, sizeof **names));
    memmove(*names + i + 1, *names + i, (*n - i) * sizeof **names);
    (*names)[i] = name;
    ++*n;
    return NULL;
}

/* "mlp.shared_experts.gate_proj.weight": what stands after the layer's number, so that one entry names all layers. */
static Err *parameter_name(Writer *w, const char *module, const char **name)
{
    char *text;
    const char *tail = strstr(module, ".mlp.");
    tail = tail ? tail + 1 : module;
    TRY(room(w, strlen(tail) + strlen(".weight") + 1, &text));
    sprintf(text, "%s.weight", tail);
    *name = text;
    return NULL;
}

static Json *array_of(const char *const *names, size_t n)
{
    Json *array = json_new_array();
    for (size_t i = 0; i < n; i++) json_add_string(array, NULL, names[i]);
    return array;
}

/* Which names go into which list. */
static Err *targets(Writer *w, Json **modules, Json **parameters)
{
    const char **in_modules = NULL, **in_parameters = NULL, *name;
    size_t n_modules = 0, n_parameters = 0, capacity_modules = 0, capacity_parameters = 0;
    Err *err = NULL;
    for (size_t i = 0; !err && i < w->out->n_loras; i++) {
        const char *module = w->out->loras[i].module, *leaf = leaf_of(module);
        Routed routed;
        bool router = !strcmp(leaf, "gate"), two_dimensional = router || projection_of(leaf) < 3;
        if (is_routed(module, &routed) || !two_dimensional) {
            err = add_name(&in_modules, &n_modules, &capacity_modules, leaf);
            continue;
        }
        err = parameter_name(w, module, &name);
        if (!err) err = add_name(&in_parameters, &n_parameters, &capacity_parameters, name);
    }
    *modules = array_of(in_modules, n_modules);
    *parameters = array_of(in_parameters, n_parameters);
    free(in_modules);
    free(in_parameters);
    return err;
}

/* As Python's json.dump(indent=2) prints it; our keys need no escapes. */
static Err *print_json(FILE *stream, const Json *value, int depth)
{
    JsonKind kind = json_kind(value);
    if ((kind == JSON_OBJECT || kind == JSON_ARRAY) && json_count(value)) {
        fputs(kind == JSON_OBJECT ? "{" : "[", stream);
        for (const Json *child = json_first(value); child; child = json_next(child)) {
            fprintf(stream, "%s\n%*s", child == json_first(value) ? "" : ",", 2 * depth + 2, "");
            if (kind == JSON_OBJECT) fprintf(stream, "\"%s\": ", json_key(child));
            TRY(print_json(stream, child, depth + 1));
        }
        fprintf(stream, "\n%*s%s", 2 * depth, "", kind == JSON_OBJECT ? "}" : "]");
        return NULL;
    }
    char *text;
    TRY(json_print(value, false, &text));
    fputs(text, stream);
    free(text);
    return NULL;
}

/* Keys in the order of the alphabet, like PEFT's. */
static Err *write_config(Writer *w, const char *path)
{
    Json *root = json_new_object(), *modules = NULL, *parameters = NULL, *saved = NULL;
    char *text = NULL;
    size_t bytes;
    Err *err = targets(w, &modules, &parameters);
    if (w->out->n_extras) saved = array_of((const char *[]){"gate"}, 1);
    json_add(root, "alpha_pattern", json_new_object());
    if (w->out->base_model)
        json_add_string(root, "base_model_name_or_path", w->out->base_model);
    else
        json_add_null(root, "base_model_name_or_path");
    json_add_string(root, "bias", "none");
    json_add_bool(root, "fan_in_fan_out", false);
    json_add_bool(root, "inference_mode", true);
    json_add_bool(root, "init_lora_weights", true);
    json_add_number(root, "lora_alpha", w->alpha);
    json_add_number(root, "lora_dropout", 0);
    if (saved)
        json_add(root, "modules_to_save", saved);
    else
        json_add_null(root, "modules_to_save");
    json_add_string(root, "peft_type", "LORA");
    json_add_number(root, "r", (double)w->r);
    json_add(root, "rank_pattern", json_new_object());
    json_add(root, "target_modules", modules);
    json_add(root, "target_parameters", parameters);
    json_add_string(root, "task_type", "CAUSAL_LM");
    json_add_bool(root, "use_dora", false);
    json_add_bool(root, "use_rslora", false);
    FILE *stream = err ? NULL : open_memstream(&text, &bytes);
    if (!err && !stream) err = err_new(ERR_MEMORY, "out of memory for %s", CONFIG_NAME);
    if (!err) err = print_json(stream, root, 0);
    err = err_first(err, file_close(&stream, CONFIG_NAME));
    if (!err) err = file_write(path, text, bytes);
    free(text);
    json_free(root);
    return err;
}

/* ---- the proof ---- */

static Err *differs(const char *name, const char *what)
{
    return err_new(ERR_FORMAT, "%s was read back with another %s than was written", name, what);
}

static Err *compare_pair(const Writer *w, const AdapterFile *file, const AdapterOutLora *lora, float *expected,
                         float *A, float *B)
{
    const AdapterLora *found = adapter_file_find(file, lora->module);
    if (!found) return err_new(ERR_FORMAT, "%s was written and is not found", lora->module);
    if (found->r != w->r || found->in != lora->in || found->out != lora->out) return differs(lora->module, "shape");
    double scale = lora->scale / fold_of(w, lora); /* where B took a factor, the rest is the common scale */
    if (fabs(found->scale / scale - 1) > 1e-9) return differs(lora->module, "scale");
    adapter_file_read_lora(found, A, B);
    final_A(w, lora, expected);
    if (memcmp(expected, A, w->r * lora->in * sizeof *A) != 0) return differs(lora->module, "A");
    final_B(w, lora, expected);
    return memcmp(expected, B, lora->out * w->r * sizeof *B) ? differs(lora->module, "B") : NULL;
}

static Err *compare_extra(const Writer *w, const AdapterFile *file, const AdapterOutExtra *extra)
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
    return err_new(ERR_FORMAT, "%s was written and is not found", extra->name);
}

static Err *compare(const Writer *w, const char *directory)
{
    AdapterFile *file;
    float *buffers[3] = {NULL};
    TRY(adapter_file_open(&file, directory));
    Err *err = NULL;
    if (file->n_loras != w->out->n_loras || file->n_extras != w->out->n_extras)
        err = err_new(ERR_FORMAT, "%zu pairs and %zu other weights were read back; %zu and %zu were written",
                      file->n_loras, file->n_extras, w->out->n_loras, w->out->n_extras);
    for (int i = 0; !err && i < 3; i++) err = mem_new(&buffers[i], largest(w), sizeof **buffers);
    for (size_t i = 0; !err && i < w->out->n_loras; i++)
        err = compare_pair(w, file, &w->out->loras[i], buffers[0], buffers[1], buffers[2]);
    for (size_t i = 0; !err && i < w->out->n_extras; i++) err = compare_extra(w, file, &w->out->extras[i]);
    for (int i = 0; i < 3; i++) free(buffers[i]);
    adapter_file_close(file);
    return err;
}

/* ---- the directory ---- */

/* The two files, in one directory. */
typedef struct {
    char directory[PATH_BYTES], config[PATH_BYTES], tensors[PATH_BYTES];
} Place;

static Err *place_in(Place *place, const char *directory)
{
    if (snprintf(place->directory, PATH_BYTES, "%s", directory) >= PATH_BYTES) return err_new(ERR_IO, "path too long");
    TRY(file_join(place->config, directory, CONFIG_NAME));
    return file_join(place->tensors, directory, TENSORS_NAME);
}

static void remove_place(const Place *place)
{
    unlink(place->config);
    unlink(place->tensors);
    rmdir(place->directory);
}

static Err *move(const Place *draft, const Place *target)
{
    bool made = !file_exists(target->directory);
    TRY(file_make_directory(target->directory));
    Err *err = NULL;
    if (file_exists(target->config) && unlink(target->config)) err = err_errno("remove %s", target->config);
    if (!err) err = file_replace(draft->tensors, target->tensors);
    if (!err) err = file_replace(draft->config, target->config);
    if (err && made) remove_place(target);
    return err;
}

Err *adapter_file_write(const char *directory, const AdapterOut *out)
{
    Writer w = {.out = out};
    Place target, draft;
    char name[PATH_BYTES];
    bool drafted = false;
    Err *err = check_and_settle(&w);
    if (!err) err = place_in(&target, directory);
    if (!err) err = file_draft_name(name, directory);
    if (!err) err = place_in(&draft, name);
    if (!err) drafted = !(err = file_make_directory(draft.directory));
    if (!err) err = add_tensors(&w);
    if (!err) err = safetensors_write(draft.tensors, w.tensors, w.n);
    if (!err) err = write_config(&w, draft.config);
    if (!err) err = compare(&w, draft.directory);
    if (!err) err = move(&draft, &target);
    if (drafted) remove_place(&draft);
    arena_free(&w.arena);
    free(w.tensors);
    free(w.zeros);
    return err_wrap(err, "write adapter %s", directory);
}
