/* Sequences generated together equal those generated alone, with the cache and without. */
#include "infer/generate.h"

#include "tests/support/tiny.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { EIGHT = 8 };
static const size_t lengths[EIGHT] = {3, 17, 1, 40, 9, 26, 5, 12};

typedef struct {
    Model *model;
    Adapter *adapter;
    Document prompts[EIGHT];
    Generation generations[EIGHT];
} Case;

static void open_case(Case *c, const char *name, size_t n_new)
{
    c->model = tiny_model(name);
    assert_ok(tiny_adapter(&c->adapter, c->model, 4, "'all-linear'", NULL, NULL));
    tiny_fill(c->adapter, 3, 0.05);
    for (size_t i = 0; i < EIGHT; i++) {
        c->prompts[i] = tiny_document(lengths[i], (size_t)c->model->config.vocab_size, i);
        c->generations[i] = (Generation){.prompt = c->prompts[i].ids,
                                         .n_prompt = lengths[i],
                                         .max_new_tokens = n_new,
                                         .sampling = {.top_p = 1, .seed = i}};
    }
}

static void close_case(Case *c)
{
    for (size_t i = 0; i < EIGHT; i++) tiny_document_free(&c->prompts[i]);
    adapter_free(c->adapter);
    model_close(c->model);
}

static void assert_same(const char *what, const Generated *a, const Generated *b)
{
    assert_int_equal(a->n, b->n);
    for (size_t i = 0; i < a->n; i++)
        if (a->tokens[i] != b->tokens[i])
            fail_msg("%s: token %zu is %d and %d", what, i, (int)a->tokens[i], (int)b->tokens[i]);
}

/* All eight together against each alone: the same tokens with the same log-probabilities, bit for bit. */
static void together_is_alone(const Case *c, const Adapter *adapter, const char *name)
{
    Generated together[EIGHT], alone;
    assert_ok(generate_all(c->model, adapter, EIGHT, c->generations, EIGHT, 0, together));
    for (size_t i = 0; i < EIGHT; i++) {
        assert_ok(generate_all(c->model, adapter, 1, &c->generations[i], 1, 0, &alone));
        assert_same(name, &together[i], &alone);
        assert_memory_equal(together[i].log_probabilities, alone.log_probabilities,
                            alone.n * sizeof *alone.log_probabilities);
        generated_free(1, &alone);
    }
    generated_free(EIGHT, together);
}

static const char *const models[] = {"dense", "sparse", "indexshare", "lite_noqlora", "v3_groups_yarn", "v32", "fp8"};

static void eight_of_unequal_lengths_equal_eight_alone(void **state)
{
    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        Case c;
        open_case(&c, models[m], 20);
        together_is_alone(&c, NULL, models[m]);
        for (size_t i = 0; i < EIGHT; i++) c.generations[i].sampling.temperature = 1.5;
        together_is_alone(&c, c.adapter, models[m]);
        close_case(&c);
    }
}

static void the_number_at_once_changes_no_sequence(void **state)
{
    (void)state;
    Case c;
    Generated all[EIGHT], few[EIGHT];
    open_case(&c, "sparse", 12);
    for (size_t i = 0; i < EIGHT; i++) {
        c.generations[i].sampling.temperature = 1;
        c.generations[i].max_new_tokens = 3 + 2 * i; /* they end one after the other, and others take their places */
    }
    assert_ok(generate_all(c.model, NULL, EIGHT, c.generations, 64, 0, all));
    assert_ok(generate_all(c.model, NULL, EIGHT, c.generations, 3, 7, few));
    for (size_t i = 0; i < EIGHT; i++) {
        assert_int_equal(all[i].n, 3 + 2 * i);
        assert_same("three at once", &all[i], &few[i]);
    }
    generated_free(EIGHT, all);
    generated_free(EIGHT, few);
    close_case(&c);
}

/* Every token is the likeliest one in a single pass over the whole sequence, which has no cache. */
static void assert_greedy(const Case *c, const Adapter *adapter, const Generation *g, const Generated *made)
{
    int32_t sequence[512];
    size_t V = (size_t)c->model->config.vocab_size;
    memcpy(sequence, g->prompt, g->n_prompt * sizeof *sequence);
    memcpy(sequence + g->n_prompt, made->tokens, made->n * sizeof *sequence);
    float *logits = tiny_logits(c->model, adapter, sequence, g->n_prompt + made->n);
    for (size_t i = 0; i < made->n; i++) {
        const float *row = logits + (g->n_prompt + i - 1) * V;
        size_t best = 0;
        for (size_t v = 1; v < V; v++) best = row[v] > row[best] ? v : best;
        if ((int32_t)best != made->tokens[i])
            fail_msg("token %zu of %zu is %d with the cache, %zu without", i, made->n, (int)made->tokens[i], best);
    }
    free(logits);
}

