/* How an array lies in a file: in chunks of at most 1 MiB, each under a Fletcher32 checksum, in the file itself. Arrays
 * are written so. What the file of a stranger has instead is refused before anything of it is read, because HDF5 would
 * read other files of this machine (external storage, virtual arrays, links), run libraries (filters) and ask for any
 * amount of memory.
 *
 * Ids are HDF5's, as in H5File. Sizes of an array come from the file, and are at most its length. */
#ifndef GRAFT_CKPT_H5_STORAGE_H
#define GRAFT_CKPT_H5_STORAGE_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

/* A creation list for an array of such elements; below 0 when HDF5 has failed. Owner: the caller, until H5Pclose. */
int64_t h5_storage_new(size_t element_bytes, size_t n_dims, const size_t *dims);

/* An open array is stored as above, or whole in one place; its elements are all there.
 *   file_bytes  the length of the file
 * Fails: ERR_FORMAT, naming the array and what it has instead. */
MUST_USE Err *h5_storage_check(int64_t array, const char *name, uint64_t file_bytes);

/* No part of the path of a group or array is a soft or external link: HDF5 would follow it, also into other files. */
MUST_USE Err *h5_storage_check_path(int64_t file, const char *path);

#endif
