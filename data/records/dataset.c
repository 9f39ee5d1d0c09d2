/* A dataset is either preloaded or indexed, as a whole; `preloaded` says which.
 *
 *   - Documents are numbered in the order of files and of records in them; a file's documents are consecutive.
 *   - Preloaded: documents[count] with ids and targets in the arena; dropped records have no number.
 *   - Indexed: every record has a number, and dataset_build makes its document from the file. Nothing changes after
 *     dataset_ready, so any number of threads may build. */
#include "data/records/dataset.h"

#include "base/arena.h"
#include "base/digest.h"
#include "base/memory.h"
#include "base/rng.h"
#include "data/records/record_index.h"
#include "data/text/inflate.h"
#include "data/text/lines.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { COMPRESSION_FACTOR = 8 /* estimated growth of a compressed file */, DIGEST_DOCUMENTS = 64 };

typedef struct {
    DataFile file;
    size_t first;       /* its first document */
    RecordIndex *index; /* NULL: its documents are preloaded */
} DataSource;

typedef struct {
    char *name;
    DatasetTotals totals;
} Domain;

struct Dataset {
    const Tokenizer *tokenizer;
    DocumentOptions options;
    DataSource *sources;
    size_t n_sources;
    bool preloaded;
    size_t count;
    Document *documents; /* when preloaded */
    size_t capacity;
    Arena arena; /* of ids and targets */
    Domain *domains;
    size_t n_domains, domain_capacity;
    uint32_t *domain_slots; /* by name: 0 is a free slot, else the domain's number plus one */
    size_t n_domain_slots;  /* a power of two, more than twice n_domains */
    DatasetTotals totals;
};

/* ---- which files ---- */

static Err *read_data_file(DataFile *file, const Json *item)
{
    const char *path = NULL;
    file->weight = 1;
    if (json_kind(item) == JSON_STRING) return mem_copy_text(&file->path, json_string(item));
    if (json_kind(item) != JSON_OBJECT)
        return err_new(ERR_USAGE, "a data file is %s; expected a path or an object", json_kind_name(item));
    for (const Json *member = json_first(item); member; member = json_next(member))
        if (strcmp(json_key(member), "path") != 0 && strcmp(json_key(member), "weight") != 0)
            return err_new(ERR_USAGE, "a data file has %s; expected path and weight", json_key(member));
    TRY(json_get_string(item, "path", &path));
    TRY(json_may_number(item, "weight", &file->weight));
    if (!(file->weight > 0 && file->weight <= 1000))
        return err_new(ERR_USAGE, "%s: weight is %g; expected above 0, up to 1000", path, file->weight);
    return mem_copy_text(&file->path, path);
}

Err *data_files_read(DataFiles *files, const Json *setting)
{
    bool list = json_kind(setting) == JSON_ARRAY;
    size_t n = list ? json_count(setting) : 1;
    const Json *item = list ? json_first(setting) : setting;
    *files = (DataFiles){0};
    if (n == 0) return err_new(ERR_USAGE, "the list of data files is empty");
    TRY(mem_new(&files->items, n, sizeof *files->items));
    Err *err = NULL;
    for (; files->n < n && !err; item = list ? json_next(item) : item)
        err = read_data_file(&files->items[files->n++], item);
    if (err) data_files_free(files);
    return err;
}

void data_files_free(DataFiles *files)
{
    for (size_t i = 0; i < files->n; i++) free(files->items[i].path);
    free(files->items);
    *files = (DataFiles){0};
}

/* ---- preloaded documents ---- */

/* The slot that has the domain of this name, or the free one where it belongs. */
static uint32_t *slot_of(const Dataset *ds, const char *name)
{
    size_t mask = ds->n_domain_slots - 1, at = rng_name(0, name) & mask;
    while (ds->domain_slots[at] && strcmp(ds->domains[ds->domain_slots[at] - 1].name, name) != 0) at = (at + 1) & mask;
    return &ds->domain_slots[at];
}