/* 300 tokens of the bundled base, whose index_topk is 128. */
static void the_cache_changes_no_token_of_the_bundled_base(void **state)
{
    (void)state;
    Case c;
    open_case(&c, "examples/tiny-glm5", 300);
    for (int with = 0; with < 2; with++) {
        const Adapter *adapter = with ? c.adapter : NULL;
        Generated together[EIGHT], alone;
        assert_ok(generate_all(c.model, adapter, EIGHT, c.generations, EIGHT, 0, together));
        for (size_t i = 0; i < EIGHT; i++) {
            assert_int_equal(together[i].n, 300);
            assert_greedy(&c, adapter, &c.generations[i], &together[i]);
        }
        assert_ok(generate_all(c.model, adapter, 1, &c.generations[5], 1, 0, &alone));
        assert_same("alone", &together[5], &alone);
        generated_free(1, &alone);
        generated_free(EIGHT, together);
    }
    close_case(&c);
}

/* A conversation continues in its session: what is in the cache is used, and changes nothing. */
static void a_session_that_continues_generates_what_a_new_one_does(void **state)
{
    (void)state;
    Case c;
    Session session;
    Generated first, second, fresh;
    open_case(&c, "indexshare", 10);
    assert_ok(session_open(&session, c.model, 64, true));
    assert_ok(generate_in(&session, c.model, NULL, &c.generations[1], &first));
    Document longer = tiny_document(40, (size_t)c.model->config.vocab_size, 9);
    memcpy(longer.ids, c.generations[1].prompt, 17 * sizeof *longer.ids);
    memcpy(longer.ids + 17, first.tokens, first.n * sizeof *longer.ids);
    Generation g = {.prompt = longer.ids, .n_prompt = 40, .max_new_tokens = 20, .sampling.top_p = 1};
    session_set(&session, 40, longer.ids);
    assert_int_equal(session.seen, 26); /* all but the last token of the first answer */
    assert_ok(generate_in(&session, c.model, NULL, &g, &second));
    assert_ok(generate_all(c.model, NULL, 1, &g, 1, 0, &fresh));
    assert_same("a session that continues", &second, &fresh);
    g.max_new_tokens = 25;
    generated_free(1, &fresh);
    assert_fails(generate_in(&session, c.model, NULL, &g, &fresh), ERR_DATA, "the context holds 64");
    generated_free(1, &first);
    generated_free(1, &second);
    session_close(&session);
    tiny_document_free(&longer);
    close_case(&c);
}

/* One prompt, 30 steps: log-probabilities are those of the logits that training computes. */
static void log_probabilities_are_the_models(void **state)
{
    (void)state;
    Case c;
    Generated made;
    open_case(&c, "sparse", 12);
    Generation *g = &c.generations[1];
    g->sampling.repetition_penalty = 1.3; /* filters and penalties do not show in them */
    assert_ok(generate_all(c.model, NULL, 1, g, 1, 0, &made));
    int32_t sequence[64];
    memcpy(sequence, g->prompt, 17 * sizeof *sequence);
    memcpy(sequence + 17, made.tokens, made.n * sizeof *sequence);
    size_t V = (size_t)c.model->config.vocab_size;
    float *logits = tiny_logits(c.model, NULL, sequence, 17 + made.n);
    for (size_t i = 0; i < made.n; i++) {
        const float *row = logits + (16 + i) * V;
        double sum = 0;
        for (size_t v = 0; v < V; v++) sum += exp((double)row[v]);
        double expected = (double)row[made.tokens[i]] - log(sum);
        if (fabs(made.log_probabilities[i] - expected) > 1e-4)
            fail_msg("token %zu: %g, expected %g", i, made.log_probabilities[i], expected);
    }
    free(logits);
    generated_free(1, &made);
    close_case(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eight_of_unequal_lengths_equal_eight_alone),
        cmocka_unit_test(the_number_at_once_changes_no_sequence),
        cmocka_unit_test(the_cache_changes_no_token_of_the_bundled_base),
        cmocka_unit_test(a_session_that_continues_generates_what_a_new_one_does),
        cmocka_unit_test(log_probabilities_are_the_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
