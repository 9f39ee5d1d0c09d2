/* From the settings (PEFT's target_modules, layers_to_transform, ESFT's expert lists) to what sits where.
 * Names match as PEFT's do: a list entry is a module's whole name or the end of it after a dot; a string is one regular
 * expression that the whole name must match.   Source: PEFT 0.21.2, tuners/tuners_utils.py,
 * check_target_module_exists. */
#include "base/memory.h"
#include "model/lora_sites.h"

#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const Model *model;
    const LoraConfig *config;
    LayerLoraSpec *specs;
    regex_t *regex;
    size_t n_entries, *hits; /* of each list entry */
    const Json *experts;     /* ESFT's {"3": [1, 2]} or NULL */
    bool all_experts, by_name;
    size_t n_experts, n_routers; /* that `experts` and train_router chose */
    float scale;
} Targets;

static bool entry_matches(const char *entry, const char *module)
{
    size_t n = strlen(entry), m = strlen(module);
    return n <= m && strcmp(module + m - n, entry) == 0 && (n == m || module[m - n - 1] == '.');
}

static bool whole_match(const regex_t *regex, const char *module)
{
    regmatch_t match;
    return regexec(regex, module, 1, &match, 0) == 0 && match.rm_so == 0 && (size_t)match.rm_eo == strlen(module);
}

/* A Python expression in POSIX's words: \d and (?: have other spellings there, the rest of what module patterns use has
 * none. Lazy repeats pass: whether a whole name matches does not depend on them. */
static Err *to_posix(const char *python, char **out)
{
    static const char *const refused[] = {"(?=", "(?!", "(?<", "(?P", "(?i", "\\A", "\\Z", "\\D"};
    size_t n = 0;
    bool in_set = false;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (strstr(python, refused[i]))
            return err_new(ERR_USAGE, "target_modules: \"%s\": %s is not supported", python, refused[i]);
    TRY(mem_new(out, 4 * strlen(python) + 1, 1));
    for (const char *c = python; *c; c++) {
        const char *word = NULL;
        if (c[0] == '\\' && c[1] == 'd')
            word = in_set ? "0-9" : "[0-9]";
        else if (c[0] == '(' && c[1] == '?' && c[2] == ':' && !in_set)
            word = "(";
        else if (c[0] == '\\' && in_set) {
            free(*out);
            return err_new(ERR_USAGE, "target_modules: \"%s\": \\%c in a set is not supported", python, c[1]);
        } else if (c[0] == '\\' && c[1]) {
            (*out)[n++] = *c++;
        } else if (c[0] == '[')
            in_set = true;
        else if (c[0] == ']')
            in_set = false;
        if (word) {
            memcpy(*out + n, word, strlen(word));
            n += strlen(word);
            c += *c == '(' ? 2 : 1;
        } else {
            (*out)[n++] = *c;
        }
    }
    return NULL;
}

static Err *compile(regex_t *regex, const char *python)
{
    char *posix;
    TRY(to_posix(python, &posix));
    int bad = regcomp(regex, posix, REG_EXTENDED);
    free(posix);
    return bad ? err_new(ERR_USAGE, "target_modules: \"%s\" is no regular expression", python) : NULL;
}

static void use(Targets *t, const LoraSite *site)
{
    LoraSpec *spec = lora_spec_of(t->specs, site);
    spec->halves |= 1u << site->half;
    spec->r = (size_t)t->config->r;
    spec->scale = t->scale;
}

static Err *visit(void *context, const LoraSite *site, const char *module)
{
    Targets *t = context;
    const Json *targets = t->config->target_modules;
    if (site->kind != SITE_PLACE && !t->by_name) return NULL; /* `experts` speaks for them */
    bool router = site->kind == SITE_PLACE && site->place == LORA_ROUTER,
         listed = targets && json_kind(targets) != JSON_STRING;
    if (router && !listed) return NULL; /* no Linear in transformers, so it is asked for by its name alone */
    if (t->regex) {
        if (!whole_match(t->regex, module)) return NULL;
        t->hits[0]++;
        use(t, site);
        return NULL;
    }
    if (targets && json_kind(targets) == JSON_STRING) { /* all-linear */
        t->hits[0]++;
        use(t, site);
        return NULL;
    }
    size_t i = 0;
    for (const Json *entry = targets ? json_first(targets) : NULL; entry; entry = json_next(entry), i++) {
        if (!entry_matches(json_string(entry), module)) continue;
        t->hits[i]++;
        use(t, site);
    }
    return NULL;
}

