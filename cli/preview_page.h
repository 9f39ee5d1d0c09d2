/* What `graft preview` found, and as one HTML page that needs nothing else: no script, no network. */
#ifndef GRAFT_CLI_PREVIEW_PAGE_H
#define GRAFT_CLI_PREVIEW_PAGE_H

#include "data/records/dataset.h"

#include <stdio.h>

enum { PREVIEW_BINS = 24 };

typedef struct {
    int32_t id;
    char *text;            /* fit to be shown: no control character but newlines */
    bool in_loss, special; /* special: an added token, whether it is left out when decoding or not */
    bool begins_turn;      /* shown on a line of its own */
} ShownToken;

typedef struct {
    const char *file;
    size_t line, whole; /* tokens before a cut */
    BuiltDocument built;
    char *domain;
    ShownToken *tokens;
    size_t n;
} ShownRecord;

typedef struct {
    const char *template, *train_on;
    size_t max_length;
    ShownRecord *records;
    size_t n_records, capacity;
    DatasetTotals totals;
    size_t formats[RECORD_FORMATS];
    size_t *lengths; /* of every document, before a cut */
    size_t n_lengths, length_capacity;
    bool more; /* there is data that was not looked at */
} Preview;

/* Lengths in bins of equal width: *width tokens each, bins[i] of them from i * width on. */
void preview_bins(const Preview *preview, size_t *width, size_t bins[PREVIEW_BINS]);

void preview_page(FILE *out, const Preview *preview);

#endif
