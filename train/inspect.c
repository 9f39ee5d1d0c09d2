/* `graft inspect` builds one JSON object about a path; the text is printed from it, so both say the same. Its keys are
 * a file format ("pairs": LoRA modules). */
#define _GNU_SOURCE
#include "train/inspect.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/safe_text.h"
#include "ckpt/adapter_file.h"
#include "ckpt/checkpoint.h"
#include "plot/run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- a checkpoint --------------------------------------------------------------------------------------------- */

/* The settings that matter most to a reader. */
static void add_settings(Json *out, const Json *settings)
{
    static const char *const keys[] = {"model_name_or_path",  "train_file",
                                       "eval_file",           "r",
                                       "lora_alpha",          "target_modules",
                                       "layers_to_transform", "train_router",
                                       "init_adapter",        "train_batch_size",
                                       "learning_rate",       "lr_scheduler_type",
                                       "lr_scheduler_kwargs"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const Json *value = json_find(settings, keys[i]);
        if (value && json_kind(value) != JSON_NULL) json_add(out, keys[i], json_duplicate(value));
    }
}

static Err *checkpoint(Json *out, const char *path)
{
    CkptInfo info;
    Json *parsed;
    struct stat st;
    TRY(checkpoint_peek(&info, path));
    json_add_string(out, "kind", "checkpoint");
    if (stat(path, &st) == 0) json_add_number(out, "bytes", (double)st.st_size);
    const struct {
        const char *key;
        uint64_t value;
    } numbers[] = {{"step", info.step},
                   {"epoch", info.epoch},
                   {"documents_in_epoch", info.epoch_position},
                   {"scored_tokens", info.tokens},
                   {"parameters", info.parameters},
                   {"seed", info.seed}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        json_add_number(out, numbers[i].key, (double)numbers[i].value);
    json_add_string(out, "compute_path", info.compute_path);
    json_add_string(out, "base_digest", info.base_digest);
    json_add_string(out, "data_digest", info.data_digest);
    Err *err = json_parse(&parsed, info.progress_json, strlen(info.progress_json));
    if (!err) json_add(out, "progress", parsed);
    if (!err) err = json_parse(&parsed, info.config_json, strlen(info.config_json));
    if (!err) {
        add_settings(out, parsed);
        json_free(parsed);
    }
    checkpoint_info_free(&info);
    return err_wrap(err, "%s", path);
}

/* ---- an adapter ----------------------------------------------------------------------------------------------- */

static void add_one(Json *table, const char *key)
{
    const Json *before = json_find(table, key);
    Json *one = json_new_array();
    json_add_number(one, NULL, before ? json_number(before) + 1 : 1);
    json_set(table, key, json_duplicate(json_first(one)));
    json_free(one);
}

/* "model.layers.3.mlp.experts.7.up_proj" -> "mlp.experts.*.up_proj" */
static void kind_of(const char *module, char kind[128])
{
    size_t layer, expert;
    int used = 0;
    char leaf[64];
    if (sscanf(module, "model.layers.%zu.%n", &layer, &used) == 1 && used) module += used;
    if (sscanf(module, "mlp.experts.%zu.%60s", &expert, leaf) == 2)
        snprintf(kind, 128, "mlp.experts.*.%s", leaf);
    else
        snprintf(kind, 128, "%s", module);
}

/* What the numbers of one LoRA module are. */
typedef struct {
    bool zero; /* B is: the module does nothing */
    bool finite;
} Content;

static bool all_finite(size_t n, const float *x)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

static Err *look_at(const AdapterLora *lora, Content *content)
{
    float *A, *B;
    size_t in = lora->r * lora->in, out = lora->out * lora->r;
    TRY(mem_new(&A, in, sizeof *A));
    Err *err = mem_new(&B, out, sizeof *B);
    if (!err) {
        adapter_file_read_lora(lora, A, B);
        *content = (Content){.zero = true, .finite = all_finite(in, A) && all_finite(out, B)};
        for (size_t i = 0; i < out; i++) content->zero = content->zero && B[i] == 0;
        free(B);
    }
    free(A);
    return err;
}

/* Note a name whose values are not finite; the report lists the first of them. */
static void note_broken(Json *broken, size_t *n_broken, const char *name)
{
    enum { NAMES = 5 };
    if (++*n_broken <= NAMES) json_add_string(broken, NULL, name);
}

static Err *look_at_extra(const AdapterExtra *extra, bool *finite)
{
    float *values;
    TRY(mem_new(&values, extra->rows * extra->cols, sizeof *values));
    adapter_file_read_extra(extra, values);
    *finite = all_finite(extra->rows * extra->cols, values);
    free(values);
    return NULL;
}

static Err *adapter(Json *out, const char *path)
{
    AdapterFile *file;
    size_t zeros = 0, values = 0, n_broken = 0;
    Json *modules = json_new_object(), *extras = json_new_array(), *broken = json_new_array();
    Err *err = adapter_file_open(&file, path);
    if (err) {
        json_free(modules);
        json_free(extras);
        json_free(broken);
        return err;
    }
    for (size_t i = 0; i < file->n_loras && !err; i++) {
        const AdapterLora *lora = &file->loras[i];
        Content content = {.finite = true};
        char kind[128];
        kind_of(lora->module, kind);
        add_one(modules, kind);
        values += lora->r * (lora->in + lora->out);
        err = look_at(lora, &content);
        zeros += content.zero;
        if (!content.finite) note_broken(broken, &n_broken, lora->module);
    }
    for (size_t i = 0; i < file->n_extras && !err; i++) {
        bool finite = true;
        json_add_string(extras, NULL, file->extras[i].name);
        err = look_at_extra(&file->extras[i], &finite);
        if (!finite) note_broken(broken, &n_broken, file->extras[i].name);
    }
    json_add_string(out, "kind", "adapter (PEFT)");
    if (file->config.base_model) json_add_string(out, "base_model", file->config.base_model);
    json_add_number(out, "r", (double)file->config.r);
    json_add_number(out, "lora_alpha", file->config.alpha);
    if (file->n_loras) json_add_string(out, "dtype", dtype_name(file->loras[0].A.tensor->dtype));
    json_add_number(out, "pairs", (double)file->n_loras);
    json_add_number(out, "pairs_that_do_nothing", (double)zeros);
    json_add_number(out, "values", (double)values);
    json_add(out, "modules", modules);
    json_add(out, "trained_whole", extras);
    json_add_number(out, "not_finite", (double)n_broken);
    if (n_broken) json_add(out, "first_not_finite", broken);
    if (!n_broken) json_free(broken);
    adapter_file_close(file);
    return err;
}

/* ---- a run ---------------------------------------------------------------------------------------------------- */

static void add_curve(Json *out, const char *name, const char *file, const char *domain, const Curve *curve)
{
    char key[256];
    Json *ends = json_new_object();
    if (curve->n == 0) {
        json_free(ends);
        return;
    }
    json_add_number(ends, "first", curve->points[0].y);
    json_add_number(ends, "last", curve->points[curve->n - 1].y);
    double lowest = curve->points[0].y;
    for (size_t i = 1; i < curve->n; i++)
        if (curve->points[i].y < lowest) lowest = curve->points[i].y;
    json_add_number(ends, "lowest", lowest);
    snprintf(key, sizeof key, "%s%s%s%s%s", name, *file ? " " : "", file, *domain ? " " : "", domain);
    json_add(out, key, ends);
}

static Err *run_curves(Json *out, const char *path)
{
    PlotRun run;
    TRY(plot_run_read(&run, path));
    if (run.loss.n) json_add_number(out, "steps", run.loss.points[run.loss.n - 1].x);
    add_curve(out, "loss", "", "", &run.loss);
    for (size_t i = 0; i < run.n_evals; i++)
        add_curve(out, "eval_loss", run.evals[i].file, run.evals[i].domain, &run.evals[i].loss);
    add_curve(out, "grad_norm", "", "", &run.grad_norm);
    add_curve(out, "load_max_over_mean", "", "", &run.load);
    plot_run_free(&run);
    return NULL;
}

static Err *run(Json *out, const char *path)
{
    char at[PATH_BYTES];
    bool found;
    Json *settings;
    json_add_string(out, "kind", "run");
    TRY(run_curves(out, path));
    TRY(checkpoint_newest(path, at, &found));
    if (found) json_add_string(out, "newest_checkpoint", at);
    TRY(file_join(at, path, "best"));
    if (file_exists(at)) json_add_string(out, "best", at);
    TRY(file_join(at, path, "adapter"));
    json_add_string(out, "adapter", file_exists(at) ? at : "not yet exported");
    TRY(file_join(at, path, "settings.json"));
    if (!file_exists(at)) return NULL;
    TRY(json_read_file(&settings, at));
    add_settings(out, settings);
    json_free(settings);
    return NULL;
}

/* ---- as text -------------------------------------------------------------------------------------------------- */

static Err *print_value(FILE *stream, const Json *value);

/* "first 5.23, last 4.26" or "q_a_proj, o_proj" */
static Err *print_members(FILE *stream, const Json *value)
{
    for (const Json *member = json_first(value); member; member = json_next(member)) {
        if (json_kind(value) == JSON_OBJECT) {
            safe_print(stream, json_key(member), false);
            fputc(' ', stream);
        }
        TRY(print_value(stream, member));
        if (json_next(member)) fputs(", ", stream);
    }
    return NULL;
}

static Err *print_value(FILE *stream, const Json *value)
{
    char *text;
    JsonKind kind = json_kind(value);
    if (kind == JSON_OBJECT || kind == JSON_ARRAY) return print_members(stream, value);
    if (kind == JSON_STRING) {
        safe_print(stream, json_string(value), false);
    } else if (kind == JSON_NUMBER && json_number(value) != floor(json_number(value))) {
        fprintf(stream, "%.5g", json_number(value));
    } else {
        TRY(json_print(value, false, &text));
        fputs(text, stream);
        free(text);
    }
    return NULL;
}

static Err *to_text(const Json *out, char **text)
{
    size_t bytes, width = 0;
    FILE *stream = open_memstream(text, &bytes);
    Err *err = stream ? NULL : err_new(ERR_MEMORY, "out of memory");
    for (const Json *member = json_first(out); member; member = json_next(member))
        if (strlen(json_key(member)) > width) width = strlen(json_key(member));
    for (const Json *member = json_first(out); member && !err; member = json_next(member)) {
        safe_print(stream, json_key(member), false);
        fprintf(stream, "%*s  ", (int)(width - strlen(json_key(member))), "");
        err = print_value(stream, member);
        fputc('\n', stream);
    }
    if (stream) fclose(stream);
    return err;
}

/* An adapter with numbers that are not finite is described, and then refused. */
static Err *check_finite(const Json *out, const char *path)
{
    const Json *broken = json_find(out, "first_not_finite");
    if (!broken) return NULL;
    return err_new(ERR_NUMERIC, "%s: numbers of %.0f modules are NaN or infinite, the first is %s", path,
                   json_number(json_find(out, "not_finite")), json_string(json_first(broken)));
}

static bool holds(const char *directory, const char *name)
{
    char path[PATH_BYTES];
    Err *err = file_join(path, directory, name);
    bool there = !err && file_exists(path);
    err_free(err);
    return there;
}

Err *inspect_path(const char *path, bool as_json, char **text, bool *known)
{
    size_t n = strlen(path);
    bool is_checkpoint = n > 3 && strcmp(path + n - 3, ".h5") == 0, is_adapter = holds(path, "adapter_config.json"),
         is_run = holds(path, "metrics.jsonl");
    *text = NULL;
    *known = is_checkpoint || is_adapter || is_run;
    if (!*known) return NULL;
    Json *out = json_new_object();
    Err *err = is_checkpoint ? checkpoint(out, path) : is_run ? run(out, path) : adapter(out, path);
    if (!err) err = as_json ? json_print(out, true, text) : to_text(out, text);
    if (!err) err = check_finite(out, path);
    json_free(out);
    return err;
}
