/* Five types, each with one form in files, whatever the machine's byte order, and one in memory. */
#include "ckpt/h5_type.h"

#include <hdf5.h>
#include <stdio.h>

static const struct {
    const char *name;
    size_t bytes;
} types[H5_TYPES] = {
    [H5_F32] = {"float32", 4}, [H5_F64] = {"float64", 8}, [H5_I32] = {"int32", 4},
    [H5_I64] = {"int64", 8},   [H5_U64] = {"uint64", 8},
};

const char *h5_type_name(H5Type type) { return types[type].name; }
size_t h5_type_bytes(H5Type type) { return types[type].bytes; }

int64_t h5_type_stored(H5Type type)
{
    switch (type) {
    case H5_F32: return H5T_IEEE_F32LE;
    case H5_F64: return H5T_IEEE_F64LE;
    case H5_I32: return H5T_STD_I32LE;
    case H5_I64: return H5T_STD_I64LE;
    default: return H5T_STD_U64LE;
    }
}

int64_t h5_type_memory(H5Type type)
{
    switch (type) {
    case H5_F32: return H5T_NATIVE_FLOAT;
    case H5_F64: return H5T_NATIVE_DOUBLE;
    case H5_I32: return H5T_NATIVE_INT32;
    case H5_I64: return H5T_NATIVE_INT64;
    default: return H5T_NATIVE_UINT64;
    }
}

H5Type h5_type_find(int64_t stored)
{
    H5Type type = 0;
    while (type < H5_TYPES && H5Tequal(stored, h5_type_stored(type)) <= 0) type++;
    return type;
}

H5Dims h5_dims(size_t n_dims, const size_t *dims)
{
    H5Dims out = {"[]"};
    for (size_t i = 0, at = 0; i < n_dims && at < sizeof out.text; i++)
        at += (size_t)snprintf(out.text + at, sizeof out.text - at, "[%zu]", dims[i]);
    return out;
}
