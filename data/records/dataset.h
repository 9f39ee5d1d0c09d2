/* Files of records -> documents. What is small is read once, at the start, and kept as tokens; of what is large only
 * the places of records are known (data/records/record_index.h), and a document is made when it is asked for. */
#ifndef GRAFT_DATA_RECORDS_DATASET_H
#define GRAFT_DATA_RECORDS_DATASET_H

#include "data/records/document.h"

/* Data files and how often an epoch goes through each: weight 2 means twice, 0.5 a random half. */
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
    size_t preload_bytes;  /* files that are larger together are not kept; SIZE_MAX: keep all */
    const char *directory; /* for what is known of those; needed when preload_bytes is not SIZE_MAX */
} DatasetOptions;

typedef struct {
    size_t documents, tokens, n_loss_tokens;
    size_t truncated; /* documents that were cut to max_length */
    size_t dropped;   /* records left out for their length */
    size_t longest;   /* tokens */
} DatasetTotals;

typedef struct Dataset Dataset;

/* Plain files or packed ones; blank lines are skipped. Large ones are only begun with: see dataset_ready.
 * Owner: the caller; tokenizer and what options point to are borrowed, files are copied.
 * Fails: ERR_IO; ERR_DATA, with file and line: not JSON, not a known record, nothing scored; a file without records. */
MUST_USE Err *dataset_open(Dataset **dataset, const Tokenizer *tokenizer, const DataFiles *files,
                           const DatasetOptions *options);
MUST_USE Err *dataset_open_file(Dataset **dataset, const Tokenizer *tokenizer, const char *path,
                                const DocumentOptions *options); /* kept */
void dataset_close(Dataset *dataset);

/* Wait until the places of all records are known. Everything below needs it to have succeeded. */
MUST_USE Err *dataset_ready(Dataset *dataset);

bool dataset_is_preloaded(const Dataset *dataset); /* all documents are in memory */
size_t dataset_count(const Dataset *dataset);
size_t dataset_file_first(const Dataset *dataset,
                          size_t file); /* its first document; of one past the last file: the count */
const DataFile *dataset_file(const Dataset *dataset, size_t file);
size_t dataset_n_files(const Dataset *dataset);

/* Of a dataset that is kept. */
const Document *dataset_document(const Dataset *dataset, size_t i);
DatasetTotals dataset_totals(const Dataset *dataset);
size_t dataset_n_domains(const Dataset *dataset);
const char *dataset_domain(const Dataset *dataset, size_t domain); /* 0: "" */
DatasetTotals dataset_domain_totals(const Dataset *dataset, size_t domain);

/* Of any: make document i with the caller's builder; `line` is scratch. A document that is too long has n = 0 where
 * those are dropped. Any number of threads, a builder and a line for each. */
MUST_USE Err *dataset_build(const Dataset *dataset, size_t i, DocumentBuilder *builder, Text *line,
                            BuiltDocument *built);
MUST_USE Err *dataset_builder(const Dataset *dataset, DocumentBuilder **builder);

/* 32 hexadecimal digits that tell data sets apart: of every document's ids and targets, in order; where documents are
 * not kept, of every byte of the files and of the first documents. */
enum { DATASET_DIGEST = 33 };
MUST_USE Err *dataset_digest(const Dataset *dataset, char hex[DATASET_DIGEST]);

#endif
