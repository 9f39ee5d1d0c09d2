/* Every HDF5 object is an id that must be closed. The public function that needs one closes it at its end, so only
 * files remain open between calls. HDF5 keeps the reasons of a failure on a stack that the next call clears, so
 * `failed` is called before anything is closed. No object stores times: the same calls give the same bytes. */
#include "ckpt/h5.h"

#include "base/memory.h"
#include "ckpt/h5_storage.h"

#include <hdf5.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEXT_BYTES_MAX = 1 << 26, REASON_BYTES = 512 };

/* ---- reasons ---- */

/* Take the innermost entry, which is the most precise. That of the system is a paragraph with strerror's text in
 * quotes. */
static herr_t take_innermost(unsigned n, const H5E_error2_t *entry, void *context)
{
    static const char SYSTEM[] = "error message = '";
    char *reason = context;
    if (n != 0 || !entry->desc) return 0;
    const char *words = strstr(entry->desc, SYSTEM);
    snprintf(reason, REASON_BYTES, "%s", words ? words + strlen(SYSTEM) : entry->desc);
    reason[strcspn(reason, words ? "'" : "\n")] = 0;
    return 0;
}

static Err *failed(ErrKind kind, const char *what, const char *name)
{
    char reason[REASON_BYTES] = "HDF5 gives no reason";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_innermost, reason);
    return err_new(kind, "%s %s: %s", what, name, reason);
}

/* Close an id of any kind, unless it was never opened. */
static void drop(hid_t id)
{
    if (id > 0) H5Idec_ref(id);
}

/* ---- files ---- */

static hid_t access_list(void)
{
    H5dont_atexit(); /* after a failed write, HDF5 1.10 crashes in its exit handler; our files are all closed by then */
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* reasons go into an Err, not to stderr */
    H5PLset_loading_state(0);              /* no libraries of HDF5_PLUGIN_PATH, or of HDF5's own folder for them */
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(list, H5F_CLOSE_STRONG);
    H5Pset_libver_bounds(list, H5F_LIBVER_V110, H5F_LIBVER_V110); /* with checksums; every HDF5 from 1.10 on reads it */
#if H5_VERSION_GE(1, 10, 7)
    H5Pset_file_locking(list, false, true); /* nobody else opens a draft, and some network file systems cannot lock */
#endif
    return list;
}

static Err *remember_path(H5File *file, const char *path)
{
    *file = (H5File){0};
    int n = snprintf(file->path, sizeof file->path, "%s", path);
    return n < 0 || n >= PATH_BYTES ? err_new(ERR_IO, "path too long: %.60s...", path) : NULL;
}

Err *h5_create(H5File *file, const char *path)
{
    TRY(remember_path(file, path));
    hid_t access = access_list(), creation = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_obj_track_times(creation, false);
    hid_t id = H5Fcreate(path, H5F_ACC_EXCL, creation, access);
    Err *err = id < 0 ? failed(ERR_IO, "create", path) : NULL;
    drop(creation);
    drop(access);
    if (err) return err;
    file->id = id;
    file->creating = true;
    return NULL;
}

Err *h5_open(H5File *file, const char *path)
{
    TRY(remember_path(file, path));
    struct stat st;
    FILE *stream = fopen(path, "rbe");
    if (!stream) return err_errno("open %s", path);
    TRY(file_close(&stream, path));
    if (stat(path, &st)) return err_errno("stat %s", path);
    file->bytes = (uint64_t)st.st_size;
    hid_t access = access_list();
    hid_t id = H5Fis_hdf5(path) > 0 ? H5Fopen(path, H5F_ACC_RDONLY, access) : 0;
    Err *err = NULL;
    if (id < 0) err = failed(ERR_FORMAT, "open", path);
    if (id == 0) err = err_new(ERR_FORMAT, "%s is not an HDF5 file", path);
    drop(access);
    if (!err) file->id = id;
    return err;
}

Err *h5_close(H5File *file)
{
    Err *err = NULL;
    if (!file->id) return NULL;
    if (file->creating && H5Fflush(file->id, H5F_SCOPE_GLOBAL) < 0) err = failed(ERR_IO, "write", file->path);
    if (H5Fclose(file->id) < 0 && !err) err = failed(ERR_IO, "close", file->path);
    file->id = 0;
    if (!err) file->creating = false;
    return err;
}

void h5_discard(H5File *file)
{
    if (file->id) H5Fclose(file->id);
    if (file->creating) unlink(file->path);
    file->id = 0;
    file->creating = false;
}

