/* Tapes that outlive the forward pass of their layer. Their results lie in pools of their own (Tape.resident);
 * workspace and gradients are the step's. */
#include "train/kept_tapes.h"

#include "base/memory.h"

#include <stdlib.h>

Err *kept_tapes_begin(KeptTapes *kept, size_t n)
{
    if (n == kept->n) return NULL;
    kept_tapes_free(kept);
    TRY(mem_new(&kept->tapes, n, sizeof *kept->tapes));
    kept->n = n;
    return NULL;
}

void kept_tapes_free(KeptTapes *kept)
{
    for (size_t i = 0; i < kept->n; i++) tape_free(&kept->tapes[i].tape);
    free(kept->tapes);
    *kept = (KeptTapes){0};
}

size_t kept_tapes_bytes(const KeptTapes *kept)
{
    size_t bytes = 0;
    for (size_t i = 0; i < kept->n; i++) bytes += kept->tapes[i].tape.own_pool.high_bytes;
    return bytes;
}
