/* Files of records -> documents. Small data is preloaded: read once, at the start, and kept in memory as tokens. Of
 * large data only the positions of records are kept (data/records/record_index.h), and a document is built when it is
 * needed. */
#ifndef GRAFT_DATA_RECORDS_DATASET_H
#define GRAFT_DATA_RECORDS_DATASET_H

#include "data/records/document.h"

/* Data files, and how often an epoch uses each: weight 2 means twice, 0.5 a random half. */
typedef struct {
    char *path;
    double weight;
} DataFile;

typedef struct {
    DataFile *items;
    size_t n;
} DataFiles;

/* From a setting: a path, a list of them, or a list of {"path": ..., "weight": ...}. Fails: ERR_USAGE. */
MUST_USE Err *data_files_read(DataFiles *files, const Json *setting);
void data_files_free(DataFiles *files);

typedef struct {
    DocumentOptions document;
    size_t preload_bytes;  /* preload when all files together are not larger; SIZE_MAX: always */
    const char *directory; /* for the index files; needed unless preload_bytes is SIZE_MAX */
} DatasetOptions;

typedef struct {
    size_t documents, tokens, n_loss_tokens;
    size_t truncated; /* documents that were cut to max_length */
    size_t dropped;   /* records that were left out because they are too long */
    size_t longest;   /* tokens */
} DatasetTotals;

typedef struct Dataset Dataset;

/* Open plain or compressed files; blank lines are skipped. Large files are only begun to be indexed: see dataset_ready.
 * Owner: the caller; the tokenizer and what options point to are borrowed, files are copied.
 * Fails: ERR_IO; ERR_DATA, with file and line, when a record is not JSON, has no known format or no token in the loss;
 *        ERR_DATA, when a file has no records. */
MUST_USE Err *dataset_open(Dataset **dataset, const Tokenizer *tokenizer, const DataFiles *files,
                           const DatasetOptions *options);
MUST_USE Err *dataset_open_file(Dataset **dataset, const Tokenizer *tokenizer, const char *path,
                                const DocumentOptions *options); /* preloaded */
void dataset_close(Dataset *dataset);

/* Wait until the positions of all records are known. The functions below may be called only after it has succeeded. */
MUST_USE Err *dataset_ready(Dataset *dataset);

bool dataset_is_preloaded(const Dataset *dataset); /* all documents are in memory */
size_t dataset_count(const Dataset *dataset);
size_t dataset_file_first(const Dataset *dataset,
                          size_t file); /* its first document; for one past the last file: the count */
const DataFile *dataset_file(const Dataset *dataset, size_t file);
size_t dataset_n_files(const Dataset *dataset);

/* Only of a preloaded dataset. */
const Document *dataset_document(const Dataset *dataset, size_t i);
DatasetTotals dataset_totals(const Dataset *dataset);
size_t dataset_n_domains(const Dataset *dataset);
const char *dataset_domain(const Dataset *dataset, size_t domain); /* 0: "" */
DatasetTotals dataset_domain_totals(const Dataset *dataset, size_t domain);

/* Only of a dataset that is not preloaded: build document i with the caller's builder; `line` is scratch. A document
 * that is dropped because it is too long has n = 0. Any number of threads may call it, each with a builder and a line
 * of its own. */
MUST_USE Err *dataset_build(const Dataset *dataset, size_t i, DocumentBuilder *builder, Text *line,
                            BuiltDocument *built);
MUST_USE Err *dataset_builder(const Dataset *dataset, DocumentBuilder **builder);

/* 32 hexadecimal digits that identify the data: a digest of every document's ids and targets, in order. When documents
 * are not preloaded, of every byte of the files and of the first documents. */
enum { DATASET_DIGEST = 33 };
MUST_USE Err *dataset_digest(const Dataset *dataset, char hex[DATASET_DIGEST]);

#endif
