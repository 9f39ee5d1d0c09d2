/* All shards are opened, and their tensors are put into one table sorted by name. `compare` then goes through the
 * tensors that the config expects, marks those that are there and lists those that are missing, extra or wrong.
 * weights_open turns such a list into its error, weights_survey hands it on. */
#include "model/weights.h"

#include "base/json.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const TensorView *view;
    const Safetensors *shard;
    bool expected; /* by the config, or the scales of one that is */
} WeightEntry;

struct Weights {
    size_t n_shards, n_entries;
    Safetensors *shards;  /* sorted by name */
    WeightEntry *entries; /* sorted by tensor name */
};

static const char index_name[] = "model.safetensors.index.json", single_name[] = "model.safetensors";
static const char scale_suffix[] = "_scale_inv";

enum { NAME_BYTES = 256 };

/* ---- files ---------------------------------------------------------------------------------------------------- */

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const WeightEntry *)a)->view->name, ((const WeightEntry *)b)->view->name);
}

static WeightEntry *find_entry(const Weights *w, const char *name)
{
    TensorView view = {.name = name};
    WeightEntry key = {.view = &view};
    return w->n_entries ? bsearch(&key, w->entries, w->n_entries, sizeof key, compare_entries) : NULL;
}

static Err *open_shard(Weights *w, const char *directory, const char *name)
{
    char path[PATH_BYTES];
    TRY(file_join(path, directory, name));
    TRY(safetensors_open(&w->shards[w->n_shards], path));
    w->n_shards++;
    return NULL;
}

static Err *check_shard_name(const Json *entry)
{
    if (json_kind(entry) != JSON_STRING)
        return err_new(ERR_FORMAT, "weight_map: %s is %s; expected the name of a shard", json_key(entry),
                       json_kind_name(entry));
    const char *name = json_string(entry);
    if (*name && !strchr(name, '/') && !strchr(name, '\\') && !strstr(name, "..")) return NULL;
    return err_new(ERR_FORMAT, "weight_map: %s is in \"%s\"; expected a file of the same directory", json_key(entry),
                   name);
}

static const Safetensors *find_shard(const Weights *w, const char *const *names, const char *name)
{
    const char *const *at = bsearch(&name, names, w->n_shards, sizeof name, compare_texts);
    return at ? &w->shards[at - names] : NULL;
}

/* Open the shards that the index names, and check that each holds what the index says. names: space for all entries. */
static Err *open_indexed(Weights *w, const char *directory, const Json *map, const char **names)
{
    size_t n = 0, n_names = 0;
    for (const Json *entry = json_first(map); entry; entry = json_next(entry)) {
        TRY(check_shard_name(entry));
        names[n++] = json_string(entry);
    }
    if (n == 0) return err_new(ERR_FORMAT, "weight_map is empty");
    qsort(names, n, sizeof *names, compare_texts);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(names[i], names[n_names - 1])) names[n_names++] = names[i];
    TRY(mem_new(&w->shards, n_names, sizeof *w->shards));
    for (size_t i = 0; i < n_names; i++) TRY(open_shard(w, directory, names[i]));
    for (const Json *entry = json_first(map); entry; entry = json_next(entry))
        if (!safetensors_find(find_shard(w, names, json_string(entry)), json_key(entry)))
            return err_new(ERR_FORMAT, "weight_map: %s is said to be in %s, which lacks it", json_key(entry),
                           json_string(entry));
    return NULL;
}

/* metadata.total_size is not looked at: GLM-4.7-Flash's counts elements, not bytes. */
static Err *open_index(Weights *w, const char *directory, const char *path)
{
    Json *root;
    const Json *map;
    const char **names = NULL;
    TRY(json_read_file(&root, path));
    Err *err = json_get_object(root, "weight_map", &map);
    if (!err) err = mem_new(&names, json_count(map), sizeof *names);
    if (!err) err = open_indexed(w, directory, map, names);
    free(names);
    json_free(root);
    return err_wrap(err, "%s", path);
}

static Err *open_single(Weights *w, const char *directory)
{
    TRY(mem_new(&w->shards, 1, sizeof *w->shards));
    return open_shard(w, directory, single_name);
}

