/* AdamW: the bits of PyTorch's results, independence of slice borders, the formula in double. */
#include "optim/adamw.h"

#include "tensor/safetensors.h"
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 131, STEPS = 6 };

typedef struct {
    const char *name;
    AdamW cfg;
    double rates[STEPS];
} AdamWCase;

static const AdamWCase cases[] = {
    {"plain", {0.9, 0.999, 1e-8, 0}, {1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3}},
    {"decay", {0.9, 0.98, 1e-6, 0.1}, {0, 2e-4, 4e-4, 3e-4, 2e-4, 1e-4}},
};

static void open_fixture(Safetensors *file)
{
    assert_ok(safetensors_open(file, "tests/fixtures/adamw/adamw.safetensors"));
}

static void fixture(const Safetensors *file, const AdamWCase *c, const char *what, int t, float out[N])
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s.%d", c->name, what, t);
    const TensorView *view = safetensors_find(file, name);
    assert_non_null(view);
    assert_int_equal(view->bytes, N * sizeof *out);
    memcpy(out, view->data, view->bytes);
}

/* Distance in units of the last place. */
static double ulps(float a, float b)
{
    if (a == b) return 0;
    float size = fmaxf(fabsf(a), fabsf(b));
    return fabs((double)a - (double)b) / ((double)nextafterf(size, INFINITY) - (double)size);
}

static void a_step_has_the_bits_that_pytorch_has(void **state)
{
    (void)state;
    Safetensors file;
    open_fixture(&file);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        float theta[N], m[N] = {0}, v[N] = {0}, g[N], expected[3][N];
        double worst = 0;
        fixture(&file, &cases[c], "theta", 0, theta);
        for (int t = 1; t <= STEPS; t++) {
            fixture(&file, &cases[c], "g", t, g);
            fixture(&file, &cases[c], "theta", t, expected[0]);
            fixture(&file, &cases[c], "m", t, expected[1]);
            fixture(&file, &cases[c], "v", t, expected[2]);
            adamw_update(&cases[c].cfg, &(AdamWStep){(uint64_t)t, cases[c].rates[t - 1], 1}, N, theta, m, v, g);
            for (size_t i = 0; i < N; i++) {
                worst = fmax(worst, fmax(ulps(theta[i], expected[0][i]),
                                         fmax(ulps(m[i], expected[1][i]), ulps(v[i], expected[2][i]))));
            }
        }
        if (worst > 0) fail_msg("%s: %g units of the last place from PyTorch", cases[c].name, worst);
    }
    safetensors_close(&file);
}

static void a_result_does_not_depend_on_slice_borders(void **state)
{
    (void)state;
    Safetensors file;
    open_fixture(&file);
    float whole[3][N] = {0}, parts[3][N] = {0}, g[N];
    fixture(&file, &cases[1], "theta", 0, whole[0]);
    memcpy(parts[0], whole[0], sizeof parts[0]);
    for (int t = 1; t <= STEPS; t++) {
        fixture(&file, &cases[1], "g", t, g);
        const AdamWStep step = {(uint64_t)t, 1e-3, 0.37};
        adamw_update(&cases[1].cfg, &step, N, whole[0], whole[1], whole[2], g);
        for (size_t begin = 0, n; begin < N; begin += n) {
            n = 1 + (begin * 7 + (size_t)t) % 19;
            if (n > N - begin) n = N - begin;
            adamw_update(&cases[1].cfg, &step, n, parts[0] + begin, parts[1] + begin, parts[2] + begin, g + begin);
        }
    }
    assert_memory_equal(whole, parts, sizeof whole);
    safetensors_close(&file);
}

static void an_update_follows_the_formula_in_double(void **state)
{
    (void)state;
    const AdamW cfg = {0.9, 0.95, 1e-8, 0.01};
    float theta = 0.5f, m = 0, v = 0;
    double x = 0.5, a = 0, b = 0, scale = 0.25, lr = 0.01;
    for (uint64_t t = 1; t <= 50; t++) {
        float g = sinf((float)t);
        double gd = scale * (double)g;
        x *= 1 - lr * cfg.weight_decay;
        a = cfg.beta1 * a + (1 - cfg.beta1) * gd;
        b = cfg.beta2 * b + (1 - cfg.beta2) * gd * gd;
        x -= lr / (1 - pow(cfg.beta1, (double)t)) * a / (sqrt(b) / sqrt(1 - pow(cfg.beta2, (double)t)) + cfg.epsilon);
        adamw_update(&cfg, &(AdamWStep){t, lr, scale}, 1, &theta, &m, &v, &g);
        assert_true(fabs((double)theta - x) < 2e-6 && fabs((double)m - a) < 1e-6 && fabs((double)v - b) < 1e-6);
    }
}

static void a_gradient_of_zero_changes_nothing_without_decay(void **state)
{
    (void)state;
    float theta[3] = {1, -2, 0}, m[3] = {0}, v[3] = {0}, g[3] = {0};
    adamw_update(&cases[0].cfg, &(AdamWStep){1, 1e-3, 1}, 3, theta, m, v, g);
    assert_true(theta[0] == 1 && theta[1] == -2 && theta[2] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_has_the_bits_that_pytorch_has),
        cmocka_unit_test(a_result_does_not_depend_on_slice_borders),
        cmocka_unit_test(an_update_follows_the_formula_in_double),
        cmocka_unit_test(a_gradient_of_zero_changes_nothing_without_decay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
