/* One function for each layout of ckpt/adapter_file.h: plain, embedding, fused and stacked. A scale depends on the path
 * by which PEFT knew the weight: patterns are matched against the module, but against the parameter (M.weight,
 * experts.gate_up_proj) where target_parameters named it.
 * Source: PEFT 0.21, tuners/lora/layer.py (ParamWrapper), utils/other.py (get_pattern_key). */
#include "ckpt/adapter_layouts.h"

#include "base/memory.h"
#include "base/suffix.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char *const part_names[] = {"lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B"};

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

/* Without a rank_pattern every r is that of the config. With one, r is read from the shapes: PEFT sorts the keys of
 * rank_pattern when it saves, and then the first match need not be the one that training used. */
static Err *check_r(const AdapterConfig *cfg, const TensorView *tensor, size_t r)
{
    if (cfg->rank_pattern.n || r == (size_t)cfg->r) return NULL;
    return err_new(ERR_FORMAT, "%s: r is %zu in the tensor, %" PRId64 " in adapter_config.json", tensor->name, r,
                   cfg->r);
}

/* ---- LoRA modules ---- */

static Err *add_lora(AdapterReader *reader, const AdapterLora *lora)
{
    AdapterFile *file = reader->file;
    TRY(mem_grow(&file->loras, &file->store->lora_capacity, file->n_loras + 1, sizeof *file->loras));
    file->loras[file->n_loras++] = *lora;
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

static Err *add_embedding(AdapterReader *reader, const char *module, const TensorView *A, const TensorView *B)
{
    TRY(check_dims(A, 2));
    TRY(check_dims(B, 2));
    size_t r = A->shape[0], vocab = A->shape[1], hidden = B->shape[0];
    if (B->shape[1] != r) return r_differs(A, r, B, B->shape[1]);
    TRY(check_r(&reader->file->config, A, r));
    Paths paths = {{module}, 1};
    AdapterLora lora = {
        .module = module,
        .r = r,
        .in = hidden,
        .out = vocab,
        .embedding = true,
        .A = {B, 0, 1, r},
        .B = {A, 0, 1, vocab}, /* dE = s (B A)' = s A' B' */
        .scale = scale_of(&reader->file->config, &paths, (double)r),
    };
    return add_lora(reader, &lora);
}

/* Split a module into `STEM.experts`, a number and a projection; false: it is no module of a numbered expert. */
static bool split_expert(const char *module, size_t *stem, const char **projection)
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

/* Some exporters use Mixtral's names for the three projections. */
static const char *usual_projection(const char *name)
{
    if (!strcmp(name, "w1")) return "gate_proj";
    if (!strcmp(name, "w2")) return "down_proj";
    if (!strcmp(name, "w3")) return "up_proj";
    return name;
}

/* A LoRA module under its own name. PEFT turns the modules of numbered experts into the fused parameter, where gate and
 * up together have 2 r: when rank_pattern says so, alpha was chosen for 2 r, too. */
static Err *add_plain(AdapterReader *reader, const char *module, const TensorView *A, const TensorView *B)
{
    const AdapterConfig *cfg = &reader->file->config;
    TRY(check_dims(A, 2));
    TRY(check_dims(B, 2));
    size_t r = A->shape[0], stem;
    if (B->shape[1] != r) return r_differs(A, r, B, B->shape[1]);
    TRY(check_r(cfg, A, r));
    AdapterLora lora = {
        .module = module,
        .r = r,
        .in = A->shape[1],
        .out = B->shape[0],
        .A = {A, 0, A->shape[1], 1},
        .B = {B, 0, r, 1},
    };
    const char *projection, *parameter;
    double scale_r = (double)r, pattern_r = 0;
    Paths paths = {{module}, 1};
    if (split_expert(module, &stem, &projection)) {
        bool down = !strcmp(usual_projection(projection), "down_proj");
        TRY(arena_format(&reader->file->store->names, &lora.module, "%.*s%s", (int)(projection - module), module,
                         usual_projection(projection)));
        TRY(arena_format(&reader->file->store->names, &parameter, "%.*s.%s", (int)stem, module,
                         down ? "down_proj" : "gate_up_proj"));
        paths = (Paths){{lora.module, parameter}, 2};
        if (!down && adapter_config_match(&cfg->rank_pattern, &parameter, 1, &pattern_r) && pattern_r == 2 * (double)r)
            scale_r = pattern_r;
    } else {
        TRY(arena_format(&reader->file->store->names, &parameter, "%s.weight", module));
        if (adapter_config_lists(cfg->target_parameters, parameter)) paths.path[0] = parameter;
    }
    lora.scale = scale_of(cfg, &paths, scale_r);
    return add_lora(reader, &lora);
}

/* The projections that a fused parameter holds, each with its share of the rows. */
typedef struct {
    size_t n;
    const char *projection[2];
} Halves;

static const Halves gate_up = {2, {"gate_proj", "up_proj"}}, down_only = {1, {"down_proj"}};

static Err *agree_on_experts(AdapterReader *reader, const TensorView *tensor, size_t n_experts)
{
    if (!reader->n_experts) {
        reader->n_experts = n_experts;
        reader->n_experts_from = tensor->name;
    }
    if (reader->n_experts == n_experts) return NULL;
    return err_new(ERR_FORMAT, "%s has %zu experts, %s has %zu", tensor->name, n_experts, reader->n_experts_from,
                   reader->n_experts);
}

/* Fused files that PEFT wrote before 0.19.1 have in and out exchanged: A [E r][out], B [in][r E]. When both parameters
 * are in the file, their shapes show it. */
static bool is_exchanged(const AdapterReader *reader, const char *stem_experts, const char *stem_base)
{
    const AdapterKey *up_A = adapter_keys_find(reader, stem_base, PART_A),
                     *up_B = adapter_keys_find(reader, stem_base, PART_B);
    const AdapterKey *down_A = adapter_keys_find(reader, stem_experts, PART_A),
                     *down_B = adapter_keys_find(reader, stem_experts, PART_B);
    if (!up_A || !up_B || !down_A || !down_B) return false;
    return up_A->tensor->shape[1] == 2 * down_B->tensor->shape[0] && up_B->tensor->shape[0] == down_A->tensor->shape[1];
}

/* Which parameter a fused key belongs to. PEFT nests one wrapper per parameter, gate_up inside and down outside. When
 * only one parameter was adapted, its wrapper is the outer one, and target_parameters must name it. */
static Err *which_parameter(const AdapterReader *reader, const char *module, const char *experts, const char *base,
                            bool *down)
{
    const AdapterConfig *cfg = &reader->file->config;
    char up_path[PATH_BYTES], down_path[PATH_BYTES];
    if (snprintf(up_path, sizeof up_path, "%s.gate_up_proj", experts) >= (int)sizeof up_path ||
        snprintf(down_path, sizeof down_path, "%s.down_proj", experts) >= (int)sizeof down_path)
        return err_new(ERR_FORMAT, "name too long: %.60s...", module);
    bool lists_up = adapter_config_lists(cfg->target_parameters, up_path);
    bool lists_down = adapter_config_lists(cfg->target_parameters, down_path);
    bool both = adapter_keys_find(reader, base, PART_A) && adapter_keys_find(reader, experts, PART_A);
    *down = both ? !strcmp(module, experts) : lists_down;
    if (both) return NULL;
    if (!strcmp(module, base))
        return err_new(ERR_FORMAT, "%s.lora_A.weight has no partner %s.lora_A.weight", base, experts);
    if (lists_up != lists_down) return NULL;
    return err_new(
        ERR_FORMAT,
        "%s.lora_A.weight is the only fused tensor and target_parameters names %s of gate_up_proj and down_proj; "
        "expected one of them",
        experts, lists_up ? "both" : "neither");
}

static Err *add_fused(AdapterReader *reader, const char *module, const TensorView *A, const TensorView *B)
{
    const AdapterConfig *cfg = &reader->file->config;
    bool inner = has_suffix(module, ".base_layer"), down = false;
    size_t stem = strlen(module) - (inner ? strlen(".base_layer") : 0);
    const char *experts, *base;
    TRY(arena_format(&reader->file->store->names, &experts, "%.*s", (int)stem, module));
    TRY(arena_format(&reader->file->store->names, &base, "%s.base_layer", experts));
    TRY(check_dims(A, 2));
    TRY(check_dims(B, 2));
    TRY(which_parameter(reader, module, experts, base, &down));

    Paths paths = {.n = 1};
    double pattern_r = (double)cfg->r;
    TRY(arena_format(&reader->file->store->names, &paths.path[0], "%s.%s", experts,
                     down ? "down_proj" : "gate_up_proj"));
    adapter_config_match(&cfg->rank_pattern, paths.path, 1, &pattern_r);
    size_t rows = A->shape[0], r = pattern_r >= 1 && pattern_r <= (double)rows ? (size_t)pattern_r : 0;
    if (B->shape[1] != rows) return r_differs(A, rows, B, B->shape[1]);
    if (r == 0 || rows % r)
        return err_new(ERR_FORMAT, "%s has %zu rows; expected a multiple of r, %g", A->name, rows, pattern_r);
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
            AdapterLora lora = {.r = r, .in = in, .out = out, .scale = scale_of(cfg, &paths, (double)r)};
            if (exchanged) {
                lora.A = (AdapterSlice){B, e, E, rows};
                lora.B = (AdapterSlice){A, rows_of_e.first + h * out, 1, wide};
            } else {
                lora.A = rows_of_e;
                lora.B = columns_of_e;
                lora.B.first += h * out * rows;
            }
            TRY(arena_format(&reader->file->store->names, &lora.module, "%s.%zu.%s", experts, e,
                             halves->projection[h]));
            TRY(add_lora(reader, &lora));
        }
    }
    return NULL;
}

