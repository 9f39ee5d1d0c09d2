/* Which documents a step has: from memory, and from an index with threads that read ahead. */
#include "data/records/loader.h"
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static Tokenizer *tokenizer;
static Dataset *dataset;

static int open_dataset(void **state)
{
    DocumentOptions options = {.max_length = 512};
    (void)state;
    assert_ok(tokenizer_open(&tokenizer, "examples/tiny-glm5/tokenizer.json"));
    assert_ok(dataset_open_file(&dataset, tokenizer, "examples/devils/devils_eval.jsonl", &options)); /* 98 documents */
    return 0;
}

static int close_dataset(void **state)
{
    (void)state;
    dataset_close(dataset);
    tokenizer_close(tokenizer);
    return 0;
}

static Loader *loader_of(size_t batch, uint64_t seed)
{
    Loader *loader = NULL;
    assert_ok(loader_open(&loader, dataset, batch, seed));
    return loader;
}

static void an_epoch_goes_through_every_document_once(void **state)
{
    (void)state;
    for (size_t batch = 1; batch < 120; batch += 7) {
        Loader *loader = loader_of(batch, 5);
        size_t steps = loader_steps_per_epoch(loader), n;
        const uint32_t *documents;
        assert_int_equal(steps, (98 + batch - 1) / batch);
        for (uint64_t epoch = 0; epoch < 3; epoch++) {
            int seen[98] = {0};
            for (uint64_t step = 0; step < steps; step++) {
                loader_step(loader, epoch * steps + step, &n, &documents);
                assert_int_equal(n, step + 1 < steps ? batch : 98 - (steps - 1) * batch);
                for (size_t i = 0; i < n; i++) seen[documents[i]]++;
            }
            for (size_t i = 0; i < 98; i++) assert_int_equal(seen[i], 1);
        }
        loader_close(loader);
    }
}

static void a_step_is_the_same_whatever_step_came_before(void **state)
{
    (void)state;
    Loader *forward = loader_of(8, 1), *back = loader_of(8, 1);
    const uint32_t *documents;
    uint32_t kept[40][8];
    size_t n[40], m;
    for (uint64_t step = 0; step < 40; step++) {
        loader_step(forward, step, &n[step], &documents);
        memcpy(kept[step], documents, n[step] * sizeof *documents);
    }
    for (uint64_t step = 40; step-- > 0;) { /* as after a resume, at any point */
        loader_step(back, step, &m, &documents);
        assert_int_equal(m, n[step]);
        assert_memory_equal(documents, kept[step], m * sizeof *documents);
    }
    loader_close(forward);
    loader_close(back);
}

static void epochs_and_seeds_have_orders_of_their_own(void **state)
{
    (void)state;
    Loader *one = loader_of(98, 1), *two = loader_of(98, 2);
    const uint32_t *documents;
    uint32_t first[98];
    size_t n;
    loader_step(one, 0, &n, &documents);
    memcpy(first, documents, sizeof first);
    loader_step(one, 1, &n, &documents);
    assert_memory_not_equal(first, documents, sizeof first);
    loader_step(two, 0, &n, &documents);
    assert_memory_not_equal(first, documents, sizeof first);
    loader_close(one);
    loader_close(two);
}

static void a_batch_of_zero_is_refused(void **state)
{
    (void)state;
    Loader *loader;
    assert_fails(loader_open(&loader, dataset, 0, 1), ERR_USAGE, "train_batch_size is 0");
}

/* ---- data that is not preloaded ---- */

static Dataset *open_indexed(void **state, const DataFiles *files, Truncation truncation, size_t max_length)
{
    Dataset *ds;
    char directory[PATH_BYTES];
    DatasetOptions options = {.document = {.max_length = max_length, .truncation = truncation}, .directory = directory};
    scratch_path(state, "kept", directory);
    assert_ok(dataset_open(&ds, tokenizer, files, &options));
    assert_ok(dataset_ready(ds));
    assert_false(dataset_is_preloaded(ds));
    return ds;
}

static void assert_same_document(const Document *a, const Document *b)
{
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->n_loss_tokens, b->n_loss_tokens);
    assert_memory_equal(a->ids, b->ids, a->n * sizeof *a->ids);
    assert_memory_equal(a->targets, b->targets, a->n * sizeof *a->targets);
}

