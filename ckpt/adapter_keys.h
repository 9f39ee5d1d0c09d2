/* What each tensor of an adapter is: its name, split into a module and a part. */
#ifndef GRAFT_CKPT_ADAPTER_KEYS_H
#define GRAFT_CKPT_ADAPTER_KEYS_H

#include "base/arena.h"
#include "ckpt/adapter_file.h"

typedef struct AdapterStore {
    Safetensors tensors;
    Arena names; /* of modules */
    size_t lora_capacity;
} AdapterStore;

typedef enum { PART_A, PART_B, PART_EMBEDDING_A, PART_EMBEDDING_B } AdapterPart;

/* A tensor whose name was understood. */
typedef struct {
    const char *module;
    AdapterPart part;
    const TensorView *tensor;
} AdapterKey;

typedef struct {
    AdapterFile *file;
    size_t n, unknown;
    AdapterKey *keys;    /* [n] in the file's order, until they are sorted by module and part */
    char *unknown_names; /* the first few */
    size_t n_experts;    /* of the first stacked or fused tensor; 0: there was none yet */
    const char *n_experts_from;
} AdapterReader;

/* Split a tensor's name: it becomes a key, an extra of the file, or an unknown name.
 * Fails: ERR_FORMAT for variants of LoRA that graft does not read, and for other dtypes than F32, BF16, F16. */
MUST_USE Err *adapter_keys_take(AdapterReader *reader, const TensorView *tensor);

int adapter_keys_compare(const void *a, const void *b); /* for qsort */
const AdapterKey *adapter_keys_find(const AdapterReader *reader, const char *module,
                                    AdapterPart part); /* once they are sorted */

#endif