/* A [E or 1][r][in], B [E or 1][out][r], named experts.PROJECTION: exporters of SGLang and Megatron write this. */
static Err *add_stacked(AdapterReader *reader, const char *module, const TensorView *A, const TensorView *B)
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
            AdapterLora lora = {.r = r, .in = in, .out = out};
            lora.A = (AdapterSlice){A, (A->shape[0] == 1 ? 0 : e) * r * in, in, 1};
            lora.B = (AdapterSlice){B, ((B->shape[0] == 1 ? 0 : e) * halves->n + h) * out * r, r, 1};
            TRY(arena_format(&reader->file->store->names, &lora.module, "%.*s.%zu.%s", (int)(dot - module), module, e,
                             halves->projection[h]));
            Paths paths = {{lora.module, module}, 2};
            lora.scale = scale_of(cfg, &paths, (double)r);
            TRY(add_lora(reader, &lora));
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

static Err *add_partners(AdapterReader *reader, const AdapterKey *A, const AdapterKey *B)
{
    const char *module = A->module;
    if (A->part == PART_EMBEDDING_A) return add_embedding(reader, module, A->tensor, B->tensor);
    if (has_suffix(module, ".experts") || has_suffix(module, ".experts.base_layer"))
        return add_fused(reader, module, A->tensor, B->tensor);
    if (is_stacked(module, A->tensor)) return add_stacked(reader, module, A->tensor, B->tensor);
    return add_plain(reader, module, A->tensor, B->tensor);
}

Err *adapter_layouts_add_loras(AdapterReader *reader)
{
    for (size_t i = 0; i < reader->n; i += 2) {
        const AdapterKey *A = &reader->keys[i], *B = i + 1 < reader->n ? A + 1 : NULL;
        if (B && !adapter_keys_compare(A, B))
            return err_new(ERR_FORMAT, "%s and %s are the same part", A->tensor->name, B->tensor->name);
        bool first = A->part == PART_A || A->part == PART_EMBEDDING_A;
        if (!first || !B || strcmp(A->module, B->module) != 0 || B->part != A->part + 1)
            return err_new(ERR_FORMAT, "%s has no partner %s.%s", A->tensor->name, A->module,
                           part_names[first ? A->part + 1 : A->part - 1]);
        TRY(add_partners(reader, A, B));
    }
    return NULL;
}
