/* An order of documents for each epoch, and, for a dataset that is not preloaded, the steps that two threads prepare
 * ahead in a ring:
 *
 *     ring   [ s ][ s+1 ][ s+2 ][ s+3 ]      s: the step returned last
 *
 *   - Only the caller's thread fills the ring with document numbers, and only it retires a step.
 *   - A worker takes the first document that no worker has taken, builds it, and copies it to its place in the step.
 *   - A step is returned when all of its documents are done. Of several failures the first in order is reported. */
#include "data/records/loader.h"

#include "base/memory.h"
#include "base/rng.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { AHEAD = 4, WORKERS = 2 };

typedef struct { /* the order of one epoch, kept by loader_step to save time */
    uint64_t epoch;
    uint32_t *order;
} EpochOrder;

typedef struct {
    Document document; /* its ids and targets are in storage */
    bool truncated, dropped;
    int32_t *storage; /* [2 n] */
    size_t capacity;
    Err *err;
} LoadedDocument;

typedef struct {
    bool filled;
    uint64_t step;
    size_t n, taken, done;
    uint32_t *records;      /* [batch] */
    LoadedDocument *loaded; /* [batch] */
} PreparedStep;

typedef struct {
    pthread_t thread;
    bool started;
    struct Loader *loader;
    DocumentBuilder *builder;
    Text line;
} Worker;

struct Loader {
    Dataset *dataset;
    size_t n_entries, batch; /* documents of an epoch; of a step */
    uint64_t seed;
    EpochOrder *current;
    const Document **documents; /* [batch] */
    DatasetTotals totals;
    /* only when the dataset is not preloaded */
    PreparedStep ring[AHEAD];
    Worker workers[WORKERS];
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    bool stop, threads;
};

/* ---- the order ---- */

static size_t entries_of(const Dataset *ds, size_t file)
{
    double n = (double)(dataset_file_first(ds, file + 1) - dataset_file_first(ds, file)) *
               dataset_file(ds, file)->weight;
    return n < 1 ? 1 : (size_t)(n + 0.5);
}

/* Add a file's documents as often as its weight says; the last part is a random sample in which every record has the
 * same chance. Source of the sample: Knuth, The Art of Computer Programming 2, section 3.4.2, algorithm S. */
static size_t add_entries(const Loader *loader, size_t file, uint64_t epoch, uint32_t *order)
{
    size_t first = dataset_file_first(loader->dataset, file), n = dataset_file_first(loader->dataset, file + 1) - first;
    size_t wanted = entries_of(loader->dataset, file), at = 0;
    if (n == 0) return 0;
    uint64_t key = rng_key(rng_key(rng_name(loader->seed, "part of a file"), epoch), file);
    while (wanted - at >= n)
        for (size_t i = 0; i < n; i++) order[at++] = (uint32_t)(first + i);
    for (size_t i = 0; i < n && at < wanted; i++)
        if (rng_below(key, i, n - i) < wanted - at) order[at++] = (uint32_t)(first + i);
    return at;
}

static void shuffle(const Loader *loader, uint64_t epoch)
{
    EpochOrder *current = loader->current;
    uint64_t key = rng_key(rng_name(loader->seed, "epoch order"), epoch);
    size_t n = 0;
    if (current->epoch == epoch) return;
    for (size_t file = 0; file < dataset_n_files(loader->dataset); file++)
        n += add_entries(loader, file, epoch, current->order + n);
    for (size_t i = n; i > 1; i--) { /* as rng_shuffle, with 32-bit numbers in half the memory */
        size_t j = (size_t)rng_below(key, i, i);
        uint32_t t = current->order[i - 1];
        current->order[i - 1] = current->order[j];
        current->order[j] = t;
    }
    current->epoch = epoch;
}

size_t loader_steps_per_epoch(const Loader *loader) { return (loader->n_entries + loader->batch - 1) / loader->batch; }

void loader_step(const Loader *loader, uint64_t step, size_t *n, const uint32_t **documents)
{
    size_t steps = loader_steps_per_epoch(loader), from = (size_t)(step % steps) * loader->batch;
    shuffle(loader, step / steps);
    size_t left = loader->n_entries - from;
    *n = left < loader->batch ? left : loader->batch;
    *documents = loader->current->order + from;
}

/* ---- building one ---- */

static Err *load_document(const Dataset *ds, DocumentBuilder *builder, Text *line, size_t record,
                          LoadedDocument *loaded)
{
    BuiltDocument built;
    TRY(dataset_build(ds, record, builder, line, &built));
    size_t n = built.document.n;
    TRY(mem_grow(&loaded->storage, &loaded->capacity, 2 * n + 1, sizeof *loaded->storage));
    loaded->document = built.document;
    loaded->document.ids = loaded->storage;
    loaded->document.targets = loaded->storage + n;
    if (n) memcpy(loaded->document.ids, built.document.ids, n * sizeof *loaded->storage);
    if (n) memcpy(loaded->document.targets, built.document.targets, n * sizeof *loaded->storage);
    loaded->truncated = built.truncated;
    loaded->dropped = built.dropped;
    return NULL;
}

