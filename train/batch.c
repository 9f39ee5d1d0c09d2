/* Micro-batches are cut first, from lengths alone; ranks and groups only gather them. */
#include "train/batch.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

static Err *cut_micro(Batch *b, const Document *const *docs, size_t max_tokens)
{
    size_t in_this = 0;
    TRY(mem_new(&b->micro_doc, b->n_docs + 1, sizeof *b->micro_doc));
    for (size_t d = 0; d < b->n_docs; d++) {
        if (d == 0 || in_this + docs[d]->n > max_tokens) {
            b->micro_doc[b->n_micro_batches++] = d;
            in_this = 0;
        }
        in_this += docs[d]->n;
        b->tokens += docs[d]->n;
        b->n_loss_tokens += docs[d]->n_loss_tokens;
        if (docs[d]->n > b->longest) b->longest = docs[d]->n;
    }
    b->micro_doc[b->n_micro_batches] = b->n_docs;
    return NULL;
}

static size_t micro_tokens(const Batch *b, const Document *const *docs, size_t m)
{
    size_t tokens = 0;
    for (size_t d = b->micro_doc[m]; d < b->micro_doc[m + 1]; d++) tokens += docs[d]->n;
    return tokens;
}

/* Rank r begins at the first micro-batch whose tokens before it reach r / size of all. */
static Err *share_out(Batch *b, const Dp *dp, const Document *const *docs)
{
    size_t size = (size_t)dp->size, r = 1, before = 0;
    TRY(mem_new(&b->rank_micro, size + 1, sizeof *b->rank_micro));
    TRY(mem_new(&b->rank_doc, size + 1, sizeof *b->rank_doc));
    for (size_t m = 0; m < b->n_micro_batches; m++) {
        while (r < size && before * size >= r * b->tokens) b->rank_micro[r++] = m;
        before += micro_tokens(b, docs, m);
    }
    while (r <= size) b->rank_micro[r++] = b->n_micro_batches;
    for (r = 0; r <= size; r++) b->rank_doc[r] = b->micro_doc[b->rank_micro[r]];
    return NULL;
}

static void copy_rows(Batch *b, const Document *doc)
{
    memcpy(b->ids + b->T, doc->ids, doc->n * sizeof *b->ids);
    memcpy(b->targets + b->T, doc->targets, doc->n * sizeof *b->targets);
    b->T += doc->n;
}

/* How many groups micro-batches [m, end) make. */
static size_t count_groups(const Batch *b, const Document *const *docs, size_t m, size_t end, size_t max_tokens)
{
    size_t n = 0;
    for (size_t rows = 0; m < end; rows += micro_tokens(b, docs, m++)) {
        if (n && (max_tokens == 0 || rows + micro_tokens(b, docs, m) <= max_tokens)) continue;
        rows = 0;
        n++;
    }
    return n;
}

static Err *make_groups(Batch *b, const Dp *dp, const Document *const *docs, size_t max_tokens)
{
    size_t first = b->rank_micro[dp->rank], end = b->rank_micro[dp->rank + 1], n_micro_batches = end - first;
    size_t begin_doc = b->rank_doc[dp->rank], n_docs = b->rank_doc[dp->rank + 1] - begin_doc, rows = 0;
    for (size_t d = 0; d < n_docs; d++) rows += docs[begin_doc + d]->n;
    TRY(mem_new(&b->ids, rows, sizeof *b->ids));
    TRY(mem_new(&b->targets, rows, sizeof *b->targets));
    TRY(mem_new(&b->groups, n_micro_batches, sizeof *b->groups));
    TRY(mem_new(&b->doc_start, n_docs + n_micro_batches, sizeof *b->doc_start)); /* a group adds one end */
    TRY(mem_new(&b->micro_batch_start, 2 * n_micro_batches, sizeof *b->micro_batch_start));
    size_t *doc_start = b->doc_start, *micro_batch_start = b->micro_batch_start;
    for (size_t m = first; m < end;) {
        BatchGroup *g = &b->groups[b->n_groups++];
        *g = (BatchGroup){.row = b->T, .ids = b->ids + b->T, .targets = b->targets + b->T};
        size_t first_doc = b->micro_doc[m], first_micro_batch = m;
        const size_t *docs_from = doc_start, *micro_from = micro_batch_start;
        do {
            *micro_batch_start++ = b->T - g->row;
            for (size_t d = b->micro_doc[m]; d < b->micro_doc[m + 1]; d++) {
                *doc_start++ = b->T - g->row;
                copy_rows(b, docs[d]);
            }
            m++;
        } while (m < end && (max_tokens == 0 || b->T - g->row + micro_tokens(b, docs, m) <= max_tokens));
        *doc_start++ = *micro_batch_start++ = b->T - g->row;
        g->group = group_init(b->micro_doc[m] - first_doc, docs_from, m - first_micro_batch, micro_from);
        g->group.first_doc = first_doc;
        g->group.first_micro_batch = first_micro_batch;
    }
    return NULL;
}

Err *batch_new(Batch *batch, const Dp *dp, size_t n_docs, const Document *const *docs, size_t micro_batch_tokens,
               size_t group_tokens)
{
    *batch = (Batch){.n_docs = n_docs};
    Err *err = cut_micro(batch, docs, micro_batch_tokens);
    if (!err) err = share_out(batch, dp, docs);
    if (!err) err = make_groups(batch, dp, docs, group_tokens);
    for (int r = 0; r < dp->size && !err; r++) {
        size_t n = count_groups(batch, docs, batch->rank_micro[r], batch->rank_micro[r + 1], group_tokens);
        if (n > batch->max_groups) batch->max_groups = n;
    }
    if (err) batch_free(batch);
    return err;
}

void batch_free(Batch *batch)
{
    free(batch->micro_doc);
    free(batch->rank_micro);
    free(batch->rank_doc);
    free(batch->ids);
    free(batch->targets);
    free(batch->doc_start);
    free(batch->micro_batch_start);
    free(batch->groups);
    *batch = (Batch){0};
}
