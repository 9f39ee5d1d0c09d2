/* Saving and loading (the layout is in the header). Loading trusts nothing: it goes through the file's arrays, looks
 * each one up in the caller's list and compares shape and ids. Only when all of them match does it read values. HDF5
 * links are found by name, so the order of arrays does not matter on either side. */
#include "ckpt/checkpoint.h"

#include "base/memory.h"
#include "ckpt/h5.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char FORMAT[] = "graft checkpoint";

/* The attributes of a checkpoint; writing and reading use the same table. */
static const struct {
    const char *key;
    size_t offset;
} numbers[] =
    {
        {"step", offsetof(CkptInfo, step)},
        {"seed", offsetof(CkptInfo, seed)},
        {"epoch", offsetof(CkptInfo, epoch)},
        {"epoch_position", offsetof(CkptInfo, epoch_position)},
        {"tokens", offsetof(CkptInfo, tokens)},
        {"metrics_bytes", offsetof(CkptInfo, metrics_bytes)},
        {"parameters", offsetof(CkptInfo, parameters)},
},
  texts[] = {
      {"config", offsetof(CkptInfo, config_json)},        {"progress", offsetof(CkptInfo, progress_json)},
      {"compute_path", offsetof(CkptInfo, compute_path)}, {"base_digest", offsetof(CkptInfo, base_digest)},
      {"data_digest", offsetof(CkptInfo, data_digest)},
};

enum { N_NUMBERS = sizeof numbers / sizeof *numbers, N_TEXTS = sizeof texts / sizeof *texts };
_Static_assert((int)N_TEXTS == (int)CKPT_TEXTS, "CkptInfo.owned has one entry for each text");

static uint64_t get_number(const CkptInfo *info, size_t i)
{
    return *(const uint64_t *)((const char *)info + numbers[i].offset);
}
static uint64_t *number_at(CkptInfo *info, size_t i) { return (uint64_t *)((char *)info + numbers[i].offset); }

static const char *get_text(const CkptInfo *info, size_t i)
{
    return *(const char *const *)((const char *)info + texts[i].offset);
}
static const char **text_at(CkptInfo *info, size_t i) { return (const char **)((char *)info + texts[i].offset); }

/* The three groups and the vector that each holds. */
enum { N_GROUPS = 3 };
static const char *const groups[N_GROUPS] = {"/adapter", "/optimizer/m", "/optimizer/v"};
static float *vector_of(const Checkpoint *ckpt, int group)
{
    return group == 0 ? ckpt->values : group == 1 ? ckpt->m : ckpt->v;
}

static size_t elements_of(const CkptArray *array)
{
    size_t n = 1;
    for (size_t i = 0; i < array->n_dims; i++) n *= array->dims[i];
    return n;
}

static Err *path_in_file(char path[PATH_BYTES], int group, const char *name, const char *suffix)
{
    int n = snprintf(path, PATH_BYTES, "%s/%s%s", groups[group], name, suffix);
    return n < 0 || n >= PATH_BYTES ? err_new(ERR_IO, "array name too long: %.60s...", name) : NULL;
}

/* ---- saving ---- */

static Err *write_info(H5File *file, const CkptInfo *info)
{
    TRY(h5_set_text(file, "/", "format", FORMAT));
    TRY(h5_set_u64(file, "/", "format_version", CHECKPOINT_VERSION));
    for (size_t i = 0; i < N_NUMBERS; i++) TRY(h5_set_u64(file, "/", numbers[i].key, get_number(info, i)));
    for (size_t i = 0; i < N_TEXTS; i++) {
        const char *text = get_text(info, i);
        TRY(h5_set_text(file, "/", texts[i].key, text ? text : ""));
    }
    return NULL;
}

static Err *write_arrays(H5File *file, const Checkpoint *ckpt, int group)
{
    char path[PATH_BYTES];
    TRY(h5_group(file, groups[group])); /* also when there are no arrays */
    for (const CkptArray *array = ckpt->arrays; array < ckpt->arrays + ckpt->n_arrays; array++) {
        ASSERT(array->offset + elements_of(array) <= ckpt->n, "array %s ends at %zu of %zu", array->name,
               array->offset + elements_of(array), ckpt->n);
        TRY(path_in_file(path, group, array->name, ""));
        TRY(h5_write(file, path, H5_F32, array->n_dims, array->dims, vector_of(ckpt, group) + array->offset));
        if (group != 0 || !array->ids) continue;
        TRY(path_in_file(path, group, array->name, "_ids"));
        TRY(h5_write(file, path, H5_I32, 1, array->dims, array->ids));
    }
    return NULL;
}

