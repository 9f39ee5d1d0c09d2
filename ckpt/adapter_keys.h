/* Which tensor of an adapter is what: names cut into a module and a part. */
#ifndef GRAFT_CKPT_ADAPTER_KEYS_H
#define GRAFT_CKPT_ADAPTER_KEYS_H

#include "base/arena.h"
#include "ckpt/adapter_file.h"

typedef struct AdapterStore {
    Safetensors tensors;
    Arena names;
    size_t pair_capacity;
} Store;

typedef enum { PART_A, PART_B, PART_EMBEDDING_A, PART_EMBEDDING_B } Part;

/* A tensor, understood. */
typedef struct {
    const char *module;
    Part part;
    const TensorView *tensor;
} Key;

typedef struct {
    AdapterFile *file;
    size_t n, unknown;
    Key *keys;           /* [n] in the file's order, until they are sorted by module and part */
    char *unknown_names; /* the first few */
    size_t n_experts;    /* what the first stacked or fused tensor said; 0: none yet */
    const char *n_experts_from;
} Reader;

/* Take a tensor's name apart: a key, an extra of the file, or an unknown name. Fails: ERR_FORMAT for what is refused. */
MUST_USE Err *keys_take(Reader *reader, const TensorView *tensor);

int keys_by_module_and_part(const void *a, const void *b);                 /* for qsort */
const Key *keys_find(const Reader *reader, const char *module, Part part); /* once they are sorted */

/* `printf` into the file's own memory. */
PRINTF(3, 4) MUST_USE Err *keys_name(AdapterFile *file, const char **out, const char *format, ...);
bool keys_ends_with(const char *text, const char *tail);

#endif
