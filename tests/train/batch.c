/* Micro-batches by index alone; ranks and groups only share them out. */
#include "train/batch.h"

#include "base/rng.h"
#include "tests/support/tiny.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DOCS = 40 };

static Document docs[MAX_DOCS];
static const Document *list[MAX_DOCS];

static void make_docs(size_t n, const size_t *lengths)
{
    for (size_t d = 0; d < n; d++) {
        docs[d] = tiny_document(lengths[d], 1000, d + 1);
        list[d] = &docs[d];
    }
}

static void free_docs(size_t n)
{
    for (size_t d = 0; d < n; d++) tiny_document_free(&docs[d]);
}

static void micro_batches_are_consecutive_documents_up_to_a_limit(void **state)
{
    (void)state;
    static const size_t lengths[] = {4, 3, 3, 10, 1, 25, 2, 8}, first[] = {0, 3, 4, 5, 6, 8};
    Batch batch;
    make_docs(8, lengths);
    assert_ok(batch_new(&batch, &(Dp){.size = 1}, 8, list, 10, 0));
    assert_int_equal(batch.n_micro_batches, 5); /* 4 3 3 | 10 | 1 | 25, longer than the limit | 2 8 */
    assert_memory_equal(batch.micro_doc, first, sizeof first);
    assert_int_equal(batch.tokens, 56);
    assert_int_equal(batch.n_loss_tokens, 56 - 8);
    assert_int_equal(batch.longest, 25);
    assert_int_equal(batch.n_groups, 1);
    batch_free(&batch);
    free_docs(8);
}

static void ranks_get_near_to_even_shares(void **state)
{
    (void)state;
    size_t lengths[MAX_DOCS];
    for (size_t d = 0; d < MAX_DOCS; d++) lengths[d] = 5 + d % 4;
    make_docs(MAX_DOCS, lengths);
    for (int size = 1; size <= 8; size++) {
        Batch batch;
        assert_ok(batch_new(&batch, &(Dp){.size = size}, MAX_DOCS, list, 1, 0));
        for (int r = 0; r < size; r++) {
            size_t tokens = 0;
            for (size_t d = batch.rank_doc[r]; d < batch.rank_doc[r + 1]; d++) tokens += lengths[d];
            assert_true(tokens * (size_t)size <=
                        batch.tokens + 8 * (size_t)size); /* at most one document more than even */
        }
        batch_free(&batch);
    }
    free_docs(MAX_DOCS);
}

static void more_ranks_than_micro_batches_leave_some_without_work(void **state)
{
    (void)state;
    size_t rows = 0;
    make_docs(2, (size_t[]){4, 4});
    for (int rank = 0; rank < 5; rank++) {
        Batch batch;
        assert_ok(batch_new(&batch, &(Dp){.size = 5, .rank = rank}, 2, list, 4, 0));
        assert_int_equal(batch.n_groups, batch.T ? 1 : 0);
        rows += batch.T;
        batch_free(&batch);
    }
    assert_int_equal(rows, 8);
    free_docs(2);
}

/* All that a batch promises, for one rank; adds the rank's rows to `row`, which counts over ranks. */
static void check_rank(const Batch *b, int rank, size_t group_tokens, size_t *row, size_t *micro)
{
    size_t at = 0, doc = b->rank_doc[rank];
    assert_int_equal(b->rank_micro[rank], *micro);
    for (size_t i = 0; i < b->n_groups; i++) {
        const BatchGroup *g = &b->groups[i];
        assert_int_equal(g->row, at);
        assert_ptr_equal(g->ids, b->ids + at);
        assert_ptr_equal(g->targets, b->targets + at);
        assert_int_equal(g->group.first_doc, doc);
        assert_int_equal(g->group.first_micro_batch, *micro);
        assert_true(g->group.T > 0 && g->group.n_micro_batches > 0);
        if (group_tokens && g->group.n_micro_batches > 1) assert_true(g->group.T <= group_tokens);
        for (size_t d = 0; d < g->group.n_docs; d++, doc++) {
            assert_int_equal(g->group.doc_start[d + 1] - g->group.doc_start[d], docs[doc].n);
            assert_memory_equal(g->ids + g->group.doc_start[d], docs[doc].ids, docs[doc].n * sizeof(int32_t));
            assert_memory_equal(g->targets + g->group.doc_start[d], docs[doc].targets, docs[doc].n * sizeof(int32_t));
        }
        for (size_t m = 0; m < g->group.n_micro_batches; m++, (*micro)++) {
            size_t tokens = 0;
            for (size_t d = b->micro_doc[*micro]; d < b->micro_doc[*micro + 1]; d++) tokens += docs[d].n;
            assert_int_equal(group_span(&g->group, m).n, tokens);
            assert_int_equal(group_span(&g->group, m).number, *micro);
        }
        assert_int_equal(g->group.doc_start[g->group.n_docs], g->group.T);
        assert_int_equal(g->group.micro_batch_start[g->group.n_micro_batches], g->group.T);
        at += g->group.T;
    }
    assert_int_equal(at, b->T);
    assert_int_equal(doc, b->rank_doc[rank + 1]);
    *row += at;
}

static void rows_of_all_ranks_one_after_another_are_the_documents(void **state)
{
    (void)state;
    for (uint64_t trial = 0; trial < 300; trial++) {
        uint64_t key = rng_key(99, trial);
        size_t n = 1 + rng_below(key, 0, MAX_DOCS), lengths[MAX_DOCS], micro_batch = 1 + rng_below(key, 1, 30),
               group = rng_below(key, 2, 3) ? 1 + rng_below(key, 3, 80) : 0, tokens = 0;
        int size = 1 + (int)rng_below(key, 4, 7);
        for (size_t d = 0; d < n; d++) tokens += lengths[d] = 1 + rng_below(key, 10 + d, 20);
        make_docs(n, lengths);
        size_t row = 0, micro = 0, n_micro_batches = 0;
        size_t *cuts = NULL;
        for (int rank = 0; rank < size; rank++) {
            Batch batch;
            assert_ok(batch_new(&batch, &(Dp){.size = size, .rank = rank}, n, list, micro_batch, group));
            check_rank(&batch, rank, group, &row, &micro);
            assert_int_equal(batch.tokens, tokens);
            n_micro_batches = batch.n_micro_batches;
            if (!cuts) { /* the cuts know neither ranks nor groups */
                Batch alone;
                assert_ok(batch_new(&alone, &(Dp){.size = 1}, n, list, micro_batch, 0));
                assert_int_equal(alone.n_micro_batches, batch.n_micro_batches);
                assert_memory_equal(alone.micro_doc, batch.micro_doc, (n_micro_batches + 1) * sizeof *cuts);
                batch_free(&alone);
                cuts = malloc((n_micro_batches + 1) * sizeof *cuts);
                assert_non_null(cuts);
                memcpy(cuts, batch.micro_doc, (n_micro_batches + 1) * sizeof *cuts);
            }
            assert_memory_equal(cuts, batch.micro_doc, (n_micro_batches + 1) * sizeof *cuts);
            batch_free(&batch);
        }
        assert_int_equal(row, tokens);
        assert_int_equal(micro, n_micro_batches);
        free(cuts);
        free_docs(n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(micro_batches_are_consecutive_documents_up_to_a_limit),
        cmocka_unit_test(ranks_get_near_to_even_shares),
        cmocka_unit_test(more_ranks_than_micro_batches_leave_some_without_work),
        cmocka_unit_test(rows_of_all_ranks_one_after_another_are_the_documents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