static Err *widen_slots(Dataset *ds)
{
    size_t n = ds->n_domain_slots ? 2 * ds->n_domain_slots : 64;
    uint32_t *slots;
    TRY(mem_new(&slots, n, sizeof *slots));
    free(ds->domain_slots);
    ds->domain_slots = slots;
    ds->n_domain_slots = n;
    for (size_t i = 0; i < ds->n_domains; i++) *slot_of(ds, ds->domains[i].name) = (uint32_t)i + 1;
    return NULL;
}

/* The number of a domain, in the order in which they first appear. */
static Err *domain_of(Dataset *ds, const char *name, uint32_t *domain)
{
    if (2 * (ds->n_domains + 1) > ds->n_domain_slots) TRY(widen_slots(ds));
    uint32_t *slot = slot_of(ds, name);
    if (!*slot) {
        TRY(mem_grow(&ds->domains, &ds->domain_capacity, ds->n_domains + 1, sizeof *ds->domains));
        TRY(mem_copy_text(&ds->domains[ds->n_domains].name, name));
        *slot = (uint32_t)++ds->n_domains;
    }
    *domain = *slot - 1;
    return NULL;
}

static void add_to_totals(DatasetTotals *t, const BuiltDocument *built)
{
    const Document *document = &built->document;
    t->dropped += built->dropped;
    if (built->dropped) return;
    t->documents++;
    t->tokens += document->n;
    t->n_loss_tokens += document->n_loss_tokens;
    t->truncated += built->truncated;
    if (document->n > t->longest) t->longest = document->n;
}

static Err *keep_document(Dataset *ds, const BuiltDocument *built, size_t line, size_t file)
{
    Document document = built->document;
    TRY(domain_of(ds, built->domain, &document.domain));
    add_to_totals(&ds->totals, built);
    add_to_totals(&ds->domains[document.domain].totals, built);
    if (built->dropped) return NULL;
    TRY(mem_grow(&ds->documents, &ds->capacity, ds->count + 1, sizeof *ds->documents));
    document.ids = arena_alloc(&ds->arena, 2 * document.n * sizeof *document.ids);
    if (!document.ids) return err_new(ERR_MEMORY, "out of memory for %zu tokens", document.n);
    document.targets = document.ids + document.n;
    memcpy(document.ids, built->document.ids, document.n * sizeof *document.ids);
    memcpy(document.targets, built->document.targets, document.n * sizeof *document.targets);
    document.record = line;
    document.file = (uint32_t)file;
    ds->documents[ds->count++] = document;
    return NULL;
}

static Err *read_lines(Dataset *ds, DocumentBuilder *builder, LineReader *reader, size_t file)
{
    const char *line;
    size_t bytes, records = 0;
    const char *path = ds->sources[file].file.path;
    for (;;) {
        BuiltDocument built;
        TRY(lines_next(reader, &line, &bytes));
        if (!line) break;
        if (json_line_is_blank(line, bytes)) continue;
        size_t number = lines_number(reader);
        Err *err = document_builder_read(builder, line, bytes, &built);
        if (!err) err = keep_document(ds, &built, number, file);
        if (err) return err_wrap(err, "%s: line %zu", path, number);
        records++;
    }
    return records ? NULL : err_new(ERR_DATA, "%s has no records", path);
}

static Err *preload(Dataset *ds)
{
    DocumentBuilder *builder;
    Err *err = NULL;
    TRY(dataset_builder(ds, &builder));
    for (size_t i = 0; i < ds->n_sources && !err; i++) {
        LineReader *reader;
        ds->sources[i].first = ds->count;
        if ((err = lines_open(&reader, ds->sources[i].file.path))) break;
        err = read_lines(ds, builder, reader, i);
        lines_close(reader);
    }
    document_builder_free(builder);
    if (!err && ds->count == 0)
        err = err_new(ERR_DATA, "all %zu records are longer than max_length", ds->totals.dropped);
    return err;
}

/* ---- opening and closing ---- */