static const char EXTRAS[] = "/run";

static H5Type extra_type(const CkptExtra *extra) { return extra->counts ? H5_U64 : H5_F32; }
static void *extra_data(const CkptExtra *extra)
{
    return extra->counts ? (void *)extra->counts : (void *)extra->values;
}

static Err *extra_path(char path[PATH_BYTES], const CkptExtra *extra)
{
    int n = snprintf(path, PATH_BYTES, "%s/%s", EXTRAS, extra->name);
    return n < 0 || n >= PATH_BYTES ? err_new(ERR_IO, "name too long: %.60s...", extra->name) : NULL;
}

static Err *write_extras(H5File *file, const Checkpoint *ckpt)
{
    char path[PATH_BYTES];
    TRY(h5_group(file, EXTRAS));
    for (const CkptExtra *extra = ckpt->extras; extra < ckpt->extras + ckpt->n_extras; extra++) {
        TRY(extra_path(path, extra));
        TRY(h5_write(file, path, extra_type(extra), 1, &extra->n, extra_data(extra)));
    }
    return NULL;
}

static Err *write_all(H5File *file, const Checkpoint *ckpt)
{
    CkptInfo info = ckpt->info;
    info.parameters = 0;
    for (size_t i = 0; i < ckpt->n_arrays; i++) info.parameters += elements_of(&ckpt->arrays[i]);
    TRY(write_info(file, &info));
    for (int group = 0; group < N_GROUPS; group++) TRY(write_arrays(file, ckpt, group));
    return write_extras(file, ckpt);
}

/* Compare one array of the file with memory. */
static Err *compare_memory(const H5File *file, const char *path, H5Type type, size_t n_dims, const size_t *dims,
                           size_t bytes, const void *memory)
{
    void *found;
    TRY(mem_new(&found, bytes, 1));
    Err *err = h5_read(file, path, type, n_dims, dims, found);
    if (!err && memcmp(found, memory, bytes) != 0)
        err = err_new(ERR_FORMAT, "%s was read back with other values than were written", path);
    free(found);
    return err;
}

static Err *compare_all(const H5File *file, const Checkpoint *ckpt)
{
    char path[PATH_BYTES];
    for (int group = 0; group < N_GROUPS; group++)
        for (const CkptArray *array = ckpt->arrays; array < ckpt->arrays + ckpt->n_arrays; array++) {
            TRY(path_in_file(path, group, array->name, ""));
            TRY(compare_memory(file, path, H5_F32, array->n_dims, array->dims, elements_of(array) * sizeof(float),
                               vector_of(ckpt, group) + array->offset));
        }
    for (const CkptExtra *extra = ckpt->extras; extra < ckpt->extras + ckpt->n_extras; extra++) {
        TRY(extra_path(path, extra));
        TRY(compare_memory(file, path, extra_type(extra), 1, &extra->n,
                           extra->n * (extra->counts ? sizeof *extra->counts : sizeof *extra->values),
                           extra_data(extra)));
    }
    return NULL;
}

static Err *read_back(const Checkpoint *ckpt, const char *draft)
{
    H5File file = {0};
    Err *err = h5_open(&file, draft);
    if (!err) err = compare_all(&file, ckpt);
    h5_discard(&file);
    if (err) unlink(draft);
    return err;
}

Err *checkpoint_save(const Checkpoint *ckpt, const char *path)
{
    Err *err = NULL;
    H5File file = {0};
    char draft[PATH_BYTES];
    if ((err = file_draft_name(draft, path))) goto done;
    if ((err = h5_create(&file, draft))) goto done;
    if ((err = write_all(&file, ckpt))) goto done;
    if ((err = h5_close(&file))) goto done; /* a full disk may show only here */
    if ((err = read_back(ckpt, draft))) goto done;
    err = file_replace(draft, path); /* readers see the old file or the new one, never a part */
done:
    h5_discard(&file); /* does nothing after h5_close */
    return err_wrap(err, "save checkpoint %s", path);
}

/* ---- loading ---- */

static Err *check_format(const H5File *file)
{
    char *format = NULL;
    uint64_t version = 0;
    Err *err = h5_get_text(file, "/", "format", &format);
    if (!err && strcmp(format, FORMAT) != 0) err = err_new(ERR_FORMAT, "format is %.60s; expected %s", format, FORMAT);
    free(format);
    if (err) return err_wrap(err, "not a checkpoint of graft");
    TRY(h5_get_u64(file, "/", "format_version", &version));
    if (version == CHECKPOINT_VERSION) return NULL;
    return err_new(ERR_FORMAT, "format_version is %" PRIu64 "; this graft reads %d", version, CHECKPOINT_VERSION);
}

