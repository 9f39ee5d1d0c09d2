/* The cache must not change a greedy token, although prefill and decoding compute attention differently. */
#include "infer/generate.h"

#include "tests/support/tiny.h"

#include <stdlib.h>
#include <string.h>

static Generation greedy(const Document *prompt, size_t n_new)
{
    return (
        Generation){.prompt = prompt->ids, .n_prompt = prompt->n, .max_new_tokens = n_new, .sampling = {.top_p = 1}};
}

static void cache_equals_none(const char *name, size_t n_prompt, size_t n_new)
{
    Model *model = tiny_model(name);
    Adapter *adapter;
    Document prompt = tiny_document(n_prompt, (size_t)model->config.vocab_size, 4);
    assert_ok(tiny_adapter(&adapter, model, 4, "'all-linear'", NULL, NULL));
    tiny_fill(adapter, 3, 0.1);
    for (int with = 0; with < 2; with++) {
        Generation g = greedy(&prompt, n_new);
        int32_t *cached, *plain;
        size_t n_cached, n_plain;
        assert_ok(generate(model, with ? adapter : NULL, &g, &cached, &n_cached));
        g.no_cache = true;
        assert_ok(generate(model, with ? adapter : NULL, &g, &plain, &n_plain));
        assert_int_equal(n_cached, n_new);
        assert_int_equal(n_plain, n_new);
        for (size_t i = 0; i < n_new; i++)
            if (cached[i] != plain[i])
                fail_msg("%s: token %zu is %d with the cache, %d without", name, i, (int)cached[i], (int)plain[i]);
        free(cached);
        free(plain);
    }
    tiny_document_free(&prompt);
    adapter_free(adapter);
    model_close(model);
}

static void the_cache_changes_no_token_of_tiny_models(void **state)
{
    (void)state;
    static const char *const names[] = {"dense",          "sparse", "indexshare", "lite_noqlora",
                                        "v3_groups_yarn", "v32",    "fp8"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cache_equals_none(names[i], 10, 24); /* longer than index_topk, 16 */
        cache_equals_none(names[i], 1, 3);
    }
}

static void the_cache_changes_no_token_beyond_index_topk(void **state)
{
    (void)state;
    cache_equals_none("examples/tiny-glm5", 200, 6); /* index_topk 128 */
}

static void a_stop_token_ends_the_sequence_and_is_not_part_of_it(void **state)
{
    (void)state;
    Model *model = tiny_model("dense");
    Document prompt = tiny_document(8, 256, 4);
    Generation g = greedy(&prompt, 12);
    int32_t *all, *some;
    size_t n_all, n_some, first = 0;
    assert_ok(generate(model, NULL, &g, &all, &n_all));
    while (all[first] != all[5]) first++;
    g.stop = (int32_t[]){-1, all[5]};
    g.n_stop = 2;
    assert_ok(generate(model, NULL, &g, &some, &n_some));
    assert_int_equal(n_some, first);
    assert_memory_equal(some, all, first * sizeof *all);
    free(all);
    free(some);
    tiny_document_free(&prompt);
    model_close(model);
}

typedef struct {
    int32_t seen[16];
    size_t n, max_tokens;
} Listener;

static bool hear(void *context, int32_t token)
{
    Listener *l = context;
    l->seen[l->n++] = token;
    return l->n < l->max_tokens;
}

static void a_listener_gets_every_token_and_can_end_the_sequence(void **state)
{
    (void)state;
    Model *model = tiny_model("dense");
    Document prompt = tiny_document(8, 256, 4);
    Listener listener = {.max_tokens = 4};
    Generation g = greedy(&prompt, 12);
    int32_t *tokens;
    size_t n;
    g.on_token = hear;
    g.context = &listener;
    assert_ok(generate(model, NULL, &g, &tokens, &n));
    assert_int_equal(n, 4);
    assert_memory_equal(tokens, listener.seen, 4 * sizeof *tokens);
    free(tokens);
    tiny_document_free(&prompt);
    model_close(model);
}

static void the_same_seed_samples_the_same_sequence(void **state)
{
    (void)state;
    Model *model = tiny_model("dense");
    Document prompt = tiny_document(8, 256, 4);
    int32_t *sequences[3];
    size_t n;
    for (size_t i = 0; i < 3; i++) {
        Generation g = greedy(&prompt, 16);
        g.sampling = (Sampling){.temperature = 2, .top_p = 1, .seed = i == 2};
        assert_ok(generate(model, NULL, &g, &sequences[i], &n));
    }
    assert_memory_equal(sequences[0], sequences[1], 16 * sizeof **sequences);
    assert_memory_not_equal(sequences[0], sequences[2], 16 * sizeof **sequences);
    for (size_t i = 0; i < 3; i++) free(sequences[i]);
    tiny_document_free(&prompt);
    model_close(model);
}

static void a_sequence_beyond_the_models_positions_is_refused(void **state)
{
    (void)state;
    Model *model = tiny_model("v3_groups_yarn"); /* max_position_embeddings 512 */
    Document prompt = tiny_document(8, 256, 4);
    Generation g = greedy(&prompt, 505);
    int32_t *tokens;
    size_t n;
    assert_fails(generate(model, NULL, &g, &tokens, &n), ERR_DATA, "max_position_embeddings is 512");
    g.n_prompt = 0;
    assert_fails(generate(model, NULL, &g, &tokens, &n), ERR_DATA, "the prompt is empty");
    tiny_document_free(&prompt);
    model_close(model);
}

static void no_new_tokens_are_an_empty_sequence(void **state)
{
    (void)state;
    Model *model = tiny_model("dense");
    Document prompt = tiny_document(8, 256, 4);
    Generation g = greedy(&prompt, 0);
    int32_t *tokens;
    size_t n = 1;
    assert_ok(generate(model, NULL, &g, &tokens, &n));
    assert_int_equal(n, 0);
    free(tokens);
    tiny_document_free(&prompt);
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cache_changes_no_token_of_tiny_models),
        cmocka_unit_test(the_cache_changes_no_token_beyond_index_topk),
        cmocka_unit_test(a_stop_token_ends_the_sequence_and_is_not_part_of_it),
        cmocka_unit_test(a_listener_gets_every_token_and_can_end_the_sequence),
        cmocka_unit_test(the_same_seed_samples_the_same_sequence),
        cmocka_unit_test(a_sequence_beyond_the_models_positions_is_refused),
        cmocka_unit_test(no_new_tokens_are_an_empty_sequence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
