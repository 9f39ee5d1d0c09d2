/* One table of parts is counted from the config alone; the files, when there are any, add what they really hold. */
#define _GNU_SOURCE
#include "model/report.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/safe_text.h"
#include "model/model.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PARTS = 16 };

typedef struct {
    const char *name;
    int64_t tensors, elements;
    int64_t active; /* elements that one token is multiplied with, or looks up */
} Part;

typedef struct {
    const ModelConfig *config;
    size_t n_parts;
    Part parts[MAX_PARTS];
    Part total, mtp;
    int64_t parameters; /* as transformers counts: without correction biases and MTP */
    bool has_weights;
    WeightsSurvey survey;
} Report;

/* ---- counting ------------------------------------------------------------------------------------------------- */

static Part *find_part(Report *r, const char *name)
{
    if (strcmp(name, "MTP") == 0) return &r->mtp;
    for (size_t i = 0; i < r->n_parts; i++)
        if (strcmp(r->parts[i].name, name) == 0) return &r->parts[i];
    ASSERT(r->n_parts < MAX_PARTS, "%zu parts", r->n_parts);
    r->parts[r->n_parts].name = name;
    return &r->parts[r->n_parts++];
}

static Err *count(void *context, const char *name, const TensorSpec *spec)
{
    Report *r = context;
    Part *part = find_part(r, spec->part);
    int64_t n = (int64_t)(spec->rows * spec->cols);
    (void)name;
    part->tensors++;
    part->elements += n;
    if (spec->mtp) return NULL;
    r->total.tensors++;
    r->total.elements += n;
    r->parameters += spec->must_f32 ? 0 : n;
    return NULL;
}

/* A token looks up one row of the embedding and meets num_experts_per_tok of the experts. */
static void count_active(Report *r)
{
    const ModelConfig *c = r->config;
    for (size_t i = 0; i < r->n_parts; i++) {
        Part *part = &r->parts[i];
        part->active = part->elements;
        if (strcmp(part->name, "embedding") == 0) part->active /= c->vocab_size;
        if (strcmp(part->name, "experts") == 0)
            part->active = part->elements / c->n_routed_experts * c->num_experts_per_tok;
        r->total.active += part->active;
    }
}

static size_t count_true(const bool *flags, int64_t n)
{
    size_t count = 0;
    for (int64_t i = 0; i < n; i++) count += flags[i];
    return count;
}

/* ---- for people ----------------------------------------------------------------------------------------------- */

enum { GROUPED_BYTES = 32 };

static const char *grouped(char text[GROUPED_BYTES], int64_t number) /* 1,234,567 */
{
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%lld", (long long)number), at = 0;
    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0) text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = 0;
    return text;
}
#define GROUPED(number) grouped((char[GROUPED_BYTES]){0}, (int64_t)(number))

static void line(FILE *out, const char *label, const char *format, ...) PRINTF(3, 4);
static void line(FILE *out, const char *label, const char *format, ...)
{
    char *text;
    va_list args;
    fprintf(out, "%-12s  ", label);
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n >= 0) { /* it may quote a file */
        safe_print(out, text, false);
        free(text);
    }
    fputc('\n', out);
}

static void print_config(FILE *out, const ModelConfig *c)
{
    const RopeConfig *rope = &c->rope;
    int64_t layers = c->num_hidden_layers;
    size_t dense = count_true(c->dense, layers), full = count_true(c->indexer, layers);
    bool own_name = strcmp(c->model_type, family_name(c->family)) == 0;
    line(out, "family", "%s%s%s%s", c->model_type, own_name ? "" : ", computed as ",
         own_name ? "" : family_name(c->family), c->fp8 ? "; FP8 in blocks of 128 x 128" : "");
    line(out, "layers", "%lld: %zu dense, %lld of experts%s", (long long)layers, dense,
         (long long)layers - (long long)dense, c->num_nextn_predict_layers ? "; MTP beyond them" : "; no MTP");
    line(out, "widths", "hidden %s, dense MLP %s, expert %s", GROUPED(c->hidden_size), GROUPED(c->intermediate_size),
         GROUPED(c->moe_intermediate_size));
    line(out, "attention",
         "%s heads of %lld + %lld rotated, values of %lld; latents: %s for queries, %s for keys and values",
         GROUPED(c->num_attention_heads), (long long)c->qk_nope_head_dim, (long long)c->qk_rope_head_dim,
         (long long)c->v_head_dim, c->q_lora_rank ? GROUPED(c->q_lora_rank) : "none", GROUPED(c->kv_lora_rank));
    if (c->index_topk)
        line(out, "indexer", "%lld heads of %lld choose %s keys; %zu layers own one, %lld share the one below",
             (long long)c->index_n_heads, (long long)c->index_head_dim, GROUPED(c->index_topk), full,
             (long long)layers - (long long)full);
    line(out, "experts", "%lld of %lld per token, %lld shared; weights scaled by %g", (long long)c->num_experts_per_tok,
         (long long)c->n_routed_experts, (long long)c->n_shared_experts, c->routed_scaling_factor);
    if (c->n_group > 1) line(out, "groups", "%lld of %lld", (long long)c->topk_group, (long long)c->n_group);
    line(out, "rope", "theta %s, %s", GROUPED(rope->rope_theta), c->rope_interleave ? "interleaved" : "half-split");
    if (rope->yarn)
        line(out, "yarn", "factor %g from %s positions", rope->factor, GROUPED(rope->original_max_position_embeddings));
    line(out, "vocabulary", "%s tokens", GROUPED(c->vocab_size));
    line(out, "positions", "%s", GROUPED(c->max_position_embeddings));
}