/* ---- groups ---- */

static Err *one_group(H5File *file, const char *name)
{
    if (H5Lexists(file->id, name, H5P_DEFAULT) > 0) return NULL;
    hid_t creation = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(creation, false);
    hid_t group = H5Gcreate2(file->id, name, H5P_DEFAULT, creation, H5P_DEFAULT);
    Err *err = group < 0 ? failed(ERR_IO, "make group", name) : NULL;
    drop(group);
    drop(creation);
    return err;
}

/* Make the groups above a name. HDF5 could do it itself, but would store the time in each. */
static Err *groups_above(H5File *file, const char *name)
{
    char part[PATH_BYTES];
    if (strlen(name) >= sizeof part) return err_new(ERR_IO, "name too long: %.60s...", name);
    for (const char *slash = name; (slash = strchr(slash + 1, '/'));) {
        memcpy(part, name, (size_t)(slash - name));
        part[slash - name] = 0;
        TRY(one_group(file, part));
    }
    return NULL;
}

Err *h5_group(H5File *file, const char *name)
{
    TRY(groups_above(file, name));
    return one_group(file, name);
}

/* ---- arrays ---- */

static Err *check_dims(const char *name, size_t n_dims, const size_t *dims)
{
    bool good = n_dims >= 1 && n_dims <= H5_DIMS;
    for (size_t i = 0; good && i < n_dims; i++) good = dims[i] > 0;
    if (good) return NULL;
    return err_new(ERR_IO, "array %s: shape %s; expected 1 to 3 dimensions, none zero", name,
                   h5_dims(n_dims < H5_DIMS ? n_dims : H5_DIMS, dims).text);
}

Err *h5_make(H5File *file, const char *name, H5Type type, size_t n_dims, const size_t *dims)
{
    TRY(check_dims(name, n_dims, dims));
    TRY(groups_above(file, name));
    hsize_t size[H5_DIMS];
    for (size_t i = 0; i < n_dims; i++) size[i] = dims[i];
    Err *err = NULL;
    hid_t creation = h5_storage_new(h5_type_bytes(type), n_dims, dims), array = 0;
    hid_t space = H5Screate_simple((int)n_dims, size, NULL);
    if (creation < 0 ||
        (array = H5Dcreate2(file->id, name, h5_type_stored(type), space, H5P_DEFAULT, creation, H5P_DEFAULT)) < 0)
        err = failed(ERR_IO, "make array", name);
    drop(array);
    drop(space);
    drop(creation);
    return err;
}

/* Select a piece of an open array; *memory becomes a space of the shape of the piece. */
static Err *select_slab(hid_t array, const char *name, size_t n_dims, const size_t *begin, const size_t *count,
                        hid_t *stored, hid_t *memory)
{
    TRY(check_dims(name, n_dims, count));
    hsize_t start[H5_DIMS], size[H5_DIMS], whole[H5_DIMS];
    *stored = H5Dget_space(array);
    if (H5Sget_simple_extent_ndims(*stored) != (int)n_dims || H5Sget_simple_extent_dims(*stored, whole, NULL) < 0)
        return err_new(ERR_FORMAT, "array %s has %d dimensions; expected %zu", name,
                       H5Sget_simple_extent_ndims(*stored), n_dims);
    for (size_t i = 0; i < n_dims; i++) {
        start[i] = begin[i];
        size[i] = count[i];
        if (begin[i] > whole[i] || count[i] > whole[i] - begin[i])
            return err_new(ERR_FORMAT, "array %s: %zu elements from %zu of dimension %zu, which has %llu", name,
                           count[i], begin[i], i, (unsigned long long)whole[i]);
    }
    *memory = H5Screate_simple((int)n_dims, size, NULL);
    if (*memory < 0 || H5Sselect_hyperslab(*stored, H5S_SELECT_SET, start, NULL, size, NULL) < 0)
        return failed(ERR_IO, "select a piece of array", name);
    return NULL;
}

Err *h5_write_slab(H5File *file, const char *name, H5Type type, size_t n_dims, const size_t *begin, const size_t *count,
                   const void *data)
{
    Err *err = NULL;
    hid_t stored = 0, memory = 0, array = H5Dopen2(file->id, name, H5P_DEFAULT);
    if (array < 0) return failed(ERR_IO, "open array", name);
    if ((err = select_slab(array, name, n_dims, begin, count, &stored, &memory))) goto done;
    if (H5Dwrite(array, h5_type_memory(type), memory, stored, H5P_DEFAULT, data) < 0) {
        err = failed(ERR_IO, "write array", name);
        goto done;
    }
    if (H5Dclose(array) < 0) err = failed(ERR_IO, "write array", name); /* chunks leave the cache here */
    array = 0;
done:
    drop(memory);
    drop(stored);
    drop(array);
    return err;
}