/* ---- workers ---- */

/* The earliest step with a document that no worker has taken. */
static PreparedStep *find_unfinished(Loader *loader)
{
    PreparedStep *found = NULL;
    for (size_t k = 0; k < AHEAD; k++) {
        PreparedStep *prepared = &loader->ring[k];
        if (prepared->filled && prepared->taken < prepared->n && (!found || prepared->step < found->step))
            found = prepared;
    }
    return found;
}

static void *worker_main(void *context)
{
    Worker *worker = context;
    Loader *loader = worker->loader;
    pthread_mutex_lock(&loader->lock);
    while (!loader->stop) {
        PreparedStep *prepared = find_unfinished(loader);
        if (!prepared) {
            pthread_cond_wait(&loader->work, &loader->lock);
            continue;
        }
        size_t i = prepared->taken++;
        pthread_mutex_unlock(&loader->lock);
        Err *err = load_document(loader->dataset, worker->builder, &worker->line, prepared->records[i],
                                 &prepared->loaded[i]);
        pthread_mutex_lock(&loader->lock);
        prepared->loaded[i].err = err;
        if (++prepared->done == prepared->n || prepared->done == prepared->taken) pthread_cond_broadcast(&loader->done);
    }
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

/* ---- the ring, under the lock ---- */

static void retire(Loader *loader, PreparedStep *prepared)
{
    prepared->n = prepared->taken; /* documents that are not begun are given up */
    while (prepared->done < prepared->taken) pthread_cond_wait(&loader->done, &loader->lock);
    for (size_t i = 0; i < prepared->taken; i++) {
        err_free(prepared->loaded[i].err);
        prepared->loaded[i].err = NULL;
    }
    prepared->filled = false;
}

static PreparedStep *find_step(Loader *loader, uint64_t step)
{
    for (size_t k = 0; k < AHEAD; k++)
        if (loader->ring[k].filled && loader->ring[k].step == step) return &loader->ring[k];
    return NULL;
}

/* Make the ring hold steps step .. step + AHEAD - 1. */
static PreparedStep *fill_ring(Loader *loader, uint64_t step)
{
    for (size_t k = 0; k < AHEAD; k++) {
        PreparedStep *prepared = &loader->ring[k];
        if (prepared->filled && (prepared->step < step || prepared->step >= step + AHEAD)) retire(loader, prepared);
    }
    for (uint64_t s = step; s < step + AHEAD; s++) {
        const uint32_t *records;
        PreparedStep *prepared = loader->ring;
        if (find_step(loader, s)) continue;
        while (prepared->filled) prepared++;
        loader_step(loader, s, &prepared->n, &records);
        memcpy(prepared->records, records, prepared->n * sizeof *records);
        prepared->taken = prepared->done = 0;
        prepared->step = s;
        prepared->filled = true;
    }
    pthread_cond_broadcast(&loader->work);
    return find_step(loader, step);
}

static Err *first_failure(PreparedStep *prepared)
{
    for (size_t i = 0; i < prepared->n; i++) {
        Err *err = prepared->loaded[i].err;
        prepared->loaded[i].err = NULL;
        if (err) return err;
    }
    return NULL;
}

/* ---- returning a step ---- */

static void count_document(DatasetTotals *t, const LoadedDocument *loaded)
{
    t->dropped += loaded->dropped;
    if (loaded->dropped) return;
    t->documents++;
    t->tokens += loaded->document.n;
    t->n_loss_tokens += loaded->document.n_loss_tokens;
    t->truncated += loaded->truncated;
    if (loaded->document.n > t->longest) t->longest = loaded->document.n;
}

/* Load the next document in the epoch's order that is not dropped, in place of the step's first. */
static Err *replace_dropped(Loader *loader, uint64_t step, LoadedDocument *loaded)
{
    size_t steps = loader_steps_per_epoch(loader), at = (size_t)(step % steps) * loader->batch, n;
    const uint32_t *records;
    DocumentBuilder *builder;
    Text line = {0};
    Err *err = dataset_builder(loader->dataset, &builder);
    if (err) return err;
    loader_step(loader, step, &n, &records);
    for (size_t k = n; k < loader->n_entries && loaded->dropped && !err; k++)
        err = load_document(loader->dataset, builder, &line, loader->current->order[(at + k) % loader->n_entries],
                            loaded);
    if (!err && loaded->dropped) err = err_new(ERR_DATA, "every record is longer than max_length");
    text_free(&line);
    document_builder_free(builder);
    return err;
}

static Err *collect(Loader *loader, PreparedStep *prepared, size_t *n)
{
    TRY(first_failure(prepared));
    *n = 0;
    for (size_t i = 0; i < prepared->n; i++) {
        count_document(&loader->totals, &prepared->loaded[i]);
        if (!prepared->loaded[i].dropped) loader->documents[(*n)++] = &prepared->loaded[i].document;
    }
    if (*n) return NULL;
    TRY(replace_dropped(loader, prepared->step, &prepared->loaded[0]));
    count_document(&loader->totals, &prepared->loaded[0]);
    loader->documents[(*n)++] = &prepared->loaded[0].document;
    return NULL;
}

Err *loader_documents(Loader *loader, uint64_t step, size_t *n, const Document *const **documents)
{
    *documents = loader->documents;
    if (dataset_is_preloaded(loader->dataset)) {
        const uint32_t *records;
        loader_step(loader, step, n, &records);
        for (size_t i = 0; i < *n; i++) loader->documents[i] = dataset_document(loader->dataset, records[i]);
        return NULL;
    }
    pthread_mutex_lock(&loader->lock);
    PreparedStep *prepared = fill_ring(loader, step);
    while (prepared->done < prepared->n) pthread_cond_wait(&loader->done, &loader->lock);
    Err *err = collect(loader, prepared, n);
    pthread_mutex_unlock(&loader->lock);
    return err;
}

DatasetTotals loader_totals(const Loader *loader) { return loader->totals; }

/* ---- opening and closing ---- */

static Err *start_worker(Loader *loader, Worker *worker)
{
    worker->loader = loader;
    TRY(dataset_builder(loader->dataset, &worker->builder));
    if (pthread_create(&worker->thread, NULL, worker_main, worker))
        return err_new(ERR_MEMORY, "cannot start a thread for reading data");
    worker->started = true;
    return NULL;
}

static Err *start_threads(Loader *loader)
{
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->work, NULL);
    pthread_cond_init(&loader->done, NULL);
    loader->threads = true;
    for (size_t k = 0; k < AHEAD; k++) {
        TRY(mem_new(&loader->ring[k].records, loader->batch, sizeof *loader->ring[k].records));
        TRY(mem_new(&loader->ring[k].loaded, loader->batch, sizeof *loader->ring[k].loaded));
    }
    for (size_t i = 0; i < WORKERS; i++) TRY(start_worker(loader, &loader->workers[i]));
    return NULL;
}

