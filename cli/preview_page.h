/* The records and totals of `graft preview`, and one HTML page of them that needs no script and no network. */
#ifndef GRAFT_CLI_PREVIEW_PAGE_H
#define GRAFT_CLI_PREVIEW_PAGE_H

#include "data/records/dataset.h"

#include <stdio.h>

enum { PREVIEW_BINS = 24 };

typedef struct {
    int32_t id;
    char *text;            /* safe to show: newlines are its only control characters */
    bool in_loss, special; /* special: an added token, even one that decoding keeps */
    bool begins_turn;      /* a new line is shown before it */
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
    bool more; /* there are records that were not read */
} Preview;

/* Histogram of the lengths: bins[i] documents have i * width to (i + 1) * width - 1 tokens. */
void preview_bins(const Preview *preview, size_t *width, size_t bins[PREVIEW_BINS]);

void preview_page(FILE *out, const Preview *preview);

#endif
