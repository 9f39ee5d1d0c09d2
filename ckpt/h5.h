/* HDF5, checked: arrays and attributes in one file. With h5_storage.c and h5_type.c, the wrapper of the library, which
 * serves one thread at a time.
 *
 *     H5File file = {0};
 *     if ((err = h5_create(&file, path))) goto done;
 *     if ((err = h5_write(&file, "/adapter/lora_A", H5_F32, 2, (size_t[]){r, D}, data))) goto done;
 *     err = h5_close(&file);                     // a full disk may show only here
 * done:
 *     h5_discard(&file);                         // after h5_close: nothing; before: the half-written file is removed
 *
 * Arrays have 1 to 3 dimensions, none of them zero, and lie in chunks of at most 1 MiB under Fletcher32 checksums;
 * HDF5's own structures carry checksums as well (format 1.10). No times are stored: the same calls give the same bytes.
 * Groups in the path of a name are made as needed. A file that is read is not trusted: it cannot make HDF5 read other
 * files, load libraries or ask for more memory than the file is long (ckpt/h5_storage.h).
 * Fails: ERR_IO when creating and writing, ERR_FORMAT when reading what is not as asked, with HDF5's innermost reason.
 * Source: HDF5 reference manual, 1.10. */
#ifndef GRAFT_CKPT_H5_H
#define GRAFT_CKPT_H5_H

#include "base/file.h"
#include "ckpt/h5_type.h"

#include <stdint.h>

enum { H5_DIMS = 3 };

typedef struct {
    int64_t id;     /* HDF5's; 0 when closed */
    bool creating;  /* not yet whole: h5_discard removes it */
    uint64_t bytes; /* the file's length when it was opened to be read */
    char path[PATH_BYTES];
} H5File;

MUST_USE Err *h5_create(H5File *file, const char *path); /* fails when there is such a file */
MUST_USE Err *h5_open(H5File *file, const char *path);   /* to read */
MUST_USE Err *h5_close(H5File *file);
void h5_discard(H5File *file);

/* Make an array and fill it piece by piece, or both at once. A piece is begin[], count[] in each dimension. */
MUST_USE Err *h5_make(H5File *file, const char *name, H5Type type, size_t n_dims, const size_t *dims);
MUST_USE Err *h5_write_slab(H5File *file, const char *name, H5Type type, size_t n_dims, const size_t *begin,
                            const size_t *count, const void *data);
MUST_USE Err *h5_write(H5File *file, const char *name, H5Type type, size_t n_dims, const size_t *dims,
                       const void *data);

/* An array's type and shape. */
MUST_USE Err *h5_shape(const H5File *file, const char *name, H5Type *type, size_t *n_dims, size_t dims[H5_DIMS]);
MUST_USE Err *h5_read_slab(const H5File *file, const char *name, H5Type type, size_t n_dims, const size_t *begin,
                           const size_t *count, void *data);
MUST_USE Err *h5_read(const H5File *file, const char *name, H5Type type, size_t n_dims, const size_t *dims,
                      void *data); /* fails unless the shape is dims */

/* Make a group, which may exist. */
MUST_USE Err *h5_group(H5File *file, const char *name);

/* Call visit with the path of every array below a group, relative to it, in alphabetical order; an error ends it. */
MUST_USE Err *h5_visit(const H5File *file, const char *group, Err *(*visit)(void *context, const char *name),
                       void *context);

/* Attributes of a group or array, "/" for the file. */
MUST_USE Err *h5_set_text(H5File *file, const char *object, const char *key, const char *text);
MUST_USE Err *h5_set_u64(H5File *file, const char *object, const char *key, uint64_t value);
MUST_USE Err *h5_get_text(const H5File *file, const char *object, const char *key, char **text); /* Owner: the caller */
MUST_USE Err *h5_get_u64(const H5File *file, const char *object, const char *key, uint64_t *value);

#endif
