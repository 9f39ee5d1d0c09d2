/* The element types of arrays in HDF5 files, and how types and shapes are written in messages. Ids are HDF5's. */
#ifndef GRAFT_CKPT_H5_TYPE_H
#define GRAFT_CKPT_H5_TYPE_H

#include <stddef.h>
#include <stdint.h>

typedef enum { H5_F32, H5_F64, H5_I32, H5_I64, H5_U64, H5_TYPES } H5Type;

const char *h5_type_name(H5Type type);
size_t h5_type_bytes(H5Type type);

/* The id of a type, in a file (little-endian) and in memory. Nobody closes it. */
int64_t h5_type_stored(H5Type type);
int64_t h5_type_memory(H5Type type);

/* The type that is stored so; H5_TYPES when there is none. */
H5Type h5_type_find(int64_t stored);

/* "[8][16][64]" for messages. */
typedef struct {
    char text[80];
} H5Dims;
H5Dims h5_dims(size_t n_dims, const size_t *dims);

#endif
