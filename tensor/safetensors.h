/* One safetensors file: mapped and checked, or written.
 *
 *     8 bytes   N, little-endian            (N <= 100,000,000 and inside the file)
 *     N bytes   JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end)}, "__metadata__": {text: text}}
 *     the rest  the tensors' bytes
 *
 * What always holds after safetensors_open: every name occurs once; every dtype is known; every shape has at most 8
 * dimensions and end - begin is its bytes; the tensors tile the buffer from 0 to its end without overlap or hole.
 * Source: huggingface/safetensors README, "Format", and safetensors/src/tensor.rs. */
#ifndef GRAFT_TENSOR_SAFETENSORS_H
#define GRAFT_TENSOR_SAFETENSORS_H

#include "base/file.h"
#include "tensor/dtype.h"

enum { TENSOR_DIMS = 8 };

typedef struct {
    const char *name;
    DType dtype;
    size_t n_dims, shape[TENSOR_DIMS];
    size_t bytes;
    const void *data; /* in the mapping; not aligned */
} TensorView;

typedef struct {
    char *path;
    FileMap map;
    size_t n_tensors;
    TensorView *tensors; /* sorted by name */
    char *names;         /* one after another, each ended by a zero */
} Safetensors;

/* Fails: ERR_IO, ERR_FORMAT; messages name file and tensor, what was found and what was expected. */
MUST_USE Err *safetensors_open(Safetensors *file, const char *path);
void safetensors_close(Safetensors *file);

/* NULL when there is none of that name. */
const TensorView *safetensors_find(const Safetensors *file, const char *name);

/* Write a file whole or not at all, tensors in the order given, metadata {"format": "pt"}, header padded to 8 bytes. */
MUST_USE Err *safetensors_write(const char *path, const TensorView *tensors, size_t n_tensors);

/* The same for tensors that no memory holds at once: fill writes bytes [at, at + n) of a tensor into out, piece by
 * piece in their order, each a whole number of elements. */
typedef Err *(*TensorFill)(void *context, const TensorView *view, size_t at, size_t n, void *out);
MUST_USE Err *safetensors_write_filled(const char *path, const TensorView *tensors, size_t n_tensors, TensorFill fill,
                                       void *context);

#endif
