/* Only plain LoRA is read: `check_plain` refuses every key that could change what the tensors mean. Keys of patterns
 * are regular expressions of Python. Those in use are also POSIX extended expressions, except for a few spellings that
 * `translate` rewrites. It refuses what it does not know, because a wrong match would be a wrong scale that nobody
 * notices. */
#include "ckpt/adapter_config.h"

#include "base/file.h"
#include "base/memory.h"

#include <ctype.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct AdapterPattern {
    regex_t regex;
    double value;
};

/* R_MAX only keeps products of sizes in range: the tensors must have this r, too. It is greater than the r that graft
 * trains with, since PEFT itself sets no limit. */
enum { KEY_BYTES_MAX = 1000, R_MAX = 1 << 20 };

/* Keys whose value does not change what tensors mean, or is read below. */
static const char *const free_keys[] = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "target_parameters",
    "task_type",
    "use_rslora",
};

/* Initial values that leave the base unchanged. The others (pissa, olora, corda, loftq, lora_ga) change it. */
static const char *const harmless_inits[] = {"gaussian", "orthogonal", "eva", "mica"};

static bool is_one_of(const char *text, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(text, list[i])) return true;
    return false;
}

static bool is_empty(const Json *value)
{
    switch (json_kind(value)) {
    case JSON_NULL: return true;
    case JSON_BOOL: return !json_bool(value);
    case JSON_STRING: return json_string(value)[0] == 0;
    case JSON_ARRAY:
    case JSON_OBJECT: return json_count(value) == 0;
    default: return false;
    }
}

static Err *check_plain(const Json *root)
{
    for (const Json *member = json_first(root); member; member = json_next(member)) {
        if (is_one_of(json_key(member), free_keys, sizeof free_keys / sizeof *free_keys) || is_empty(member)) continue;
        char *text;
        TRY(json_print(member, false, &text));
        Err *err = err_new(ERR_FORMAT, "key %s is %.60s; graft reads plain LoRA, where it is absent, null or false",
                           json_key(member), text);
        free(text);
        return err;
    }
    return NULL;
}

static Err *check_init(const Json *root)
{
    const Json *init = json_find(root, "init_lora_weights");
    if (!init || json_kind(init) == JSON_NULL || json_kind(init) == JSON_BOOL) return NULL;
    if (json_kind(init) != JSON_STRING)
        return err_new(ERR_FORMAT, "key init_lora_weights is %s; expected true, false or a string",
                       json_kind_name(init));
    if (is_one_of(json_string(init), harmless_inits, sizeof harmless_inits / sizeof *harmless_inits)) return NULL;
    return err_new(ERR_FORMAT,
                   "key init_lora_weights is \"%.60s\": such an adapter belongs to a base that was changed "
                   "when training began; save it again from PEFT with path_initial_model_for_weight_conversion",
                   json_string(init));
}

/* Set *list to the array of strings under key, or to NULL when it is absent, null or empty. */
static Err *read_list(const Json *root, const char *key, const Json **list)
{
    *list = json_find(root, key);
    if (!*list || is_empty(*list)) {
        *list = NULL;
        return NULL;
    }
    if (json_kind(*list) != JSON_ARRAY)
        return err_new(ERR_FORMAT, "key %s is %s; expected an array of strings", key, json_kind_name(*list));
    for (const Json *entry = json_first(*list); entry; entry = json_next(entry))
        if (json_kind(entry) != JSON_STRING)
            return err_new(ERR_FORMAT, "key %s holds %s; expected strings", key, json_kind_name(entry));
    return NULL;
}

static Err *check_modules_to_save(const Json *list)
{
    for (const Json *entry = list ? json_first(list) : NULL; entry; entry = json_next(entry)) {
        const char *name = json_string(entry), *dot = strrchr(name, '.');
        if (strcmp(dot ? dot + 1 : name, "gate") != 0)
            return err_new(ERR_FORMAT,
                           "key modules_to_save names %.60s; the only module that graft reads in full is the "
                           "router, gate",
                           name);
    }
    return NULL;
}

/* ---- patterns ---- */

static Err *no_translation(const char *key, const char *at)
{
    return err_new(ERR_FORMAT, "the pattern \"%s\" has \"%.2s\", which graft does not translate from Python", key, at);
}

/* A backslash at *in, outside or inside brackets. */
static Err *translate_escape(const char *key, const char **in, bool inside, FILE *out)
{
    char c = (*in)[1];
    if (c == 'd')
        fputs(inside ? "0-9" : "[0-9]", out);
    else if (c == 'w')
        fputs(inside ? "A-Za-z0-9_" : "[A-Za-z0-9_]", out);
    else if (!c || !isascii((unsigned char)c) || isalnum((unsigned char)c))
        return no_translation(key, *in);
    else if (!inside)
        fprintf(out, "\\%c", c);
    else if (strchr("]^-\\[", c))
        return no_translation(key, *in); /* its position in the set would matter */
    else
        fputc(c, out);
    *in += 2;
    return NULL;
}

