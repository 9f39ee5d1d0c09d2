/* Everything is asked of HDF5's description of an array (its creation list, its space), which is read with the array's
 * header. The order matters: the size of a virtual array is asked for only when it is known not to be virtual, since
 * HDF5 looks into the other files for it. */
#include "ckpt/h5_storage.h"

#include "base/file.h"

#include <hdf5.h>
#include <string.h>

enum { CHUNK_BYTES = 1 << 20, SPACE_DIMS = H5S_MAX_RANK };

/* ---- what is written ---- */

/* As many whole elements of a row, then whole rows, then whole planes as fit into CHUNK_BYTES. */
static void choose_chunk(hsize_t *chunk, size_t element_bytes, size_t n_dims, const size_t *dims)
{
    size_t remaining = CHUNK_BYTES / element_bytes; /* elements */
    for (size_t i = n_dims; i-- > 0;) {
        chunk[i] = dims[i] < remaining ? dims[i] : remaining;
        remaining /= chunk[i]; /* at least 1, since chunk[i] <= remaining */
    }
}

int64_t h5_storage_new(size_t element_bytes, size_t n_dims, const size_t *dims)
{
    hsize_t chunk[SPACE_DIMS];
    choose_chunk(chunk, element_bytes, n_dims, dims);
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    if (H5Pset_obj_track_times(list, false) >= 0 && H5Pset_chunk(list, (int)n_dims, chunk) >= 0 &&
        H5Pset_fletcher32(list) >= 0)
        return list;
    if (list > 0) H5Pclose(list);
    return -1;
}

/* ---- what is accepted ---- */

/* Bytes of n_dims dimensions; UINT64_MAX when they do not fit. */
static uint64_t bytes_of(uint64_t element_bytes, int n_dims, const hsize_t *dims)
{
    uint64_t bytes = element_bytes;
    for (int i = 0; i < n_dims; i++)
        if (__builtin_mul_overflow(bytes, dims[i], &bytes)) return UINT64_MAX;
    return bytes;
}

static Err *check_filters(hid_t list, const char *name)
{
    int n = H5Pget_nfilters(list);
    for (int i = 0; i < n; i++) {
        unsigned flags;
        size_t n_values = 0;
        H5Z_filter_t filter = H5Pget_filter2(list, (unsigned)i, &flags, &n_values, NULL, 0, NULL, NULL);
        if (filter != H5Z_FILTER_FLETCHER32)
            return err_new(ERR_FORMAT, "array %s has HDF5 filter %d; expected Fletcher32 (%d) alone", name, (int)filter,
                           H5Z_FILTER_FLETCHER32);
    }
    return n >= 0 ? NULL : err_new(ERR_FORMAT, "array %s has filters that cannot be read", name);
}

static Err *check_chunks(hid_t list, const char *name, uint64_t element_bytes)
{
    hsize_t chunk[SPACE_DIMS];
    int n = H5Pget_chunk(list, SPACE_DIMS, chunk);
    uint64_t bytes = n > 0 && n <= SPACE_DIMS ? bytes_of(element_bytes, n, chunk) : UINT64_MAX;
    if (bytes <= CHUNK_BYTES) return NULL;
    return err_new(ERR_FORMAT, "array %s lies in chunks of %llu bytes; expected at most %d", name,
                   (unsigned long long)bytes, CHUNK_BYTES);
}

static Err *check_list(hid_t list, const char *name, uint64_t element_bytes)
{
    H5D_layout_t layout = H5Pget_layout(list);
    if (layout == H5D_VIRTUAL)
        return err_new(ERR_FORMAT, "array %s is virtual: its values are in other arrays or files; expected them here",
                       name);
    if (H5Pget_external_count(list) != 0)
        return err_new(ERR_FORMAT, "array %s has external storage: its values are in other files; expected them here",
                       name);
    if (layout != H5D_CHUNKED && layout != H5D_CONTIGUOUS && layout != H5D_COMPACT)
        return err_new(ERR_FORMAT, "array %s is stored in a way that no checkpoint has", name);
    Err *err = check_filters(list, name);
    return err || layout != H5D_CHUNKED ? err : check_chunks(list, name, element_bytes);
}

/* An array with chunks that were never written would be read as zeros. */
static Err *check_size(hid_t array, const char *name, uint64_t element_bytes, uint64_t file_bytes)
{
    hsize_t dims[SPACE_DIMS];
    hid_t space = H5Dget_space(array);
    int n = H5Sget_simple_extent_dims(space, dims, NULL);
    if (space > 0) H5Sclose(space);
    uint64_t bytes = n >= 0 ? bytes_of(element_bytes, n, dims) : UINT64_MAX;
    if (bytes > file_bytes)
        return err_new(ERR_FORMAT, "array %s has %llu bytes by its shape; the whole file has %llu", name,
                       (unsigned long long)bytes, (unsigned long long)file_bytes);
    uint64_t stored = H5Dget_storage_size(array);
    if (stored < bytes)
        return err_new(ERR_FORMAT, "array %s has %llu bytes by its shape, but %llu are stored", name,
                       (unsigned long long)bytes, (unsigned long long)stored);
    return NULL;
}

Err *h5_storage_check(int64_t array, const char *name, uint64_t file_bytes)
{
    hid_t list = H5Dget_create_plist(array), type = H5Dget_type(array);
    uint64_t element_bytes = type > 0 ? H5Tget_size(type) : 0;
    Err *err = list > 0 && element_bytes ? check_list(list, name, element_bytes)
                                         : err_new(ERR_FORMAT, "array %s has no type or layout", name);
    if (!err) err = check_size(array, name, element_bytes, file_bytes);
    if (type > 0) H5Tclose(type);
    if (list > 0) H5Pclose(list);
    return err;
}

Err *h5_storage_check_path(int64_t file, const char *path)
{
    char part[PATH_BYTES];
    if (strlen(path) >= sizeof part) return err_new(ERR_FORMAT, "name too long: %.60s...", path);
    for (const char *at = path; *at;) {
        at += strspn(at, "/");
        at += strcspn(at, "/");
        memcpy(part, path, (size_t)(at - path));
        part[at - path] = 0;
        H5L_info_t link;
        if (strspn(part, "/") == strlen(part)) continue;               /* the root */
        if (H5Lget_info(file, part, &link, H5P_DEFAULT) < 0) continue; /* HDF5 names what is missing when it opens it */
        if (link.type != H5L_TYPE_HARD)
            return err_new(ERR_FORMAT, "%s is a%s link to elsewhere; expected a group or an array", part,
                           link.type == H5L_TYPE_EXTERNAL ? "n external" : "");
    }
    return NULL;
}
