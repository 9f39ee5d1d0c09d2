/* One config for all consumers. gate_proj, up_proj and down_proj of routed experts are in target_modules, for vLLM and
 * SGLang. PEFT takes these three to mean routed experts alone, so dense and shared matrices are listed in
 * target_parameters instead. Older readers know one r and one alpha for all modules, so there is one of each.
 * Source: PEFT 0.21, tuners/lora/config.py. */
#include "ckpt/adapter_config_write.h"

#include "base/arena.h"
#include "base/memory.h"
#include "ckpt/adapter_modules.h"

#include <stdlib.h>
#include <string.h>

/* Add a name to an array of names, which remains sorted and without duplicates. */
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

/* "mlp.shared_experts.gate_proj.weight": the part after the layer's number, so that one entry names all layers. */
static Err *parameter_name(Arena *arena, const char *module, const char **name)
{
    const char *tail = strstr(module, ".mlp.");
    return arena_format(arena, name, "%s.weight", tail ? tail + 1 : module);
}

static Json *array_of(const char *const *names, size_t n)
{
    Json *array = json_new_array();
    for (size_t i = 0; i < n; i++) json_add_string(array, NULL, names[i]);
    return array;
}

/* Sort the names of modules into target_modules and target_parameters. */
static Err *list_targets(const AdapterOut *out, Arena *arena, Json **modules, Json **parameters)
{
    const char **in_modules = NULL, **in_parameters = NULL, *name = NULL;
    size_t n_modules = 0, n_parameters = 0, capacity_modules = 0, capacity_parameters = 0;
    Err *err = NULL;
    for (size_t i = 0; !err && i < out->n_loras; i++) {
        const char *module = out->loras[i].module, *leaf = adapter_module_leaf(module);
        ExpertMatrix expert;
        bool router = !strcmp(leaf, "gate"), two_dimensional = router || adapter_module_projection(leaf) < 3;
        if (adapter_module_is_expert(module, &expert) || !two_dimensional) {
            err = add_name(&in_modules, &n_modules, &capacity_modules, leaf);
            continue;
        }
        err = parameter_name(arena, module, &name);
        if (!err) err = add_name(&in_parameters, &n_parameters, &capacity_parameters, name);
    }
    *modules = array_of(in_modules, n_modules);
    *parameters = array_of(in_parameters, n_parameters);
    free(in_modules);
    free(in_parameters);
    return err;
}

/* Print JSON as Python's json.dump(indent=2) does; our keys need no escapes. */
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

/* Keys are in alphabetical order, as PEFT writes them. */
Err *adapter_config_write(const char *path, const AdapterOut *out, size_t r, double alpha)
{
    Json *root = json_new_object(), *modules = NULL, *parameters = NULL, *saved = NULL;
    Arena arena = {0};
    char *text = NULL;
    size_t bytes;
    Err *err = list_targets(out, &arena, &modules, &parameters);
    if (out->n_extras) saved = array_of((const char *[]){"gate"}, 1);
    json_add(root, "alpha_pattern", json_new_object());
    if (out->base_model)
        json_add_string(root, "base_model_name_or_path", out->base_model);
    else
        json_add_null(root, "base_model_name_or_path");
    json_add_string(root, "bias", "none");
    json_add_bool(root, "fan_in_fan_out", false);
    json_add_bool(root, "inference_mode", true);
    json_add_bool(root, "init_lora_weights", true);
    json_add_number(root, "lora_alpha", alpha);
    json_add_number(root, "lora_dropout", 0);
    if (saved)
        json_add(root, "modules_to_save", saved);
    else
        json_add_null(root, "modules_to_save");
    json_add_string(root, "peft_type", "LORA");
    json_add_number(root, "r", (double)r);
    json_add(root, "rank_pattern", json_new_object());
    json_add(root, "target_modules", modules);
    json_add(root, "target_parameters", parameters);
    json_add_string(root, "task_type", "CAUSAL_LM");
    json_add_bool(root, "use_dora", false);
    json_add_bool(root, "use_rslora", false);
    FILE *stream = err ? NULL : open_memstream(&text, &bytes);
    if (!err && !stream) err = err_new(ERR_MEMORY, "out of memory for %s", path);
    if (!err) err = print_json(stream, root, 0);
    err = err_first(err, file_close(&stream, path));
    if (!err) err = file_write(path, text, bytes);
    free(text);
    json_free(root);
    arena_free(&arena);
    return err;
}
