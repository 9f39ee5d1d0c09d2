/* The tables against the formulas in double. A float angle near 1e6 is off by up to half its last place, and so is the
 * reference that everybody trains with: the product of floats is checked as such, and its distance from the exact
 * angle. */
#include "model/rope.h"

#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>

static void fill_and_check(const ModelConfig *config, const double *inverse, double factor, size_t n, size_t step)
{
    size_t half = (size_t)config->qk_rope_head_dim / 2;
    float *cosines = malloc(n * half * sizeof *cosines), *sines = malloc(n * half * sizeof *sines);
    assert_true(cosines && sines);
    rope_fill(config, n, cosines, sines);
    for (size_t p = 0; p < n; p = p + step < n || p == n - 1 ? p + step : n - 1)
        for (size_t j = 0; j < half; j++) {
            double angle = (double)p * inverse[j];
            /* the frequency is two or three float roundings off, the angle one more */
            double off = angle * 0x1p-22 + 0x1p-22;
            double c = (double)cosines[p * half + j] - factor * cos(angle),
                   s = (double)sines[p * half + j] - factor * sin(angle);
            if (!(fabs(c) <= factor * off) || !(fabs(s) <= factor * off))
                fail_msg("position %zu, pair %zu: cos is off by %g, sin by %g; allowed %g", p, j, c, s, off);
        }
    free(cosines);
    free(sines);
}

static void default_tables_follow_the_formula_up_to_a_million(void **state)
{
    (void)state;
    static const double thetas[] = {1e4, 5e4, 1e6, 8e6};
    static const int64_t dims[] = {8, 16, 64};
    for (size_t i = 0; i < 4; i++)
        for (size_t k = 0; k < 3; k++) {
            ModelConfig config = {.qk_rope_head_dim = dims[k], .rope = {.rope_theta = thetas[i]}};
            double inverse[32];
            for (int64_t j = 0; j < dims[k] / 2; j++) inverse[j] = pow(thetas[i], -2.0 * (double)j / (double)dims[k]);
            fill_and_check(&config, inverse, 1, k == 2 && i == 3 ? 1000001 : 3000, k == 2 && i == 3 ? 9973 : 7);
        }
}

/* torch: inv_freq = 1 / float(theta^(2 j / d)), freq = float(position) inv_freq in float. */
static void angles_near_a_million_are_products_of_floats(void **state)
{
    (void)state;
    enum { N = 1048576, HALF = 4 };
    ModelConfig config = {.qk_rope_head_dim = 2 * HALF, .rope = {.rope_theta = 8e6}};
    float *cosines = malloc((size_t)N * HALF * sizeof *cosines), *sines = malloc((size_t)N * HALF * sizeof *sines);
    assert_true(cosines && sines);
    rope_fill(&config, N, cosines, sines);
    for (size_t p = N - 2000; p < N; p++)
        for (size_t j = 0; j < HALF; j++) {
            float inverse = 1.0f / (float)pow(8e6, (double)(2 * j) / (2 * HALF)), angle = (float)p * inverse;
            assert_true(fabs((double)cosines[p * HALF + j] - cos((double)angle)) <= 0x1p-24);
            assert_true(fabs((double)sines[p * HALF + j] - sin((double)angle)) <= 0x1p-24);
        }
    free(cosines);
    free(sines);
}

static double g(double factor, double m) { return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1; }