static Err *translate(const char *key, FILE *out)
{
    bool inside = false;
    fputs("^(.*\\.)?(", out);
    for (const char *in = key; *in;) {
        if (*in == '\\') {
            TRY(translate_escape(key, &in, inside, out));
            continue;
        }
        char c = *in++;
        fputc(c, out);
        if (inside) {
            if (c == '[' && strchr(":.=", *in)) return no_translation(key, in - 1);
            inside = c != ']';
        } else if (c == '[') {
            inside = true;
            if (*in == '^') fputc(*in++, out);
            if (*in == ']') fputc(*in++, out); /* a bracket in the first position is a member */
        } else if (c == '(' && *in == '?') {
            if (in[1] != ':') return no_translation(key, in);
            in += 2; /* POSIX has no other kind of group */
        } else if (c == '{') {
            return no_translation(key, in - 1);
        } else if (strchr("*+?", c)) {
            if (*in == '+') return no_translation(key, in - 1);
            if (*in == '?') in++; /* lazy repeats change nothing: the whole path must match */
        }
    }
    fputs(")$", out);
    return NULL;
}

static Err *compile(AdapterPattern *pattern, const char *key)
{
    char *text = NULL;
    size_t bytes;
    if (strlen(key) > KEY_BYTES_MAX) return err_new(ERR_FORMAT, "the pattern \"%.40s...\" is too long", key);
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return err_new(ERR_MEMORY, "out of memory for a pattern");
    Err *err = translate(key, out);
    err = err_first(err, file_close(&out, key));
    if (!err) {
        int code = regcomp(&pattern->regex, text, REG_EXTENDED);
        char reason[120];
        if (code) {
            regerror(code, &pattern->regex, reason, sizeof reason);
            err = err_new(ERR_FORMAT, "the pattern \"%s\" is no regular expression: %s", key, reason);
        }
    }
    free(text);
    return err;
}

static Err *read_patterns(const Json *root, const char *key, AdapterPatterns *patterns)
{
    const Json *object = json_find(root, key);
    if (!object || is_empty(object)) return NULL;
    TRY(json_get_object(root, key, &object));
    TRY(mem_new(&patterns->items, json_count(object), sizeof *patterns->items));
    for (const Json *member = json_first(object); member; member = json_next(member)) {
        AdapterPattern *pattern = &patterns->items[patterns->n];
        TRY(err_wrap(json_get_number(object, json_key(member), &pattern->value), "%s", key));
        TRY(err_wrap(compile(pattern, json_key(member)), "%s", key));
        patterns->n++;
    }
    return NULL;
}

static void free_patterns(AdapterPatterns *patterns)
{
    for (size_t i = 0; i < patterns->n; i++) regfree(&patterns->items[i].regex);
    free(patterns->items);
}

bool adapter_config_match(const AdapterPatterns *patterns, const char *const *paths, size_t n_paths, double *value)
{
    for (size_t i = 0; i < patterns->n; i++) {
        for (size_t p = 0; p < n_paths; p++) {
            if (regexec(&patterns->items[i].regex, paths[p], 0, NULL, 0) != 0) continue;
            *value = patterns->items[i].value;
            return true;
        }
    }
    return false;
}

/* ---- the file ---- */

bool adapter_config_lists(const Json *list, const char *path)
{
    size_t length = strlen(path);
    for (const Json *entry = list ? json_first(list) : NULL; entry; entry = json_next(entry)) {
        const char *name = json_string(entry);
        size_t n = strlen(name);
        if (n <= length && !strcmp(path + length - n, name) && (n == length || path[length - n - 1] == '.'))
            return true;
    }
    return false;
}

static Err *read_keys(AdapterConfig *cfg)
{
    const char *type, *bias = "none";
    cfg->r = 8;
    cfg->alpha = 8;
    if (json_kind(cfg->root) != JSON_OBJECT)
        return err_new(ERR_FORMAT, "the file holds %s; expected an object", json_kind_name(cfg->root));
    TRY(json_get_string(cfg->root, "peft_type", &type));
    if (strcmp(type, "LORA") != 0) return err_new(ERR_FORMAT, "key peft_type is \"%.60s\"; expected \"LORA\"", type);
    TRY(json_may_string(cfg->root, "bias", &bias));
    if (strcmp(bias, "none") != 0) return err_new(ERR_FORMAT, "key bias is \"%.60s\"; expected \"none\"", bias);
    TRY(check_init(cfg->root));
    TRY(check_plain(cfg->root));
    TRY(json_may_int(cfg->root, "r", 1, R_MAX, &cfg->r));
    TRY(json_may_number(cfg->root, "lora_alpha", &cfg->alpha));
    TRY(json_may_bool(cfg->root, "use_rslora", &cfg->use_rslora));
    TRY(json_may_string(cfg->root, "base_model_name_or_path", &cfg->base_model));
    TRY(read_list(cfg->root, "target_parameters", &cfg->target_parameters));
    TRY(read_list(cfg->root, "modules_to_save", &cfg->modules_to_save));
    TRY(check_modules_to_save(cfg->modules_to_save));
    TRY(read_patterns(cfg->root, "alpha_pattern", &cfg->alpha_pattern));
    return read_patterns(cfg->root, "rank_pattern", &cfg->rank_pattern);
}

Err *adapter_config_read(AdapterConfig *cfg, const char *path)
{
    *cfg = (AdapterConfig){0};
    TRY(json_read_file(&cfg->root, path));
    Err *err = read_keys(cfg);
    if (err) adapter_config_free(cfg);
    return err_wrap(err, "%s", path);
}

void adapter_config_free(AdapterConfig *cfg)
{
    free_patterns(&cfg->alpha_pattern);
    free_patterns(&cfg->rank_pattern);
    json_free(cfg->root);
    *cfg = (AdapterConfig){0};
}
