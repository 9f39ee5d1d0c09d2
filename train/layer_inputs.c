/* In two buffers, state i lies in buffer i mod 2: while layer i works, its input is in one and its output goes to the
 * other. The last two states are never written to the file, because the backward pass begins with them. */
#include "train/layer_inputs.h"

#include "base/direct_io.h"
#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>

static bool in_file(const LayerInputs *b, size_t i) { return b->directory && i + 2 < b->n; }

Err *layer_inputs_begin(LayerInputs *b, size_t n, size_t floats, const char *directory)
{
    b->n = n;
    b->state_bytes = direct_round(floats * sizeof(float));
    b->directory = n > 2 ? directory : NULL;
    size_t need = (b->directory ? 2 : n) * b->state_bytes + DIRECT_ALIGN;
    TRY(mem_renew(&b->block, &b->capacity, need, 1));
    b->states = b->block + (DIRECT_ALIGN - (uintptr_t)b->block % DIRECT_ALIGN) % DIRECT_ALIGN;
    size_t file = (n - 2) * b->state_bytes;
    if (!b->directory || (b->scratch.open && b->scratch.bytes >= file)) return NULL;
    scratch_file_close(&b->scratch);
    return scratch_file_open(&b->scratch, directory, file);
}

void layer_inputs_free(LayerInputs *b)
{
    scratch_file_close(&b->scratch);
    free(b->block);
    *b = (LayerInputs){0};
}

float *layer_inputs_at(const LayerInputs *b, size_t i)
{
    return (float *)(void *)(b->states + (b->directory ? i % 2 : i) * b->state_bytes);
}

Err *layer_inputs_store(LayerInputs *b, size_t i)
{
    return in_file(b, i) ? scratch_file_write(&b->scratch, i * b->state_bytes, b->state_bytes, layer_inputs_at(b, i))
                         : NULL;
}

Err *layer_inputs_load(LayerInputs *b, size_t i)
{
    return in_file(b, i) ? scratch_file_read(&b->scratch, i * b->state_bytes, b->state_bytes, layer_inputs_at(b, i))
                         : NULL;
}
