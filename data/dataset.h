/* JSON Lines with `messages` (and `tools`) -> documents: tokens, and what each position must predict.
 * The files are read once, at the start; of their text nothing is kept. */
#ifndef GRAFT_DATA_DATASET_H
#define GRAFT_DATA_DATASET_H

#include "data/chat.h"
#include "data/tokenizer.h"

typedef struct {
    size_t n;
    int32_t *ids;
    int32_t *targets; /* targets[i]: the token that position i must predict, or -1 when not scored */
    size_t n_scored;
    size_t record; /* line number in the file, from 1 */
} Document;

typedef struct {
    size_t documents, tokens, scored;
    size_t truncated; /* documents that were cut at max_length */
    size_t dropped;   /* records left out; none so far */
    size_t longest;   /* tokens */
} DatasetTotals;

typedef struct Dataset Dataset;

/* Read `path` (plain or gzip). The rendering of a record is closed by `<|endoftext|>` after a final assistant turn and
 * cut from the right at max_length tokens; of `options`, the generation prompt is not used. Blank lines are skipped.
 * Fails: ERR_IO; ERR_DATA, with file and line: not JSON, not a known record, nothing scored; a file without records. */
MUST_USE Err *dataset_open(Dataset **dataset, const char *path, const Tokenizer *tokenizer, const ChatOptions *options,
                           size_t max_length);
void dataset_close(Dataset *dataset);

size_t dataset_count(const Dataset *dataset);
const Document *dataset_document(const Dataset *dataset, size_t i);
DatasetTotals dataset_totals(const Dataset *dataset);

/* 32 hexadecimal digits that tell data sets apart: of every document's ids and targets, in order. */
enum { DATASET_DIGEST = 33 };
void dataset_digest(const Dataset *dataset, char hex[DATASET_DIGEST]);

#endif
