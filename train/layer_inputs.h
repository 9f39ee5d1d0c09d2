/* The stored inputs of layers (hidden states), on this rank's rows: all in memory, or two at a time with the others in
 * a scratch file.
 *
 *     up      layer_inputs_at(0), keep(0), at(1), keep(1), ... at(n - 1)      a state is kept once it is complete
 *     down    fetch(n - 2), at(n - 2), fetch(n - 3), ...
 *
 * In two buffers, state i lies in buffer i mod 2; so the last two need no file, and a state comes back to where it
 * was. */
#ifndef GRAFT_TRAIN_LAYER_INPUTS_H
#define GRAFT_TRAIN_LAYER_INPUTS_H

#include "base/scratch_file.h"

typedef struct {
    size_t n, state_bytes, capacity; /* states; bytes of each, in whole blocks; of the block */
    char *block, *states;            /* allocated; its aligned part */
    const char *directory;           /* of this round; NULL: in memory */
    ScratchFile scratch;
} LayerInputs;

/* Memory, or a file, for n states of `floats` numbers. An empty (all zero) LayerInputs is valid. Fails: ERR_MEMORY,
 * ERR_IO. */
MUST_USE Err *layer_inputs_begin(LayerInputs *b, size_t n, size_t floats, const char *directory);
void layer_inputs_free(LayerInputs *b);

float *layer_inputs_at(const LayerInputs *b, size_t i);
MUST_USE Err *layer_inputs_store(LayerInputs *b, size_t i);
MUST_USE Err *layer_inputs_load(LayerInputs *b, size_t i);

#endif