static Err *collect(Weights *w)
{
    size_t n = 0;
    for (size_t s = 0; s < w->n_shards; s++) n += w->shards[s].n_tensors;
    TRY(mem_new(&w->entries, n, sizeof *w->entries));
    for (size_t s = 0; s < w->n_shards; s++)
        for (size_t t = 0; t < w->shards[s].n_tensors; t++)
            w->entries[w->n_entries++] = (WeightEntry){.view = &w->shards[s].tensors[t], .shard = &w->shards[s]};
    qsort(w->entries, n, sizeof *w->entries, compare_entries);
    for (size_t i = 1; i < n; i++)
        if (compare_entries(&w->entries[i - 1], &w->entries[i]) == 0)
            return err_new(ERR_FORMAT, "tensor %s is in two files: %s and %s", w->entries[i].view->name,
                           w->entries[i - 1].shard->path, w->entries[i].shard->path);
    return NULL;
}

bool weights_exist(const char *directory)
{
    char index[PATH_BYTES], single[PATH_BYTES];
    Err *err = err_first(file_join(index, directory, index_name), file_join(single, directory, single_name));
    bool exist = !err && (file_exists(index) || file_exists(single));
    err_free(err);
    return exist;
}

static Err *open_files(Weights **out, const char *directory)
{
    Weights *w;
    char index[PATH_BYTES];
    *out = NULL;
    if (!weights_exist(directory))
        return err_new(ERR_IO, "%s holds neither %s nor %s", directory, index_name, single_name);
    TRY(file_join(index, directory, index_name));
    TRY(mem_new(&w, 1, sizeof *w));
    Err *err = file_exists(index) ? open_index(w, directory, index) : open_single(w, directory);
    if (!err) err = collect(w);
    if (err)
        weights_close(w);
    else
        *out = w;
    return err;
}

void weights_close(Weights *w)
{
    if (!w) return;
    for (size_t s = 0; s < w->n_shards; s++) {
        safetensors_close(&w->shards[s]);
    }
    free(w->shards);
    free(w->entries);
    free(w);
}

/* ---- one tensor ----------------------------------------------------------------------------------------------- */

/* "[2, 3]", or "a single number". */
static const char *shape_text(char text[NAME_BYTES], size_t n_dims, const size_t *shape)
{
    size_t at = 0;
    for (size_t d = 0; d < n_dims; d++)
        at += (size_t)snprintf(text + at, NAME_BYTES - at, "%s%zu", d ? ", " : "[", shape[d]);
    snprintf(text + at, NAME_BYTES - at, "%s", n_dims ? "]" : "a single number");
    return text;
}

static Err *check_shape(const TensorView *view, size_t n_dims, const size_t *expected)
{
    char found[NAME_BYTES], wanted[NAME_BYTES];
    if (view->n_dims == n_dims && memcmp(view->shape, expected, n_dims * sizeof *expected) == 0) return NULL;
    return err_new(ERR_FORMAT, "shape is %s; expected %s", shape_text(found, view->n_dims, view->shape),
                   shape_text(wanted, n_dims, expected));
}