static void yarn_follows_the_formula(void **state)
{
    (void)state;
    static const struct {
        RopeConfig rope;
        int64_t dim;
    } cases[] = {
        {{.rope_theta = 1e4,
          .factor = 40,
          .beta_fast = 32,
          .beta_slow = 1,
          .mscale = 1,
          .mscale_all_dim = 1,
          .truncate = true,
          .original_max_position_embeddings = 4096},
         64}, /* DeepSeek-V3 */
        {{.rope_theta = 5e4,
          .factor = 32,
          .beta_fast = 1,
          .beta_slow = 1,
          .mscale = 1,
          .mscale_all_dim = 1,
          .truncate = true,
          .original_max_position_embeddings = 4096},
         64}, /* Kimi-K2: low == high */
        {{.rope_theta = 1e4,
          .factor = 8,
          .beta_fast = 32,
          .beta_slow = 1,
          .mscale = 1,
          .mscale_all_dim = 1,
          .truncate = true,
          .original_max_position_embeddings = 64},
         8}, /* the fixture */
        {{.rope_theta = 1e6,
          .factor = 4,
          .beta_fast = 32,
          .beta_slow = 1,
          .truncate = false,
          .original_max_position_embeddings = 32768},
         64},
        {{.rope_theta = 1e4,
          .factor = 4,
          .beta_fast = 32,
          .beta_slow = 1,
          .mscale = 0.707,
          .mscale_all_dim = 1.3,
          .truncate = true,
          .original_max_position_embeddings = 4096},
         64},
        {{.rope_theta = 1e4,
          .factor = 4,
          .beta_fast = 32,
          .beta_slow = 1,
          .attention_factor = 1.25,
          .truncate = true,
          .original_max_position_embeddings = 4096},
         64},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ModelConfig config = {.qk_rope_head_dim = cases[i].dim, .rope = cases[i].rope};
        RopeConfig *r = &config.rope;
        double d = (double)cases[i].dim, L = (double)r->original_max_position_embeddings, inverse[32];
        r->yarn = true;
        double low = d * log(L / (2 * M_PI * r->beta_fast)) / (2 * log(r->rope_theta)),
               high = d * log(L / (2 * M_PI * r->beta_slow)) / (2 * log(r->rope_theta));
        if (r->truncate) {
            low = floor(low);
            high = ceil(high);
        }
        low = fmax(low, 0);
        high = fmin(high, d - 1);
        if (low == high) high += 0.001;
        for (size_t j = 0; j < (size_t)d / 2; j++) {
            double P = pow(r->rope_theta, 2 * (double)j / d),
                   e = 1 - fmin(fmax(((double)j - low) / (high - low), 0), 1);
            inverse[j] = 1 / (r->factor * P) * (1 - e) + 1 / P * e;
        }
        double factor = r->attention_factor != 0 ? r->attention_factor
                        : r->mscale != 0 && r->mscale_all_dim != 0
                            ? g(r->factor, r->mscale) / g(r->factor, r->mscale_all_dim)
                            : g(r->factor, 1);
        fill_and_check(&config, inverse, factor, 4000, 13);
        double softmax = r->mscale_all_dim != 0 ? g(r->factor, r->mscale_all_dim) * g(r->factor, r->mscale_all_dim) : 1;
        assert_true(fabs(rope_softmax_factor(r) - softmax) < 1e-12);
    }
}

static void the_softmax_of_deepseek_v3_has_its_known_factor(void **state)
{
    (void)state;
    RopeConfig rope = {.yarn = true, .factor = 40, .mscale = 1, .mscale_all_dim = 1};
    assert_true(fabs(rope_softmax_factor(&rope) - 1.8738542) < 1e-7);
    rope.yarn = false;
    assert_true(rope_softmax_factor(&rope) == 1);
}

static void position_zero_does_not_turn(void **state)
{
    (void)state;
    ModelConfig config = {.qk_rope_head_dim = 16, .rope = {.rope_theta = 1e6}};
    float cosines[8], sines[8];
    rope_fill(&config, 1, cosines, sines);
    for (size_t j = 0; j < 8; j++) assert_true(cosines[j] == 1 && sines[j] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(default_tables_follow_the_formula_up_to_a_million),
        cmocka_unit_test(angles_near_a_million_are_products_of_floats),
        cmocka_unit_test(yarn_follows_the_formula),
        cmocka_unit_test(the_softmax_of_deepseek_v3_has_its_known_factor),
        cmocka_unit_test(position_zero_does_not_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
