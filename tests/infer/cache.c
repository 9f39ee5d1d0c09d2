/* The bytes of a cache, and that its parts do not overlap. */
#include "infer/cache.h"

#include "tests/support/tiny.h"

#include <string.h>

static void cache_bytes_counts_every_part(void **state)
{
    (void)state;
    Model *sparse = tiny_model("sparse"), *lite = tiny_model("lite"), *share = tiny_model("indexshare");
    assert_int_equal(cache_bytes(sparse, 1, 1), 3 * (16 + 8 + 32) * 4);
    assert_int_equal(cache_bytes(lite, 2, 10), 2 * 10 * 3 * (16 + 8) * 4);
    assert_int_equal(cache_bytes(share, 1, 1), (5 * (16 + 8) + 3 * 32) * 4); /* shared layers keep no index keys */
    model_close(sparse);
    model_close(lite);
    model_close(share);
}

/* Write every float of every part once, then read it back. */
static void parts_of_a_cache_do_not_overlap(void **state)
{
    (void)state;
    enum { SEQUENCES = 3, CAPACITY = 7 };
    Model *model = tiny_model("indexshare");
    Cache cache;
    assert_ok(cache_new(&cache, model, SEQUENCES, CAPACITY));
    for (int reading = 0; reading < 2; reading++) {
        float next = 0;
        for (size_t l = 0; l < cache.n_layers; l++) {
            assert_int_equal(cache.layers[l].capacity, CAPACITY);
            for (size_t s = 0; s < SEQUENCES; s++) {
                float *const at[] = {cache.layers[l].latent[s], cache.layers[l].rotary[s], cache.layers[l].index[s]};
                const size_t width[] = {16, 8, model->layers[l].indexer ? 32 : 0};
                for (size_t k = 0; k < 3; k++)
                    for (size_t i = 0; i < CAPACITY * width[k]; i++, next++) {
                        if (reading)
                            assert_true(at[k][i] == next);
                        else
                            at[k][i] = next;
                    }
            }
        }
        assert_int_equal((size_t)next * sizeof(float), cache_bytes(model, SEQUENCES, CAPACITY));
    }
    cache_free(&cache);
    assert_null(cache.values);
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cache_bytes_counts_every_part),
        cmocka_unit_test(parts_of_a_cache_do_not_overlap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