static Err *prepare(Loader *loader)
{
    size_t n = 0;
    for (size_t file = 0; file < dataset_n_files(loader->dataset); file++)
        if (dataset_file_first(loader->dataset, file + 1) > dataset_file_first(loader->dataset, file))
            n += entries_of(loader->dataset, file);
    if (n > UINT32_MAX || dataset_count(loader->dataset) > UINT32_MAX)
        return err_new(ERR_DATA, "%zu documents; at most %u fit", n, UINT32_MAX);
    loader->n_entries = n;
    if (loader->batch > n) loader->batch = n; /* a step ends with the epoch */
    TRY(mem_new(&loader->documents, loader->batch, sizeof *loader->documents));
    TRY(mem_new(&loader->current, 1, sizeof *loader->current));
    loader->current->epoch = UINT64_MAX;
    TRY(mem_new(&loader->current->order, n, sizeof *loader->current->order));
    return dataset_is_preloaded(loader->dataset) ? NULL : start_threads(loader);
}

Err *loader_open(Loader **out, Dataset *dataset, size_t train_batch_size, uint64_t seed)
{
    Loader *loader;
    *out = NULL;
    if (train_batch_size == 0) return err_new(ERR_USAGE, "train_batch_size is 0; expected 1 at least");
    TRY(dataset_ready(dataset));
    TRY(mem_new(&loader, 1, sizeof *loader));
    loader->dataset = dataset;
    loader->batch = train_batch_size;
    loader->seed = seed;
    Err *err = prepare(loader);
    if (err)
        loader_close(loader);
    else
        *out = loader;
    return err;
}

static void stop_threads(Loader *loader)
{
    if (!loader->threads) return;
    pthread_mutex_lock(&loader->lock);
    loader->stop = true;
    pthread_cond_broadcast(&loader->work);
    pthread_mutex_unlock(&loader->lock);
    for (size_t i = 0; i < WORKERS; i++) {
        if (loader->workers[i].started) pthread_join(loader->workers[i].thread, NULL);
        document_builder_free(loader->workers[i].builder);
        text_free(&loader->workers[i].line);
    }
    pthread_cond_destroy(&loader->work);
    pthread_cond_destroy(&loader->done);
    pthread_mutex_destroy(&loader->lock);
}

void loader_close(Loader *loader)
{
    if (!loader) return;
    stop_threads(loader);
    for (size_t k = 0; k < AHEAD; k++) {
        for (size_t i = 0; loader->ring[k].loaded && i < loader->batch; i++) {
            free(loader->ring[k].loaded[i].storage);
            err_free(loader->ring[k].loaded[i].err);
        }
        free(loader->ring[k].loaded);
        free(loader->ring[k].records);
    }
    if (loader->current) free(loader->current->order);
    free(loader->current);
    free(loader->documents);
    free(loader);
}