static void print_part(FILE *out, const Part *part)
{
    fprintf(out, "%-16s%10s%22s%22s\n", part->name, GROUPED(part->tensors), GROUPED(part->elements),
            GROUPED(part->active));
}

static void print_parts(FILE *out, const Report *r)
{
    fprintf(out, "\n%-16s%10s%22s%22s\n", "part", "tensors", "elements", "active per token");
    for (size_t i = 0; i < r->n_parts; i++) print_part(out, &r->parts[i]);
    print_part(out, &r->total);
    if (r->mtp.tensors) print_part(out, &r->mtp);
    fprintf(out, "\ntransformers counts %s parameters", GROUPED(r->parameters));
    fprintf(out, " (without correction biases%s)\n", r->mtp.tensors ? " and MTP, which graft does not use either" : "");
}

static void print_list(FILE *out, const char *label, const SurveyList *list)
{
    line(out, label, "%s", list->count ? GROUPED(list->count) : "none");
    for (size_t i = 0; i < list->count && i < SURVEY_NAMES; i++) line(out, "", "%s", list->names[i]);
    if (list->count > SURVEY_NAMES) line(out, "", "and %s more", GROUPED(list->count - SURVEY_NAMES));
}

static void print_weights(FILE *out, const Report *r)
{
    const WeightsSurvey *s = &r->survey;
    fputc('\n', out);
    if (!r->has_weights) {
        line(out, "weights", "none here");
        return;
    }
    line(out, "weights", "%s file%s, %s bytes", GROUPED(s->n_shards), s->n_shards > 1 ? "s" : "",
         GROUPED(s->file_bytes));
    for (int d = 0; d < DTYPE_COUNT; d++)
        if (s->dtypes[d].tensors)
            line(out, dtype_name((DType)d), "%9s tensors%22s elements%22s bytes", GROUPED(s->dtypes[d].tensors),
                 GROUPED(s->dtypes[d].elements), GROUPED(s->dtypes[d].bytes));
    line(out, "MTP", "%s", s->n_mtp ? "there" : "not there");
    print_list(out, "missing", &s->missing);
    print_list(out, "wrong", &s->wrong);
    print_list(out, "extra", &s->extra);
    line(out, "digest", "%s", s->digest);
}

static Err *report_text(const Report *r, char **text)
{
    size_t bytes;
    *text = NULL;
    FILE *out = open_memstream(text, &bytes);
    if (!out) return err_new(ERR_MEMORY, "out of memory");
    print_config(out, r->config);
    print_parts(out, r);
    print_weights(out, r);
    if (!fclose(out)) return NULL;
    free(*text);
    *text = NULL;
    return err_new(ERR_MEMORY, "out of memory");
}

/* ---- for programs --------------------------------------------------------------------------------------------- */

static Json *json_part(const Part *part)
{
    Json *object = json_new_object();
    json_add_number(object, "tensors", (double)part->tensors);
    json_add_number(object, "elements", (double)part->elements);
    json_add_number(object, "active", (double)part->active);
    return object;
}

static Json *json_list(const SurveyList *list)
{
    Json *object = json_new_object(), *names = json_new_array();
    json_add_number(object, "count", (double)list->count);
    for (size_t i = 0; i < list->count && i < SURVEY_NAMES; i++) json_add_string(names, NULL, list->names[i]);
    json_add(object, "first", names);
    return object;
}

