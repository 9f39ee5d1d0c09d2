/* Draws follow the distribution that temperature, top_k and top_p define; extreme logits are no exception. */
#include "infer/sample.h"

#include "base/rng.h"
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { V = 12, DRAWS = 100000 };

static const float logits_of[V] = {1, -2, 3, 0.5f, 3, -1, 2, 0, 2.5f, -30, 1.5f, 0.25f};

static int32_t draw(const Sampling *sampling, uint64_t index)
{
    float logits[V];
    uint32_t order[V];
    memcpy(logits, logits_of, sizeof logits);
    return sample_token(sampling, index, V, logits, order);
}

static void greedy_takes_the_largest_logit_and_the_lower_id_of_equals(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 100; i++) assert_int_equal(draw(&(Sampling){.seed = i, .top_p = 1}, i), 2);
    float equal[5] = {0, 0, 0, 0, 0}, low[3] = {-INFINITY, -5, -INFINITY}, one[1] = {3};
    uint32_t order[5];
    assert_int_equal(sample_token(&(Sampling){.top_p = 1}, 0, 5, equal, order), 0);
    assert_int_equal(sample_token(&(Sampling){.top_p = 1}, 0, 3, low, order), 1);
    assert_int_equal(sample_token(&(Sampling){.top_p = 1}, 0, 1, one, order), 0);
}

static void top_k_of_one_is_greedy(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 200; i++)
        assert_int_equal(draw(&(Sampling){.temperature = 1.5, .top_p = 1, .top_k = 1, .seed = i}, i), 2);
}

static void a_top_p_of_nothing_is_greedy(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 200; i++)
        assert_int_equal(draw(&(Sampling){.temperature = 1.5, .top_p = 1e-9, .seed = i}, i), 2);
}

/* Compare the draws with the probabilities p [V] by chi-square. The bound is the 1 - 1e-6 quantile for up to 11
 * degrees. */
static void check_distribution(const Sampling *sampling, const double *p)
{
    size_t count[V] = {0}, cells = 0;
    double chi = 0;
    for (uint64_t i = 0; i < DRAWS; i++) count[draw(sampling, i)]++;
    for (size_t i = 0; i < V; i++) {
        double want = p[i] * DRAWS;
        if (p[i] == 0) assert_int_equal(count[i], 0);
        if (want < 5) continue;
        chi += ((double)count[i] - want) * ((double)count[i] - want) / want;
        cells++;
    }
    if (chi > 52) fail_msg("chi-square is %g over %zu cells", chi, cells);
}

static void softmax_of(double temperature, double *p)
{
    double sum = 0;
    for (size_t i = 0; i < V; i++) sum += p[i] = exp((double)logits_of[i] / temperature);
    for (size_t i = 0; i < V; i++) p[i] /= sum;
}

/* Keep the n likeliest, equals by the lower id. */
static void keep(size_t n, double *p)
{
    double q[V], sum = 0;
    memcpy(q, p, sizeof q);
    memset(p, 0, V * sizeof *p);
    for (size_t k = 0; k < n; k++) {
        size_t best = 0;
        for (size_t i = 1; i < V; i++)
            if (q[i] > q[best]) best = i;
        sum += p[best] = q[best];
        q[best] = -1;
    }
    for (size_t i = 0; i < V; i++) p[i] /= sum;
}

static void draws_follow_the_softmax_of_every_temperature(void **state)
{
    (void)state;
    static const double temperatures[] = {0.3, 1, 2.5};
    for (size_t i = 0; i < 3; i++) {
        double p[V];
        softmax_of(temperatures[i], p);
        check_distribution(&(Sampling){.temperature = temperatures[i], .top_p = 1, .seed = 5}, p);
    }
}

static void top_k_draws_among_the_k_likeliest(void **state)
{
    (void)state;
    for (size_t k = 1; k <= V + 1; k += 4) {
        double p[V];
        softmax_of(1, p);
        keep(k < V ? k : V, p);
        check_distribution(&(Sampling){.temperature = 1, .top_p = 1, .top_k = (int64_t)k, .seed = 6}, p);
    }
}

static void top_p_draws_among_the_fewest_that_reach_it(void **state)
{
    (void)state;
    static const double shares[] = {0.2, 0.5, 0.9};
    for (size_t s = 0; s < 3; s++) {
        double p[V], sum = 0;
        size_t n = 0;
        softmax_of(1, p);
        double sorted[V];
        memcpy(sorted, p, sizeof p);
        for (size_t i = 0; i < V; i++)
            for (size_t j = i + 1; j < V; j++)
                if (sorted[j] > sorted[i]) {
                    double held = sorted[i];
                    sorted[i] = sorted[j];
                    sorted[j] = held;
                }
        while (sum < shares[s]) sum += sorted[n++];
        keep(n, p);
        check_distribution(&(Sampling){.temperature = 1, .top_p = shares[s], .seed = 7}, p);
    }
}

/* top_p is a share of what top_k left, as in transformers. */
static void top_k_comes_before_top_p(void **state)
{
    (void)state;
    double p[V];
    softmax_of(1, p);
    keep(3, p); /* 3, 3, 2.5: shares 0.384, 0.384, 0.233 */
    keep(2, p); /* 0.7 is reached by two of them; of all tokens it would take three */
    check_distribution(&(Sampling){.temperature = 1, .top_p = 0.7, .top_k = 3, .seed = 8}, p);
}

static void the_same_seed_and_index_draw_the_same(void **state)
{
    (void)state;
    size_t different = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        Sampling one = {.temperature = 1, .top_p = 1, .seed = 1}, two = {.temperature = 1, .top_p = 1, .seed = 2};
        assert_int_equal(draw(&one, i), draw(&one, i));
        different += draw(&one, i) != draw(&two, i);
    }
    assert_true(different > 500);
}

static void huge_logits_do_not_overflow(void **state)
{
    (void)state;
    float logits[4] = {3e38f, -3e38f, 1e38f, -INFINITY};
    uint32_t order[4];
    assert_int_equal(sample_token(&(Sampling){.temperature = 0.01, .top_p = 0.95}, 3, 4, logits, order), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_largest_logit_and_the_lower_id_of_equals),
        cmocka_unit_test(top_k_of_one_is_greedy),
        cmocka_unit_test(a_top_p_of_nothing_is_greedy),
        cmocka_unit_test(draws_follow_the_softmax_of_every_temperature),
        cmocka_unit_test(top_k_draws_among_the_k_likeliest),
        cmocka_unit_test(top_p_draws_among_the_fewest_that_reach_it),
        cmocka_unit_test(top_k_comes_before_top_p),
        cmocka_unit_test(the_same_seed_and_index_draw_the_same),
        cmocka_unit_test(huge_logits_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
