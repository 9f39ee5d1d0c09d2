#include "data/loader.h"

#include "base/memory.h"
#include "base/rng.h"

#include <stdlib.h>

typedef struct { /* what loader_step remembers; it changes how soon the answer comes, never the answer */
    uint64_t epoch;
    uint64_t *order;
    uint32_t *documents; /* the order, narrow */
} Epoch;

struct Loader {
    size_t n_documents, batch;
    uint64_t seed;
    Epoch *kept;
};

Err *loader_open(Loader **out, const Dataset *dataset, size_t train_batch_size, uint64_t seed)
{
    Loader *loader;
    size_t n = dataset_count(dataset);
    *out = NULL;
    if (train_batch_size == 0) return err_new(ERR_USAGE, "train_batch_size is 0; expected 1 at least");
    if (n > UINT32_MAX) return err_new(ERR_DATA, "%zu documents; at most %u fit", n, UINT32_MAX);
    TRY(mem_new(&loader, 1, sizeof *loader));
    *loader = (Loader){.n_documents = n, .batch = train_batch_size, .seed = seed};
    Err *err = mem_new(&loader->kept, 1, sizeof *loader->kept);
    if (!err) err = mem_new(&loader->kept->order, n, sizeof *loader->kept->order);
    if (!err) err = mem_new(&loader->kept->documents, n, sizeof *loader->kept->documents);
    if (err) {
        loader_close(loader);
        return err;
    }
    loader->kept->epoch = UINT64_MAX;
    *out = loader;
    return NULL;
}

void loader_close(Loader *loader)
{
    if (!loader) return;
    if (loader->kept) {
        free(loader->kept->order);
        free(loader->kept->documents);
    }
    free(loader->kept);
    free(loader);
}

size_t loader_steps_per_epoch(const Loader *loader)
{
    return (loader->n_documents + loader->batch - 1) / loader->batch;
}

static void shuffle(const Loader *loader, uint64_t epoch)
{
    Epoch *kept = loader->kept;
    if (kept->epoch == epoch) return;
    rng_shuffle(rng_key(rng_name(loader->seed, "epoch order"), epoch), loader->n_documents, kept->order);
    for (size_t i = 0; i < loader->n_documents; i++) kept->documents[i] = (uint32_t)kept->order[i];
    kept->epoch = epoch;
}

void loader_step(const Loader *loader, uint64_t step, size_t *n, const uint32_t **documents)
{
    size_t steps = loader_steps_per_epoch(loader), from = (size_t)(step % steps) * loader->batch;
    shuffle(loader, step / steps);
    size_t left = loader->n_documents - from;
    *n = left < loader->batch ? left : loader->batch;
    *documents = loader->kept->documents + from;
}