Err *h5_write(H5File *file, const char *name, H5Type type, size_t n_dims, const size_t *dims, const void *data)
{
    static const size_t origin[H5_DIMS] = {0};
    TRY(h5_make(file, name, type, n_dims, dims));
    return h5_write_slab(file, name, type, n_dims, origin, dims, data);
}

static Err *type_of(hid_t array, const char *name, H5Type *type)
{
    hid_t stored = H5Dget_type(array);
    *type = h5_type_find(stored);
    drop(stored);
    return *type < H5_TYPES ? NULL : err_new(ERR_FORMAT, "array %s has a type that no checkpoint has", name);
}

/* Open an array to read it, if it lies in the file as a checkpoint's arrays do. */
static Err *open_array(const H5File *file, const char *name, hid_t *array)
{
    *array = 0;
    TRY(h5_storage_check_path(file->id, name));
    *array = H5Dopen2(file->id, name, H5P_DEFAULT);
    return *array < 0 ? failed(ERR_FORMAT, "open array", name) : h5_storage_check(*array, name, file->bytes);
}

Err *h5_shape(const H5File *file, const char *name, H5Type *type, size_t *n_dims, size_t dims[H5_DIMS])
{
    hid_t array, space;
    Err *err = open_array(file, name, &array);
    if (!err) err = type_of(array, name, type);
    if (err) {
        drop(array);
        return err;
    }
    hsize_t size[H5_DIMS] = {0};
    space = H5Dget_space(array);
    int n = H5Sget_simple_extent_ndims(space);
    if (!err && (n < 1 || n > H5_DIMS))
        err = err_new(ERR_FORMAT, "array %s has %d dimensions; expected 1 to 3", name, n);
    if (!err && H5Sget_simple_extent_dims(space, size, NULL) < 0) err = failed(ERR_FORMAT, "shape of array", name);
    drop(space);
    drop(array);
    if (err) return err;
    *n_dims = (size_t)n;
    for (int i = 0; i < H5_DIMS; i++) dims[i] = (size_t)size[i];
    return NULL;
}

Err *h5_read_slab(const H5File *file, const char *name, H5Type type, size_t n_dims, const size_t *begin,
                  const size_t *count, void *data)
{
    H5Type found;
    hid_t stored = 0, memory = 0, array;
    Err *err = open_array(file, name, &array);
    if (err) goto done;
    if ((err = type_of(array, name, &found))) goto done;
    if (found != type) {
        err = err_new(ERR_FORMAT, "array %s is %s; expected %s", name, h5_type_name(found), h5_type_name(type));
        goto done;
    }
    if ((err = select_slab(array, name, n_dims, begin, count, &stored, &memory))) goto done;
    if (H5Dread(array, h5_type_memory(type), memory, stored, H5P_DEFAULT, data) < 0)
        err = failed(ERR_FORMAT, "read array", name);
done:
    drop(memory);
    drop(stored);
    drop(array);
    return err;
}

Err *h5_read(const H5File *file, const char *name, H5Type type, size_t n_dims, const size_t *dims, void *data)
{
    static const size_t origin[H5_DIMS] = {0};
    H5Type found;
    size_t n, size[H5_DIMS];
    TRY(h5_shape(file, name, &found, &n, size));
    if (n != n_dims || memcmp(size, dims, n * sizeof *size))
        return err_new(ERR_FORMAT, "array %s is %s; expected %s", name, h5_dims(n, size).text,
                       h5_dims(n_dims, dims).text);
    return h5_read_slab(file, name, type, n_dims, origin, dims, data);
}

/* ---- the list of arrays ---- */

typedef struct {
    Err *(*visit)(void *context, const char *name);
    void *context;
    Err *err;
} Visit;

static herr_t visit_link(hid_t group, const char *name, const H5L_info_t *link, void *context)
{
    Visit *visit = context;
    if (link->type != H5L_TYPE_HARD) {
        visit->err = err_new(ERR_FORMAT, "%s is a link to elsewhere; expected a group or an array", name);
        return 1;
    }
    hid_t object = H5Oopen(group, name, H5P_DEFAULT);
    if (object < 0) visit->err = failed(ERR_FORMAT, "open", name);
    H5I_type_t kind = object < 0 ? H5I_BADID : H5Iget_type(object);
    drop(object);
    if (kind == H5I_DATASET) visit->err = visit->visit(visit->context, name);
    return visit->err ? 1 : 0;
}