static void indexed_data_gives_the_documents_of_preloaded_data(void **state)
{
    DataFile file = {(char[]){"examples/devils/devils_eval.jsonl"}, 1};
    Dataset *ds = open_indexed(state, &(DataFiles){&file, 1}, TRUNCATE_RIGHT, 512);
    Loader *one, *two;
    assert_int_equal(dataset_count(ds), 98);
    assert_ok(loader_open(&one, dataset, 8, 3));
    assert_ok(loader_open(&two, ds, 8, 3));
    static const uint64_t steps[] = {0,  1,  2,   3, 9, 10, 2, 12,
                                     13, 14, 100, 5, 6, 7,  0}; /* in order, and from anywhere as after a resume */
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        const Document *const *a, *const *b;
        size_t n, m;
        assert_ok(loader_documents(one, steps[i], &n, &a));
        assert_ok(loader_documents(two, steps[i], &m, &b));
        assert_int_equal(n, m);
        for (size_t k = 0; k < n; k++) assert_same_document(a[k], b[k]);
    }
    assert_int_equal(loader_totals(one).documents, 0);
    assert_true(loader_totals(two).documents > 98);
    loader_close(one);
    loader_close(two);
    dataset_close(ds);
}

static size_t write_texts(const char *path, size_t n, const char *word) /* with blank lines among them */
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (size_t i = 0; i < n; i++) {
        fprintf(file, "{\"text\":\"%s %zu", word, i);
        fprintf(file, "\"}%s", i + 1 == n ? "" : i % 3 ? "\n" : "\r\n \n");
    }
    fclose(file);
    return n;
}

static void an_index_is_reused_until_its_file_changes(void **state)
{
    char path[PATH_BYTES];
    DataFile file = {path, 1};
    for (size_t n = 5; n < 8; n++) {
        write_texts(scratch_path(state, "texts.jsonl", path), n, "text");
        for (int again = 0; again < 2; again++) {
            Dataset *ds = open_indexed(state, &(DataFiles){&file, 1}, TRUNCATE_RIGHT, 512);
            assert_int_equal(dataset_count(ds), n);
            dataset_close(ds);
        }
    }
}

static void a_bad_record_is_reported_when_a_step_needs_it(void **state)
{
    char path[PATH_BYTES];
    DataFile file = {path, 1};
    Loader *loader;
    const Document *const *documents;
    size_t n;
    static const char text[] = "\n{\"text\":\"a\"}\n\n{\"text\":5}\n";
    assert_ok(file_write(scratch_path(state, "bad.jsonl", path), text, strlen(text)));
    Dataset *ds = open_indexed(state, &(DataFiles){&file, 1}, TRUNCATE_RIGHT, 512);
    assert_ok(loader_open(&loader, ds, 2, 1));
    assert_fails(loader_documents(loader, 0, &n, &documents), ERR_DATA, "bad.jsonl: line 4: text is a number");
    loader_close(loader);
    dataset_close(ds);
}

static void a_line_of_zero_bytes_is_a_record_in_memory_and_by_index(void **state)
{
    static const char text[] = "{\"text\":\"a\"}\n \t\r\n\0\0\0\n\t\n{\"text\":\"b\"}\n",
                      message[] =
                          "zeros.jsonl: line 3: not valid JSON at line 1, column 1: byte 0x00; expected a value";
    char path[PATH_BYTES];
    DataFile file = {path, 1};
    Dataset *in_memory, *by_index;
    Loader *loader;
    const Document *const *documents;
    size_t n;
    assert_ok(file_write(scratch_path(state, "zeros.jsonl", path), text, sizeof text - 1));
    assert_fails(dataset_open_file(&in_memory, tokenizer, path, &(DocumentOptions){.max_length = 512}), ERR_DATA,
                 message);
    by_index = open_indexed(state, &(DataFiles){&file, 1}, TRUNCATE_RIGHT, 512);
    assert_int_equal(dataset_count(by_index), 3);
    assert_ok(loader_open(&loader, by_index, 3, 1));
    assert_fails(loader_documents(loader, 0, &n, &documents), ERR_DATA, message);
    loader_close(loader);
    dataset_close(by_index);
}