static Err *copy_files(Dataset *ds, const DataFiles *files)
{
    TRY(mem_new(&ds->sources, files->n, sizeof *ds->sources));
    for (; ds->n_sources < files->n; ds->n_sources++) {
        DataSource *source = &ds->sources[ds->n_sources];
        source->file.weight = files->items[ds->n_sources].weight;
        TRY(mem_copy_text(&source->file.path, files->items[ds->n_sources].path));
    }
    return NULL;
}

static Err *estimate_bytes(const Dataset *ds, uint64_t *bytes)
{
    *bytes = 0;
    for (size_t i = 0; i < ds->n_sources; i++) {
        struct stat status;
        bool packed;
        TRY(inflate_is_needed(ds->sources[i].file.path, &packed));
        if (stat(ds->sources[i].file.path, &status)) return err_errno("open %s", ds->sources[i].file.path);
        *bytes += (uint64_t)status.st_size * (packed ? COMPRESSION_FACTOR : 1);
    }
    return NULL;
}

static Err *open_files(Dataset *ds, const DatasetOptions *options)
{
    uint64_t bytes;
    DocumentBuilder *builder;
    uint32_t unnamed;
    TRY(dataset_builder(ds, &builder)); /* check the options before long work begins */
    document_builder_free(builder);
    TRY(domain_of(ds, "", &unnamed));
    TRY(estimate_bytes(ds, &bytes));
    ds->preloaded = bytes <= options->preload_bytes;
    if (ds->preloaded) return preload(ds);
    for (size_t i = 0; i < ds->n_sources; i++)
        TRY(record_index_open(&ds->sources[i].index, ds->sources[i].file.path, options->directory));
    return NULL;
}

Err *dataset_open(Dataset **out, const Tokenizer *tokenizer, const DataFiles *files, const DatasetOptions *options)
{
    Dataset *ds;
    *out = NULL;
    TRY(mem_new(&ds, 1, sizeof *ds));
    ds->tokenizer = tokenizer;
    ds->options = options->document;
    Err *err = copy_files(ds, files);
    if (!err) err = open_files(ds, options);
    if (err)
        dataset_close(ds);
    else
        *out = ds;
    return err;
}

Err *dataset_open_file(Dataset **dataset, const Tokenizer *tokenizer, const char *path, const DocumentOptions *options)
{
    char *copy;
    *dataset = NULL;
    TRY(mem_copy_text(&copy, path));
    Err *err = dataset_open(dataset, tokenizer, &(DataFiles){&(DataFile){copy, 1}, 1},
                            &(DatasetOptions){.document = *options, .preload_bytes = SIZE_MAX});
    free(copy);
    return err;
}

Err *dataset_ready(Dataset *ds)
{
    if (ds->preloaded) return NULL;
    ds->count = 0;
    for (size_t i = 0; i < ds->n_sources; i++) {
        DataSource *source = &ds->sources[i];
        TRY(record_index_wait(source->index));
        if (record_index_count(source->index) == 0) return err_new(ERR_DATA, "%s has no records", source->file.path);
        source->first = ds->count;
        ds->count += record_index_count(source->index);
    }
    return NULL;
}

void dataset_close(Dataset *ds)
{
    if (!ds) return;
    for (size_t i = 0; i < ds->n_sources; i++) {
        record_index_close(ds->sources[i].index);
        free(ds->sources[i].file.path);
    }
    for (size_t i = 0; i < ds->n_domains; i++) free(ds->domains[i].name);
    arena_free(&ds->arena);
    free(ds->sources);
    free(ds->domains);
    free(ds->domain_slots);
    free(ds->documents);
    free(ds);
}

/* ---- access ---- */

bool dataset_is_preloaded(const Dataset *ds) { return ds->preloaded; }

size_t dataset_count(const Dataset *ds) { return ds->count; }

size_t dataset_n_files(const Dataset *ds) { return ds->n_sources; }

const DataFile *dataset_file(const Dataset *ds, size_t file) { return &ds->sources[file].file; }

size_t dataset_file_first(const Dataset *ds, size_t file)
{
    return file < ds->n_sources ? ds->sources[file].first : ds->count;
}

const Document *dataset_document(const Dataset *ds, size_t i)
{
    ASSERT(ds->preloaded && i < ds->count, "document %zu of %zu", i, ds->count);
    return &ds->documents[i];
}