Err *h5_visit(const H5File *file, const char *group, Err *(*visit)(void *context, const char *name), void *context)
{
    Visit each = {visit, context, NULL};
    TRY(h5_storage_check_path(file->id, group));
    if (H5Lvisit_by_name(file->id, group, H5_INDEX_NAME, H5_ITER_INC, visit_link, &each, H5P_DEFAULT) < 0 && !each.err)
        return failed(ERR_FORMAT, "list group", group);
    return each.err;
}

/* ---- attributes ---- */

static Err *set_attribute(H5File *file, const char *object, const char *key, hid_t stored, hid_t memory,
                          const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR), lists = H5P_DEFAULT;
    hid_t attribute = H5Acreate_by_name(file->id, object, key, stored, space, lists, lists, lists);
    Err *err = NULL;
    if (attribute < 0 || H5Awrite(attribute, memory, value) < 0) err = failed(ERR_IO, "write attribute", key);
    drop(attribute);
    drop(space);
    return err;
}

Err *h5_set_text(H5File *file, const char *object, const char *key, const char *text)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, strlen(text) + 1); /* the terminating zero counts, so an empty text has a size */
    H5Tset_cset(type, H5T_CSET_UTF8);
    Err *err = set_attribute(file, object, key, type, type, text);
    drop(type);
    return err;
}

Err *h5_set_u64(H5File *file, const char *object, const char *key, uint64_t value)
{
    return set_attribute(file, object, key, H5T_STD_U64LE, H5T_NATIVE_UINT64, &value);
}

/* Open an attribute that holds one value; *type is as stored. */
static Err *open_attribute(const H5File *file, const char *object, const char *key, hid_t *attribute, hid_t *type)
{
    *attribute = *type = 0;
    TRY(h5_storage_check_path(file->id, object));
    htri_t exists = H5Aexists_by_name(file->id, object, key, H5P_DEFAULT);
    if (exists < 0) return failed(ERR_FORMAT, "look for attribute", key);
    if (!exists) return err_new(ERR_FORMAT, "attribute %s is missing", key);
    *attribute = H5Aopen_by_name(file->id, object, key, H5P_DEFAULT, H5P_DEFAULT);
    if (*attribute < 0) return failed(ERR_FORMAT, "open attribute", key);
    *type = H5Aget_type(*attribute);
    hid_t space = H5Aget_space(*attribute);
    hssize_t n = H5Sget_simple_extent_npoints(space);
    drop(space);
    return n == 1 ? NULL : err_new(ERR_FORMAT, "attribute %s has %lld values; expected 1", key, (long long)n);
}

Err *h5_get_text(const H5File *file, const char *object, const char *key, char **text)
{
    hid_t attribute, type;
    char *out = NULL;
    Err *err = open_attribute(file, object, key, &attribute, &type);
    if (err) goto done;
    size_t bytes = H5Tget_size(type);
    if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) > 0) {
        err = err_new(ERR_FORMAT, "attribute %s is not a text of fixed length", key);
        goto done;
    }
    if (bytes > TEXT_BYTES_MAX || bytes > file->bytes) {
        err = err_new(ERR_FORMAT, "attribute %s is a text of %zu bytes; the whole file has %llu, and a text at most %d",
                      key, bytes, (unsigned long long)file->bytes, TEXT_BYTES_MAX);
        goto done;
    }
    if ((err = mem_new(&out, bytes + 1, 1))) goto done;
    if (H5Aread(attribute, type, out) < 0) err = failed(ERR_FORMAT, "read attribute", key);
done:
    drop(type);
    drop(attribute);
    if (err)
        free(out);
    else
        *text = out;
    return err;
}

Err *h5_get_u64(const H5File *file, const char *object, const char *key, uint64_t *value)
{
    hid_t attribute, type;
    Err *err = open_attribute(file, object, key, &attribute, &type);
    if (!err && H5Tequal(type, H5T_STD_U64LE) <= 0) err = err_new(ERR_FORMAT, "attribute %s is of another type", key);
    if (!err && H5Aread(attribute, H5T_NATIVE_UINT64, value) < 0) err = failed(ERR_FORMAT, "read attribute", key);
    drop(type);
    drop(attribute);
    return err;
}
