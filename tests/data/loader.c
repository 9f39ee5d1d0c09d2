#include "data/loader.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

static Tokenizer *tokenizer;
static Dataset *dataset;

static int open_dataset(void **state)
{
    ChatOptions options = {.template = CHAT_GLM47};
    (void)state;
    assert_ok(tokenizer_open(&tokenizer, "examples/tiny-glm5/tokenizer.json"));
    assert_ok(dataset_open(&dataset, "examples/devils/devils_eval.jsonl", tokenizer, &options, 512)); /* 98 documents */
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

static void a_step_is_the_same_whatever_was_asked_before(void **state)
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

static void a_batch_of_nothing_is_refused(void **state)
{
    (void)state;
    Loader *loader;
    assert_fails(loader_open(&loader, dataset, 0, 1), ERR_USAGE, "train_batch_size is 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_epoch_goes_through_every_document_once),
        cmocka_unit_test(a_step_is_the_same_whatever_was_asked_before),
        cmocka_unit_test(epochs_and_seeds_have_orders_of_their_own),
        cmocka_unit_test(a_batch_of_nothing_is_refused),
    };
    return cmocka_run_group_tests(tests, open_dataset, close_dataset);
}