static Err *check_targets(const Json *targets)
{
    if (!targets || json_kind(targets) == JSON_STRING || json_kind(targets) == JSON_NULL) return NULL;
    if (json_kind(targets) != JSON_ARRAY)
        return err_new(ERR_USAGE, "target_modules is %s; expected a list of names or one regular expression",
                       json_kind_name(targets));
    for (const Json *entry = json_first(targets); entry; entry = json_next(entry))
        if (json_kind(entry) != JSON_STRING)
            return err_new(ERR_USAGE, "target_modules holds %s; expected names", json_kind_name(entry));
    return NULL;
}

/* Where in the whole model a name or expression matches, whichever layers are chosen. */
typedef struct {
    const Targets *targets;
    const char *entry; /* NULL: the regular expression, or all-linear */
    bool place, expert;
    size_t l; /* of the first match */
} Matches;

static Err *find_matches(void *context, const LoraSite *site, const char *module)
{
    Matches *m = context;
    const regex_t *regex = m->targets->regex;
    if (m->entry ? !entry_matches(m->entry, module) : regex && !whole_match(regex, module)) return NULL;
    if (!m->place && !m->expert) m->l = site->l;
    m->place |= site->kind == SITE_PLACE;
    m->expert |= site->kind != SITE_PLACE;
    return NULL;
}

/* The name that an unknown one may have meant: of those that are in the model. */
static Err *nearest_in_model(const Targets *t, const char *entry, const char **near)
{
    static const char *const names[] = {"q_proj",
                                        "q_a_proj",
                                        "q_b_proj",
                                        "kv_a_proj_with_mqa",
                                        "kv_b_proj",
                                        "o_proj",
                                        "gate_proj",
                                        "up_proj",
                                        "down_proj",
                                        "shared_experts.gate_proj",
                                        "shared_experts.up_proj",
                                        "shared_experts.down_proj",
                                        "mlp.gate",
                                        "mlp.gate_proj",
                                        "mlp.up_proj",
                                        "mlp.down_proj"};
    enum { N_NAMES = sizeof names / sizeof *names };
    const char *there[N_NAMES + 1] = {0};
    size_t n = 0;
    *near = NULL;
    for (size_t i = 0; i < N_NAMES; i++) {
        Matches m = {.targets = t, .entry = names[i]};
        if (strcmp(names[i], entry) == 0) return NULL; /* it is spelled right: this model does not have it */
        for (size_t l = 0; l < t->model->n_layers && !m.place && !m.expert; l++)
            TRY(lora_sites_visit(t->model, l, find_matches, &m));
        if (m.place || m.expert) there[n++] = names[i];
    }
    *near = options_nearest(entry, there);
    return NULL;
}

/* Say why a name (NULL: the expression) matched nothing, and what it may have meant. */
static Err *no_match(const Targets *t, const char *entry)
{
    static const struct {
        const char *name, *why;
    } refused[] = {
        {"gate", "no router is in the chosen layers"},  {"embed_tokens", "the embedding is not trained"},
        {"lm_head", "the head is not trained"},         {"wq_b", "the indexer's choice has no gradient"},
        {"wk", "the indexer's choice has no gradient"}, {"weights_proj", "the indexer's choice has no gradient"},
    };
    const char *name = entry ? entry : json_string(t->config->target_modules), *dot = strrchr(name, '.'),
               *last = dot ? dot + 1 : name, *near;
    Matches m = {.targets = t, .entry = entry};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (strcmp(last, refused[i].name) == 0)
            return err_new(ERR_USAGE, "target_modules: %s cannot carry LoRA here: %s", name, refused[i].why);
    for (size_t l = 0; l < t->model->n_layers; l++) TRY(lora_sites_visit(t->model, l, find_matches, &m));
    if (m.place || (m.expert && t->by_name))
        return err_new(ERR_USAGE,
                       "target_modules: %s matches no module in the chosen layers (layers_to_transform); the first "
                       "layer of this model that has one is %zu",
                       name, m.l);
    if (m.expert)
        return err_new(
            ERR_USAGE,
            "target_modules: %s matches routed experts only, and the option experts chooses those; leave out "
            "one of the two",
            name);
    if (strcmp(last, "q_proj") == 0 || strcmp(last, "q_a_proj") == 0 || strcmp(last, "q_b_proj") == 0)
        return err_new(ERR_USAGE, "target_modules: %s matches no module of this model; its queries are made by %s",
                       name, t->model->config.q_lora_rank ? "q_a_proj and q_b_proj" : "q_proj");
    TRY(nearest_in_model(t, name, &near));
    return err_new(ERR_USAGE, "target_modules: %s matches no module of this model%s%s", name,
                   near ? "; the nearest name is " : "", near ? near : "");
}