static Json *json_weights(const WeightsSurvey *s)
{
    Json *object = json_new_object(), *dtypes = json_new_object();
    json_add_number(object, "files", (double)s->n_shards);
    json_add_number(object, "bytes", (double)s->file_bytes);
    json_add_number(object, "tensors", (double)s->n_tensors);
    json_add_number(object, "mtp_tensors", (double)s->n_mtp);
    json_add_string(object, "digest", s->digest);
    for (int d = 0; d < DTYPE_COUNT; d++) {
        if (!s->dtypes[d].tensors) continue;
        Json *one = json_new_object();
        json_add_number(one, "tensors", (double)s->dtypes[d].tensors);
        json_add_number(one, "elements", (double)s->dtypes[d].elements);
        json_add_number(one, "bytes", (double)s->dtypes[d].bytes);
        json_add(dtypes, dtype_name((DType)d), one);
    }
    json_add(object, "dtypes", dtypes);
    json_add(object, "missing", json_list(&s->missing));
    json_add(object, "wrong", json_list(&s->wrong));
    json_add(object, "extra", json_list(&s->extra));
    return object;
}

static Err *report_json(const Report *r, char **text)
{
    const ModelConfig *c = r->config;
    const struct {
        const char *key;
        int64_t value;
    } numbers[] = {{"vocab_size", c->vocab_size},
                   {"hidden_size", c->hidden_size},
                   {"num_hidden_layers", c->num_hidden_layers},
                   {"dense_layers", (int64_t)count_true(c->dense, c->num_hidden_layers)},
                   {"indexer_layers", (int64_t)count_true(c->indexer, c->num_hidden_layers)},
                   {"num_nextn_predict_layers", c->num_nextn_predict_layers},
                   {"num_attention_heads", c->num_attention_heads},
                   {"n_routed_experts", c->n_routed_experts},
                   {"num_experts_per_tok", c->num_experts_per_tok},
                   {"max_position_embeddings", c->max_position_embeddings},
                   {"parameters", r->parameters}};
    Json *root = json_new_object(), *parts = json_new_object();
    json_add_string(root, "family", family_name(c->family));
    json_add_string(root, "model_type", c->model_type);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        json_add_number(root, numbers[i].key, (double)numbers[i].value);
    json_add_bool(root, "fp8", c->fp8);
    for (size_t i = 0; i < r->n_parts; i++) json_add(parts, r->parts[i].name, json_part(&r->parts[i]));
    json_add(root, "parts", parts);
    json_add(root, "total", json_part(&r->total));
    json_add(root, "mtp", json_part(&r->mtp));
    if (r->has_weights)
        json_add(root, "weights", json_weights(&r->survey));
    else
        json_add_null(root, "weights");
    Err *err = json_print(root, true, text);
    json_free(root);
    return err;
}

/* ---- together ------------------------------------------------------------------------------------------------- */

static Err *check_survey(const Report *r, const char *path)
{
    const SurveyList *missing = &r->survey.missing, *wrong = &r->survey.wrong;
    if (missing->count + wrong->count == 0) return NULL;
    return err_new(
        ERR_FORMAT,
        "%s: the files do not fit config.json: %zu tensors are missing, such as %s; %zu are wrong, such as %s", path,
        missing->count, missing->count ? missing->names[0] : "none", wrong->count,
        wrong->count ? wrong->names[0] : "none");
}

Err *model_report(const char *path, bool as_json, char **text)
{
    ModelConfig config = {0};
    Report r = {.config = &config, .total = {.name = "total"}, .mtp = {.name = "MTP, unused"}};
    char config_path[PATH_BYTES];
    bool directory = file_is_directory(path);
    *text = NULL;
    if (!file_exists(path)) TRY(model_expect_directory(path));
    if (directory) TRY(file_join(config_path, path, "config.json"));
    Err *err = model_config_read(&config, directory ? config_path : path);
    if (!err) err = model_config_tensors(&config, true, count, &r);
    if (err) goto done;
    count_active(&r);
    r.has_weights = directory && weights_exist(path);
    if (r.has_weights && (err = weights_survey(&r.survey, &config, path))) goto done;
    err = as_json ? report_json(&r, text) : report_text(&r, text);
    if (!err) err = check_survey(&r, path);
done:
    weights_survey_free(&r.survey);
    model_config_free(&config);
    return err;
}
