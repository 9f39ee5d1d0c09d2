/* 100,000 draws with every filter against the distribution that a plain computation gives (chi-square). */
#include "infer/sample.h"

#include "base/rng.h"
#include "tests/support/check.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { V = 60, DRAWS = 100000 };

static void fill_logits(float logits[V])
{
    for (size_t i = 0; i < V; i++) logits[i] = (float)(1.5 * rng_normal(17, i));
    logits[7] = logits[9]; /* a tie */
}

/* Keep tokens by transformers' rules, one filter after the other, each on what the previous one left. */
static void reference(const Sampling *s, const float logits[V], double p[V])
{
    bool gone[V] = {false};
    size_t order[V];
    double sum = 0, top = 0;
    for (size_t i = 0; i < V; i++) sum += p[i] = exp((double)logits[i] / s->temperature);
    for (size_t i = 0; i < V; i++) {
        p[i] /= sum;
        size_t at = i;
        while (at > 0 && p[order[at - 1]] < p[i]) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
        top = fmax(top, p[i]);
    }
    for (size_t i = 0; i < V; i++) gone[order[i]] = s->top_k > 0 && i >= (size_t)s->top_k;
    double left = 0, before = 0;
    for (size_t i = 0; i < V; i++) left += gone[i] ? 0 : p[i];
    for (size_t i = 0; i < V; i++) {
        size_t t = order[i];
        if (gone[t]) continue;
        if (s->top_p > 0 && s->top_p < 1 && before >= s->top_p * left) gone[t] = true;
        before += p[t];
    }
    for (size_t i = 0; i < V; i++) gone[i] = gone[i] || p[i] < s->min_p * top;
    for (size_t i = 0, n = 0; i < V; i++) left = (n++ ? left : 0) + (gone[i] ? 0 : p[i]);
    for (size_t i = 0; i < V; i++) p[i] = gone[i] ? 0 : p[i] / left;
}

static void check(const Sampling *s)
{
    float logits[V], work[V];
    double p[V], chi = 0;
    size_t count[V] = {0}, kept = 0;
    uint32_t order[V];
    fill_logits(logits);
    reference(s, logits, p);
    for (uint64_t i = 0; i < DRAWS; i++) {
        memcpy(work, logits, sizeof work);
        count[sample_token(s, i, V, work, order)]++;
    }
    for (size_t i = 0; i < V; i++) {
        if (p[i] == 0 && count[i]) fail_msg("token %zu was filtered, and drawn %zu times", i, count[i]);
        if (p[i] == 0) continue;
        double expected = p[i] * DRAWS;
        chi += ((double)count[i] - expected) * ((double)count[i] - expected) / expected;
        kept++;
    }
    double freedom = (double)kept - 1,
           bound = freedom + 4 * sqrt(2 * freedom) + 4; /* beyond four standard deviations */
    if (chi > bound) fail_msg("chi-square %.1f of %zu tokens, bound %.1f", chi, kept, bound);
}

static void every_filter_gives_the_expected_distribution(void **state)
{
    (void)state;
    check(&(Sampling){.temperature = 1});
    check(&(Sampling){.temperature = 0.6, .seed = 1});
    check(&(Sampling){.temperature = 2, .top_p = 1, .seed = 2});
    check(&(Sampling){.temperature = 1, .top_k = 11, .seed = 3});
    check(&(Sampling){.temperature = 1, .top_p = 0.8, .seed = 4});
    check(&(Sampling){.temperature = 1, .min_p = 0.1, .seed = 5});
}

static void filters_work_together(void **state)
{
    (void)state;
    check(&(Sampling){.temperature = 0.7, .top_p = 0.95, .top_k = 20, .seed = 6});
    check(&(Sampling){.temperature = 1.4, .top_p = 0.7, .min_p = 0.2, .seed = 7});
    check(&(Sampling){.temperature = 1.2, .top_k = 30, .min_p = 0.05, .seed = 8});
    check(&(Sampling){.temperature = 1.2, .top_p = 0.9, .top_k = 15, .min_p = 0.15, .seed = 9});
    check(&(Sampling){.temperature = 1, .min_p = 1, .seed = 10}); /* only the likeliest */
}

static void the_penalty_is_applied_once_to_each_token_of_the_sequence(void **state)
{
    (void)state;
    float logits[5] = {2, -2, 0.5f, -0.5f, 0};
    uint32_t mark[5];
    sample_penalise(2, 4, (int32_t[]){0, 1, 0, 2}, 5, logits, mark);
    const float expected[5] = {1, -4, 0.25f, -0.5f, 0};
    assert_memory_equal(logits, expected, sizeof logits);
    sample_penalise(1, 4, (int32_t[]){0, 1, 0, 2}, 5, logits, mark);
    sample_penalise(0, 4, (int32_t[]){0, 1, 0, 2}, 5, logits, mark);
    assert_memory_equal(logits, expected, sizeof logits);
}

static void log_probabilities_add_up(void **state)
{
    (void)state;
    float logits[V];
    double sum = 0;
    fill_logits(logits);
    for (int32_t i = 0; i < V; i++) sum += exp(sample_log_probability(V, logits, i));
    assert_true(fabs(sum - 1) < 1e-5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_filter_gives_the_expected_distribution),
        cmocka_unit_test(filters_work_together),
        cmocka_unit_test(the_penalty_is_applied_once_to_each_token_of_the_sequence),
        cmocka_unit_test(log_probabilities_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
