/* Reads a large file with the loader, without a model: the time of a start, the speed of documents, the growth of
 * memory.
 *
 *     make build/bench/tools/loader
 *     sh bench/records.sh 10000000 > big.jsonl                        # 10 GB
 *     build/bench/tools/loader big.jsonl DIRECTORY STEPS [FIRST_STEP] # the index is kept in DIRECTORY
 *
 * A step has 256 documents. Memory is printed as the process's own and as pages of the mapped index. Each line has a
 * hash of the tokens of its step; a start at FIRST_STEP must print the same hash as one that read all steps before
 * it. */
#include "base/log.h"
#include "base/proc_memory.h"
#include "base/rng.h"
#include "data/records/loader.h"

#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 256, N_PRINTED = 10 }; /* documents of a step; approximate number of printed lines */

typedef struct {
    Tokenizer *tokenizer;
    Dataset *dataset;
    Loader *loader;
    double start;
    uint64_t hash, first, steps;
} LoaderBench;

static void print_status(const LoaderBench *b, const char *what)
{
    printf("%7.2f s, cpu %7.2f s  own %5.0f MiB, file pages %5.0f MiB  %s\n", log_seconds() - b->start,
           log_cpu_seconds(), (double)proc_memory_bytes("/proc/self/status", "RssAnon:") / 0x1p20,
           (double)proc_memory_bytes("/proc/self/status", "RssFile:") / 0x1p20, what);
}

static Err *open_loader(LoaderBench *b, char *path, const char *directory)
{
    DatasetOptions options = {.document = {.chat = {.template = CHAT_GLM47}, .max_length = 2048},
                              .directory = directory};
    TRY(tokenizer_open(&b->tokenizer, "examples/tiny-glm5/tokenizer.json"));
    TRY(dataset_open(&b->dataset, b->tokenizer, &(DataFiles){&(DataFile){path, 1}, 1}, &options));
    TRY(loader_open(&b->loader, b->dataset, BATCH, 0));
    print_status(b, "indexed");
    return NULL;
}

static Err *hash_step(LoaderBench *b, uint64_t step)
{
    const Document *const *documents;
    size_t n;
    TRY(loader_documents(b->loader, step, &n, &documents));
    b->hash = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < documents[i]->n; k++) b->hash = rng_mix(b->hash ^ (uint32_t)documents[i]->ids[k]);
    return NULL;
}

static Err *read_steps(LoaderBench *b)
{
    char what[80];
    for (uint64_t s = 0; s < b->steps; s++) {
        TRY(hash_step(b, b->first + s));
        if (s && (s + 1) % (b->steps < N_PRINTED ? 1 : b->steps / N_PRINTED)) continue;
        snprintf(what, sizeof what, "step %llu %016llx, %zu documents", (unsigned long long)(b->first + s),
                 (unsigned long long)b->hash, loader_totals(b->loader).documents);
        print_status(b, what);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: loader FILE DIRECTORY STEPS [FIRST_STEP]\n");
        return ERR_USAGE;
    }
    LoaderBench b = {.start = log_seconds(),
                     .steps = strtoull(argv[3], NULL, 10),
                     .first = argc > 4 ? strtoull(argv[4], NULL, 10) : 0};
    Err *err = open_loader(&b, argv[1], argv[2]);
    if (!err) err = read_steps(&b);
    loader_close(b.loader);
    dataset_close(b.dataset);
    tokenizer_close(b.tokenizer);
    return err_report("loader", err);
}