DatasetTotals dataset_totals(const Dataset *ds) { return ds->totals; }

size_t dataset_n_domains(const Dataset *ds) { return ds->n_domains; }

const char *dataset_domain(const Dataset *ds, size_t domain) { return ds->domains[domain].name; }

DatasetTotals dataset_domain_totals(const Dataset *ds, size_t domain) { return ds->domains[domain].totals; }

Err *dataset_builder(const Dataset *ds, DocumentBuilder **builder)
{
    return document_builder_new(builder, ds->tokenizer, &ds->options);
}

static Err *at_line(const DataSource *source, size_t record, Err *err)
{
    size_t number = 0;
    err_free(record_index_line_number(source->index, record, &number));
    return err_wrap(err, "%s: line %zu", source->file.path, number);
}

Err *dataset_build(const Dataset *ds, size_t i, DocumentBuilder *builder, Text *line, BuiltDocument *built)
{
    size_t file = 0;
    ASSERT(!ds->preloaded && i < ds->count, "document %zu of %zu", i, ds->count);
    while (file + 1 < ds->n_sources && ds->sources[file + 1].first <= i) file++;
    const DataSource *source = &ds->sources[file];
    TRY(record_index_read(source->index, i - source->first, line));
    Err *err = document_builder_read(builder, line->data, line->n, built);
    if (err) return at_line(source, i - source->first, err);
    built->document.record = i - source->first + 1;
    built->document.file = (uint32_t)file;
    return NULL;
}

/* ---- the digest ---- */

static void add_numbers(Digest *digest, const int32_t *numbers, size_t n) /* the same on every machine */
{
    for (size_t i = 0; i < n; i++) {
        uint32_t x = (uint32_t)numbers[i];
        unsigned char bytes[4] = {(unsigned char)x, (unsigned char)(x >> 8), (unsigned char)(x >> 16),
                                  (unsigned char)(x >> 24)};
        digest_add(digest, bytes, 4);
    }
}

static void add_document(Digest *digest, const Document *document)
{
    add_numbers(digest, &(int32_t){(int32_t)document->n}, 1);
    add_numbers(digest, document->ids, document->n);
    add_numbers(digest, document->targets, document->n);
}

static Err *add_large(const Dataset *ds, Digest *digest)
{
    DocumentBuilder *builder;
    Text line = {0};
    BuiltDocument built;
    for (size_t i = 0; i < ds->n_sources; i++) {
        char text[64];
        uint64_t sum[2];
        record_index_digest(ds->sources[i].index, sum);
        snprintf(text, sizeof text, "%016llx%016llx;", (unsigned long long)sum[0], (unsigned long long)sum[1]);
        digest_add(digest, text, strlen(text));
    }
    TRY(dataset_builder(ds, &builder));
    Err *err = NULL;
    for (size_t i = 0; i < ds->count && i < DIGEST_DOCUMENTS && !err;
         i++) { /* depends on tokenizer, template and options */
        err = dataset_build(ds, i, builder, &line, &built);
        if (!err) add_document(digest, &built.document);
    }
    text_free(&line);
    document_builder_free(builder);
    return err;
}

Err *dataset_digest(const Dataset *ds, char hex[DATASET_DIGEST])
{
    unsigned char sum[DIGEST_SUM_BYTES];
    Digest digest;
    digest_init(&digest);
    if (!ds->preloaded) TRY(add_large(ds, &digest));
    for (size_t i = 0; ds->preloaded && i < ds->count; i++) add_document(&digest, &ds->documents[i]);
    for (size_t i = 0; i < ds->n_sources; i++) { /* other weights are other data */
        char text[40];
        if (ds->n_sources == 1 && ds->sources[i].file.weight == 1) break;
        snprintf(text, sizeof text, "%zu %.17g;", ds->sources[i].first, ds->sources[i].file.weight);
        digest_add(&digest, text, strlen(text));
    }
    digest_end(&digest, sum);
    digest_hex(sum, (DATASET_DIGEST - 1) / 2, hex);
    return NULL;
}