/* The factors of an FP8 matrix: beside it, under its name with a suffix. */
static Err *find_scale(const Weights *w, const TensorView *view, WeightEntry **out)
{
    char name[NAME_BYTES];
    size_t blocks[] = {(view->shape[0] + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK,
                       (view->shape[1] + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK};
    int n = snprintf(name, sizeof name, "%s%s", view->name, scale_suffix);
    *out = n < NAME_BYTES ? find_entry(w, name) : NULL;
    if (!*out) return err_new(ERR_FORMAT, "dtype is F8_E4M3, but there is no %s", name);
    if ((*out)->view->dtype != DTYPE_F32)
        return err_new(ERR_FORMAT, "%s: dtype is %s; expected F32", name, dtype_name((*out)->view->dtype));
    return err_wrap(check_shape((*out)->view, 2, blocks), "%s", name);
}

/* A tensor as a Weight; *scale is its factors' entry or NULL. Whether it is FP8 is for the file to say, not the
 * config. */
static Err *view_weight(const Weights *w, const TensorView *view, Weight *out, WeightEntry **scale)
{
    *scale = NULL;
    if (view->n_dims != 1 && view->n_dims != 2)
        return err_new(ERR_FORMAT, "has %zu dimensions; expected 1 or 2", view->n_dims);
    bool is_vector = view->n_dims == 1, fp8 = view->dtype == DTYPE_F8_E4M3;
    if (view->dtype != DTYPE_F32 && view->dtype != DTYPE_BF16 && !(fp8 && !is_vector))
        return err_new(ERR_FORMAT, "dtype is %s; expected F32%s", dtype_name(view->dtype),
                       is_vector ? " or BF16" : ", BF16 or F8_E4M3");
    if (fp8) TRY(find_scale(w, view, scale));
    *out = (Weight){.name = view->name,
                    .dtype = view->dtype,
                    .rows = is_vector ? 1 : view->shape[0],
                    .cols = view->shape[view->n_dims - 1],
                    .data = view->data,
                    .scale = *scale ? (*scale)->view->data : NULL};
    return NULL;
}

Err *weights_get(const Weights *w, const char *name, Weight *out)
{
    const WeightEntry *entry = find_entry(w, name);
    WeightEntry *scale;
    if (!entry) return err_new(ERR_FORMAT, "tensor %s is missing", name);
    return err_wrap(view_weight(w, entry->view, out, &scale), "%s: tensor %s", entry->shard->path, name);
}

Err *weights_get_floats(const Weights *w, const char *name, size_t n, float **out)
{
    Weight weight;
    float *floats;
    TRY(weights_get(w, name, &weight));
    if (weight.rows * weight.cols != n)
        return err_new(ERR_FORMAT, "tensor %s has %zu numbers; expected %zu", name, weight.rows * weight.cols, n);
    TRY(mem_new(&floats, n, sizeof *floats));
    for (size_t row = 0; row < weight.rows; row++)
        weight_read(&weight, row, 0, weight.cols, floats + row * weight.cols);
    *out = floats;
    return NULL;
}

size_t weights_shards(const Weights *w) { return w->n_shards; }

const char *weights_shard_path(const Weights *w, size_t shard) { return w->shards[shard].path; }

void weights_locate(const Weights *w, const void *data, size_t *shard, size_t *offset)
{
    uintptr_t at = (uintptr_t)data;
    for (size_t s = 0; s < w->n_shards; s++) {
        uintptr_t begin = (uintptr_t)w->shards[s].map.data;
        if (at < begin || at - begin >= w->shards[s].map.bytes) continue;
        *shard = s;
        *offset = at - begin;
        return;
    }
    ASSERT(false, "%p is in none of %zu shards", data, w->n_shards);
}

/* ---- over all weights ------------------------------------------------------------------------------------------ */

Err *weights_check_finite(const Weights *w)
{
    for (size_t i = 0; i < w->n_entries; i++)
        if (w->entries[i].expected) TRY(tensor_check_finite(w->entries[i].view, w->entries[i].shard->path));
    return NULL;
}

void weights_digest(const Weights *w, char digest[DIGEST_BYTES]) { shards_digest(w->n_shards, w->shards, digest); }

/* ---- against the config --------------------------------------------------------------------------------------- */

typedef struct {
    Weights *weights;
    WeightsSurvey *survey;
    Err *first; /* of what is wrong */
} ConfigComparison;

static Err *list_add(SurveyList *list, const char *name)
{
    if (list->count < SURVEY_NAMES) TRY(mem_copy_text(&list->names[list->count], name));
    list->count++;
    return NULL;
}

static void list_free(SurveyList *list)
{
    for (size_t i = 0; i < SURVEY_NAMES; i++) free(list->names[i]);
}

static Err *check_entry(const Weights *w, const WeightEntry *entry, const TensorSpec *spec)
{
    Weight weight;
    WeightEntry *scale;
    size_t shape[] = {spec->rows, spec->cols};
    TRY(check_shape(entry->view, spec->vector ? 1 : 2, spec->vector ? shape + 1 : shape));
    TRY(view_weight(w, entry->view, &weight, &scale));
    if (scale) scale->expected = true;
    if (spec->must_f32 && weight.dtype != DTYPE_F32)
        return err_new(ERR_FORMAT, "dtype is %s; expected F32", dtype_name(weight.dtype));
    return NULL;
}

static Err *compare_one(void *context, const char *name, const TensorSpec *spec)
{
    ConfigComparison *c = context;
    WeightEntry *entry = find_entry(c->weights, name);
    if (!entry) return spec->mtp ? NULL : list_add(&c->survey->missing, name);
    entry->expected = true;
    c->survey->n_mtp += spec->mtp;
    Err *err = err_wrap(check_entry(c->weights, entry, spec), "%s: tensor %s", entry->shard->path, name);
    if (!err && spec->vector) err = tensor_check_finite(entry->view, entry->shard->path);
    if (!err) return NULL;
    Err *full = list_add(&c->survey->wrong, err_message(err));
    c->first = err_first(c->first, err);
    return full;
}

/* *wrong: the first tensor that is there, but not as it must be; or NULL. */
static Err *compare(Weights *w, const ModelConfig *config, WeightsSurvey *survey, Err **wrong)
{
    *survey = (WeightsSurvey){0};
    ConfigComparison c = {.weights = w, .survey = survey};
    Err *err = model_config_tensors(config, true, compare_one, &c);
    for (size_t i = 0; i < w->n_entries && !err; i++)
        if (!w->entries[i].expected) err = list_add(&survey->extra, w->entries[i].view->name);
    *wrong = c.first;
    return err;
}

static Err *refuse_missing(const SurveyList *missing, const char *directory)
{
    enum { NAMED = 3 };
    char names[NAMED * NAME_BYTES] = "", more[48] = "";
    size_t n = missing->count < NAMED ? missing->count : NAMED, at = 0;
    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", missing->names[i]);
    if (missing->count > n) snprintf(more, sizeof more, " and %zu more", missing->count - n);
    return err_new(ERR_FORMAT, "%s: missing tensor%s %s%s", directory, missing->count > 1 ? "s" : "", names, more);
}

Err *weights_open(Weights **out, const ModelConfig *config, const char *directory)
{
    Weights *w;
    WeightsSurvey survey;
    *out = NULL;
    TRY(open_files(&w, directory));
    Err *wrong, *err = compare(w, config, &survey, &wrong);
    err = err_first(err, wrong);
    if (!err && survey.missing.count) err = refuse_missing(&survey.missing, directory);
    weights_survey_free(&survey);
    if (err)
        weights_close(w);
    else
        *out = w;
    return err;
}

Err *weights_outline(Weights **out, const ModelConfig *config, DType matrices)
{
    Weights *w;
    *out = NULL;
    TRY(mem_new(&w, 1, sizeof *w));
    Err *err = mem_new(&w->shards, 1, sizeof *w->shards);
    if (!err) err = weights_outline_file(&w->shards[0], config, matrices);
    if (!err) {
        w->n_shards = 1;
        err = collect(w);
    }
    if (err)
        weights_close(w);
    else
        *out = w;
    return err;
}

Err *weights_survey(WeightsSurvey *survey, const ModelConfig *config, const char *directory)
{
    Weights *w;
    *survey = (WeightsSurvey){0};
    TRY(open_files(&w, directory));
    Err *wrong, *err = compare(w, config, survey, &wrong);
    err_free(wrong); /* its message is in the survey */
    survey->n_shards = w->n_shards;
    survey->n_tensors = w->n_entries;
    for (size_t s = 0; s < w->n_shards; s++) survey->file_bytes += w->shards[s].map.bytes;
    for (size_t i = 0; i < w->n_entries; i++) {
        const TensorView *view = w->entries[i].view;
        survey->dtypes[view->dtype].tensors++;
        survey->dtypes[view->dtype].elements += view->bytes / dtype_bytes(view->dtype);
        survey->dtypes[view->dtype].bytes += view->bytes;
    }
    weights_digest(w, survey->digest);
    weights_close(w);
    if (err) weights_survey_free(survey);
    return err;
}

void weights_survey_free(WeightsSurvey *survey)
{
    list_free(&survey->missing);
    list_free(&survey->extra);
    list_free(&survey->wrong);
    *survey = (WeightsSurvey){0};
}