static Err *read_info(const H5File *file, CkptInfo *info)
{
    TRY(check_format(file));
    for (size_t i = 0; i < N_NUMBERS; i++) TRY(h5_get_u64(file, "/", numbers[i].key, number_at(info, i)));
    for (size_t i = 0; i < N_TEXTS; i++) {
        TRY(h5_get_text(file, "/", texts[i].key, &info->owned[i]));
        *text_at(info, i) = info->owned[i];
    }
    return NULL;
}

void checkpoint_info_free(CkptInfo *info)
{
    for (size_t i = 0; i < N_TEXTS; i++) free(info->owned[i]);
    *info = (CkptInfo){0};
}

Err *checkpoint_peek(CkptInfo *info, const char *path)
{
    H5File file = {0};
    *info = (CkptInfo){0};
    Err *err = h5_open(&file, path);
    if (!err) err = read_info(&file, info);
    if (err) checkpoint_info_free(info);
    h5_discard(&file);
    return err_wrap(err, "read checkpoint %s", path);
}

/* An expected array, and whether the file has it and its ids. */
typedef struct {
    const CkptArray *array;
    bool found, found_ids;
} ExpectedArray;

/* One group while its arrays are compared with those expected. */
typedef struct {
    const H5File *file;
    int group;
    size_t n;
    ExpectedArray *expected; /* [n] by name */
} GroupCheck;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const ExpectedArray *)a)->array->name, ((const ExpectedArray *)b)->array->name);
}

static ExpectedArray *find_expected(const GroupCheck *check, const char *name)
{
    CkptArray key_array = {.name = name};
    ExpectedArray key = {.array = &key_array};
    return check->n ? bsearch(&key, check->expected, check->n, sizeof key, by_name) : NULL;
}

static Err *compare_shape(const H5File *file, const char *path, const char *name, H5Type type, size_t n_dims,
                          const size_t *dims)
{
    H5Type found;
    size_t n, size[H5_DIMS];
    TRY(h5_shape(file, path, &found, &n, size));
    if (found == type && n == n_dims && !memcmp(size, dims, n * sizeof *size)) return NULL;
    return err_new(ERR_FORMAT, "%s is %s %s in the file; expected %s %s", name, h5_type_name(found),
                   h5_dims(n, size).text, h5_type_name(type), h5_dims(n_dims, dims).text);
}

static Err *compare_ids(const H5File *file, const char *path, const CkptArray *array)
{
    TRY(compare_shape(file, path, path, H5_I32, 1, array->dims));
    int32_t *ids;
    TRY(mem_new(&ids, array->dims[0], sizeof *ids));
    Err *err = h5_read(file, path, H5_I32, 1, array->dims, ids);
    for (size_t i = 0; !err && i < array->dims[0]; i++) {
        if (ids[i] == array->ids[i]) continue;
        err = err_new(ERR_FORMAT, "%s: entry %zu is expert %" PRId32 " in the file; expected %" PRId32, array->name, i,
                      ids[i], array->ids[i]);
    }
    free(ids);
    return err;
}

static Err *check_array(void *context, const char *name)
{
    GroupCheck *check = context;
    char path[PATH_BYTES], stem[PATH_BYTES];
    TRY(path_in_file(path, check->group, name, ""));
    ExpectedArray *expected = find_expected(check, name);
    if (expected) {
        expected->found = true;
        return compare_shape(check->file, path, path, H5_F32, expected->array->n_dims, expected->array->dims);
    }
    size_t length = strlen(name), suffix = strlen("_ids");
    if (check->group == 0 && length > suffix && length < sizeof stem && !strcmp(name + length - suffix, "_ids")) {
        memcpy(stem, name, length - suffix);
        stem[length - suffix] = 0;
        expected = find_expected(check, stem);
        if (expected && expected->array->ids) {
            expected->found_ids = true;
            return compare_ids(check->file, path, expected->array);
        }
    }
    return err_new(ERR_FORMAT, "%s is in the file, but not among the %zu arrays expected", path, check->n);
}