static Err *check_hits(const Targets *t)
{
    const Json *targets = t->config->target_modules;
    if (!targets || json_kind(targets) == JSON_NULL) return NULL;
    if (json_kind(targets) == JSON_STRING) return t->hits[0] ? NULL : no_match(t, NULL);
    size_t i = 0;
    for (const Json *entry = json_first(targets); entry; entry = json_next(entry), i++)
        if (t->hits[i] == 0) return no_match(t, json_string(entry));
    return NULL;
}

/* ---- layers and experts --------------------------------------------------------------------------------------- */

static Err *mark_layer(const Json *number, bool *wanted, size_t n_layers)
{
    double l = json_kind(number) == JSON_NUMBER ? json_number(number) : -1;
    if (l != floor(l) || l < 0 || l >= (double)n_layers)
        return err_new(ERR_USAGE, "layers_to_transform: expected layers 0 to %zu", n_layers - 1);
    wanted[(size_t)l] = true;
    return NULL;
}

static Err *wanted_layers(const Json *layers, bool *wanted, size_t n_layers)
{
    bool all = !layers || json_kind(layers) == JSON_NULL;
    for (size_t l = 0; l < n_layers; l++) wanted[l] = all;
    if (all) return NULL;
    if (json_kind(layers) != JSON_ARRAY) return mark_layer(layers, wanted, n_layers);
    for (const Json *item = json_first(layers); item; item = json_next(item)) TRY(mark_layer(item, wanted, n_layers));
    return NULL;
}

static void use_expert(Targets *t, size_t l, size_t e)
{
    t->n_experts++;
    for (unsigned i = 0; i < 3; i++)
        use(t, &(LoraSite){.kind = i == 2 ? SITE_EXPERT_OUT : SITE_EXPERT_IN, .l = l, .expert = e, .half = i == 1});
}

static Err *use_listed(Targets *t, const bool *wanted)
{
    for (const Json *layer = json_first(t->experts); layer; layer = json_next(layer)) {
        char *end;
        const char *key = json_key(layer);
        unsigned long l = strtoul(key, &end, 10);
        if (end == key || *end || l >= t->model->n_layers)
            return err_new(ERR_USAGE, "experts: layer \"%s\" is not one of 0 to %zu", key, t->model->n_layers - 1);
        if (t->model->layers[l].dense) return err_new(ERR_USAGE, "experts: layer %lu is dense, it has no experts", l);
        if (json_kind(layer) != JSON_ARRAY)
            return err_new(ERR_USAGE, "experts: layer %lu has %s; expected a list of experts", l,
                           json_kind_name(layer));
        for (const Json *id = json_first(layer); id; id = json_next(id)) {
            double e = json_kind(id) == JSON_NUMBER ? json_number(id) : -1;
            if (e != floor(e) || e < 0 || e >= (double)t->model->router.E)
                return err_new(ERR_USAGE, "experts: layer %lu lists %s%.10g; expected 0 to %zu", l,
                               json_kind(id) == JSON_NUMBER ? "" : "something that is no number: ", e,
                               t->model->router.E - 1);
            if (wanted[l]) use_expert(t, l, (size_t)e);
        }
    }
    return NULL;
}

Err *lora_experts_read(Json **table, const Json *experts)
{
    const char *name = experts && json_kind(experts) == JSON_STRING ? json_string(experts) : "";
    size_t n = strlen(name);
    *table = NULL;
    if (n <= 5 || strcmp(name + n - 5, ".json") != 0) return NULL;
    return err_wrap(json_read_file(table, name), "experts names the file %s", name);
}