static void compressed_data_can_be_indexed(void **state)
{
    DataFile file = {(char[]){"tests/fixtures/tokenizer/glm5shaped.tokenizer.json.gz"}, 1};
    Dataset *ds = open_indexed(state, &(DataFiles){&file, 1}, TRUNCATE_RIGHT, 512);
    assert_true(dataset_count(ds) > 0); /* lines count, whatever is in them */
    dataset_close(ds);
}

static void a_step_whose_documents_are_all_dropped_takes_the_next_document(void **state)
{
    char path[PATH_BYTES];
    DataFile file = {path, 1};
    Loader *loader;
    const Document *const *documents;
    size_t n;
    FILE *out = fopen(scratch_path(state, "mixed.jsonl", path), "w");
    for (int i = 0; i < 20; i++)
        fprintf(out, "{\"text\":\"%s\"}\n", i == 7 ? "a" : "one two three four five six seven eight nine ten");
    fclose(out);
    Dataset *ds = open_indexed(state, &(DataFiles){&file, 1}, TRUNCATE_DROP, 8);
    assert_ok(loader_open(&loader, ds, 3, 1));
    for (uint64_t step = 0; step < 7; step++) {
        assert_ok(loader_documents(loader, step, &n, &documents));
        assert_int_equal(n, 1);
        assert_true(documents[0]->n && documents[0]->n <= 8);
    }
    assert_int_equal(loader_totals(loader).dropped, 19);
    loader_close(loader);
    dataset_close(ds);
}

/* Weight 2: every document twice. Weight 0.25: a quarter of the documents, another one in every epoch. */
static void files_are_mixed_by_their_weights(void **state)
{
    char a[PATH_BYTES], b[PATH_BYTES];
    DataFile items[] = {{a, 2}, {b, 0.25}};
    Dataset *ds;
    Loader *loader;
    const uint32_t *order;
    size_t n;
    unsigned seen_in_any[40] = {0};
    write_texts(scratch_path(state, "a.jsonl", a), 10, "a");
    write_texts(scratch_path(state, "b.jsonl", b), 40, "b");
    assert_ok(dataset_open(&ds, tokenizer, &(DataFiles){items, 2},
                           &(DatasetOptions){.document = {.max_length = 512}, .preload_bytes = SIZE_MAX}));
    assert_ok(loader_open(&loader, ds, 1000, 5));
    assert_int_equal(loader_steps_per_epoch(loader), 1);
    for (uint64_t epoch = 0; epoch < 30; epoch++) {
        unsigned seen[50] = {0}, part = 0;
        loader_step(loader, epoch, &n, &order);
        assert_int_equal(n, 30);
        for (size_t i = 0; i < n; i++) seen[order[i]]++;
        for (size_t i = 0; i < 10; i++) assert_int_equal(seen[i], 2);
        for (size_t i = 0; i < 40; i++) {
            assert_true(seen[10 + i] <= 1);
            part += seen[10 + i];
            seen_in_any[i] += seen[10 + i];
        }
        assert_int_equal(part, 10);
    }
    for (size_t i = 0; i < 40; i++) assert_true(seen_in_any[i] > 0 && seen_in_any[i] < 20);
    loader_close(loader);
    dataset_close(ds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_epoch_goes_through_every_document_once),
        cmocka_unit_test(a_step_is_the_same_whatever_step_came_before),
        cmocka_unit_test(epochs_and_seeds_have_orders_of_their_own),
        cmocka_unit_test(a_batch_of_zero_is_refused),
        scratch_test(indexed_data_gives_the_documents_of_preloaded_data),
        scratch_test(an_index_is_reused_until_its_file_changes),
        scratch_test(a_bad_record_is_reported_when_a_step_needs_it),
        scratch_test(a_line_of_zero_bytes_is_a_record_in_memory_and_by_index),
        scratch_test(compressed_data_can_be_indexed),
        scratch_test(a_step_whose_documents_are_all_dropped_takes_the_next_document),
        scratch_test(files_are_mixed_by_their_weights),
    };
    return cmocka_run_group_tests(tests, open_dataset, close_dataset);
}