static Err *check_group(const Checkpoint *ckpt, const H5File *file, int group)
{
    GroupCheck check = {file, group, ckpt->n_arrays, NULL};
    TRY(mem_new(&check.expected, check.n, sizeof *check.expected));
    for (size_t i = 0; i < check.n; i++) check.expected[i].array = &ckpt->arrays[i];
    qsort(check.expected, check.n, sizeof *check.expected, by_name);
    Err *err = h5_visit(file, groups[group], check_array, &check);
    for (size_t i = 0; !err && i < check.n; i++) {
        const ExpectedArray *expected = &check.expected[i];
        const CkptArray *array = expected->array;
        if (!expected->found)
            err = err_new(ERR_FORMAT, "%s/%s is missing; expected %s", groups[group], array->name,
                          h5_dims(array->n_dims, array->dims).text);
        else if (group == 0 && array->ids && !expected->found_ids)
            err = err_new(ERR_FORMAT, "%s/%s_ids is missing; expected [%zu]", groups[group], array->name,
                          array->dims[0]);
    }
    free(check.expected);
    return err;
}

static Err *read_arrays(const Checkpoint *ckpt, const H5File *file, int group)
{
    char path[PATH_BYTES];
    for (const CkptArray *array = ckpt->arrays; array < ckpt->arrays + ckpt->n_arrays; array++) {
        ASSERT(array->offset + elements_of(array) <= ckpt->n, "array %s ends at %zu of %zu", array->name,
               array->offset + elements_of(array), ckpt->n);
        TRY(path_in_file(path, group, array->name, ""));
        TRY(h5_read(file, path, H5_F32, array->n_dims, array->dims, vector_of(ckpt, group) + array->offset));
    }
    return NULL;
}

static Err *expect_extra(void *context, const char *name)
{
    const Checkpoint *ckpt = context;
    for (size_t i = 0; i < ckpt->n_extras; i++)
        if (strcmp(ckpt->extras[i].name, name) == 0) return NULL;
    return err_new(ERR_FORMAT, "%s/%s is in the file, but this run has no such extra", EXTRAS, name);
}

static Err *read_extra(const CkptExtra *extra, const H5File *file)
{
    char path[PATH_BYTES];
    TRY(extra_path(path, extra));
    return h5_read(file, path, extra_type(extra), 1, &extra->n, extra_data(extra));
}

static Err *read_extras(const Checkpoint *ckpt, const H5File *file)
{
    for (size_t i = 0; i < ckpt->n_extras; i++) TRY(read_extra(&ckpt->extras[i], file));
    return NULL;
}

/* Notes which of the extras that the caller asks for are in the file. */
typedef struct {
    const Checkpoint *ckpt;
    bool *found;
} WantedExtras;

static Err *find_extra(void *context, const char *name)
{
    const WantedExtras *wanted = context;
    for (size_t i = 0; i < wanted->ckpt->n_extras; i++)
        if (strcmp(wanted->ckpt->extras[i].name, name) == 0) wanted->found[i] = true;
    return NULL;
}

static Err *read_found(const Checkpoint *ckpt, const H5File *file, bool *found)
{
    memset(found, 0, ckpt->n_extras * sizeof *found);
    TRY(h5_visit(file, EXTRAS, find_extra, &(WantedExtras){ckpt, found}));
    for (size_t i = 0; i < ckpt->n_extras; i++)
        if (found[i]) TRY(read_extra(&ckpt->extras[i], file));
    return NULL;
}

Err *checkpoint_load_values(Checkpoint *ckpt, const char *path, bool *found)
{
    H5File file = {0};
    ckpt->info = (CkptInfo){0};
    Err *err = h5_open(&file, path);
    if (!err) err = read_info(&file, &ckpt->info);
    if (!err) err = check_group(ckpt, &file, 0);
    if (!err) err = read_arrays(ckpt, &file, 0);
    if (!err) err = read_found(ckpt, &file, found);
    if (err) checkpoint_info_free(&ckpt->info);
    h5_discard(&file);
    return err_wrap(err, "load checkpoint %s", path);
}

Err *checkpoint_load(Checkpoint *ckpt, const char *path)
{
    H5File file = {0};
    ckpt->info = (CkptInfo){0};
    Err *err = h5_open(&file, path);
    if (!err) err = read_info(&file, &ckpt->info);
    for (int group = 0; !err && group < N_GROUPS; group++) err = check_group(ckpt, &file, group);
    if (!err) err = h5_visit(&file, EXTRAS, expect_extra, ckpt);
    for (int group = 0; !err && group < N_GROUPS; group++) err = read_arrays(ckpt, &file, group);
    if (!err) err = read_extras(ckpt, &file);
    if (err) checkpoint_info_free(&ckpt->info);
    h5_discard(&file);
    return err_wrap(err, "load checkpoint %s", path);
}