/* ESFT's expert_cfg.json: {"experts": {...}, "shared_experts": false, "non_expert_modules": false}. */
static Err *read_experts_setting(Targets *t)
{
    const Json *experts = t->config->experts;
    t->by_name = !experts || json_kind(experts) == JSON_NULL;
    if (t->by_name) return NULL;
    if (json_kind(experts) == JSON_STRING) {
        t->all_experts = strcmp(json_string(experts), "all") == 0;
        if (t->all_experts || strcmp(json_string(experts), "none") == 0) return NULL;
        return err_new(ERR_USAGE, "experts is \"%s\"; expected all, none, or ESFT's {\"experts\": {\"layer\": [ids]}}",
                       json_string(experts));
    }
    if (json_kind(experts) != JSON_OBJECT)
        return err_new(ERR_USAGE, "experts is %s; expected all, none, or ESFT's {\"experts\": {\"layer\": [ids]}}",
                       json_kind_name(experts));
    if (!json_find(experts, "experts")) { /* the inner table alone */
        t->experts = experts;
        return NULL;
    }
    static const char *const others[] = {"shared_experts", "non_expert_modules"};
    for (size_t i = 0; i < 2; i++) {
        const Json *on = json_find(experts, others[i]);
        if (on && (json_kind(on) != JSON_BOOL || json_bool(on)))
            return err_new(ERR_USAGE, "experts: %s is not false; name those modules in target_modules", others[i]);
    }
    t->experts = json_find(experts, "experts");
    if (json_kind(t->experts) == JSON_OBJECT) return NULL;
    return err_new(ERR_USAGE, "experts: its \"experts\" is %s; expected {\"layer\": [ids]}",
                   json_kind_name(t->experts));
}

static Err *fill_layers(Targets *t, const bool *wanted)
{
    const Model *model = t->model;
    for (size_t l = 0; l < model->n_layers; l++) {
        if (!wanted[l]) continue;
        if (t->config->target_modules) TRY(lora_sites_visit(model, l, visit, t));
        for (size_t e = 0; e < model->router.E && t->all_experts && !model->layers[l].dense; e++) use_expert(t, l, e);
        if (!t->config->train_router || model->layers[l].dense) continue;
        if (t->specs[l].places[LORA_ROUTER].halves)
            return err_new(ERR_USAGE,
                           "the router of layer %zu is a target module and trained in full by train_router; choose one",
                           l);
        t->specs[l].router = true;
        t->n_routers++;
    }
    if (t->experts) TRY(use_listed(t, wanted));
    TRY(check_hits(t));
    if ((t->all_experts || t->experts) && t->n_experts == 0)
        return err_new(ERR_USAGE, "experts: none of them is in the chosen layers");
    if (t->config->train_router && t->n_routers == 0)
        return err_new(ERR_USAGE, "train_router: no router is in the chosen layers");
    return NULL;
}

Err *lora_targets_resolve(const Model *model, const LoraConfig *config, LayerLoraSpec *specs)
{
    Targets t = {.model = model, .config = config, .specs = specs};
    const Json *targets = config->target_modules;
    regex_t regex;
    bool *wanted = NULL;
    TRY(check_targets(targets));
    TRY(read_experts_setting(&t));
    double r = (double)config->r;
    t.scale = (float)(config->lora_alpha / (config->use_rslora ? sqrt(r) : r));
    Err *err = mem_new(&wanted, model->n_layers, sizeof *wanted);
    if (!err) err = mem_new(&t.hits, targets ? json_count(targets) + 1 : 1, sizeof *t.hits);
    if (!err) err = wanted_layers(config->layers_to_transform, wanted, model->n_layers);
    if (!err && targets && json_kind(targets) == JSON_STRING && strcmp(json_string(targets), "all-linear") != 0) {
        err = compile(&regex, json_string(targets));
        if (!err) t.regex = &regex;
    }
    if (!err) err = fill_layers(&t, wanted);
    if (t.regex) regfree(&regex);
    free(wanted);
    free(t.hits);
    return err;
}
