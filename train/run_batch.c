/* The batch of a step, from the loader. A function of the seed and the step alone, so run_fault.c can recompute a
 * step. group_tokens may differ from call to call: groups never change a bit. */
#include "train/run.h"

Err *run_batch(const Run *run, size_t group_tokens, Batch *batch)
{
    size_t n;
    const Document *const *docs;
    TRY(loader_documents(run->loader, run->done, &n, &docs));
    return batch_new(batch, &run->dp, n, docs, (size_t)run->settings.micro_batch_tokens, group_tokens);
}
