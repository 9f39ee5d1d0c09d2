/* Learning rates by group: twenty steps of every schedule, with LoRA+ and weight decay, against PyTorch's own figures; and
 * which parameters of an adapter learn at which rate. */
#include "optim/schedule.h"
#include "tensor/matmul.h"
#include "tensor/safetensors.h"
#include "tests/support/check.h"
#include "train/step.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { N = 67, STEPS = 20, WARMUP = 5, GROUPS = 3 };
static const char *const groups[GROUPS] = {"A", "B", "router"};
static const double rates[GROUPS] = {2e-3, 2e-3 * 16, 5e-5};

static void fixture(const Safetensors *file, const char *key, const char *what, int t, size_t n, float *out)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s.%d", key, what, t);
    const TensorView *view = safetensors_find(file, name);
    if (!view || view->bytes != n * sizeof *out) fail_msg("%s", name);
    memcpy(out, view->data, view->bytes);
}

static void twenty_steps_are_those_of_torch(void **state)
{
    (void)state;
    static const struct { const char *key; ScheduleKind kind; double decay; } cases[] = {
        {"constant.0", SCHEDULE_CONSTANT, 0}, {"constant.0.1", SCHEDULE_CONSTANT, 0.1}, {"linear.0", SCHEDULE_LINEAR, 0},
        {"linear.0.1", SCHEDULE_LINEAR, 0.1}, {"cosine.0", SCHEDULE_COSINE, 0},         {"cosine.0.1", SCHEDULE_COSINE, 0.1},
    };
    Safetensors file;
    assert_ok(safetensors_open(&file, "tests/fixtures/rates/rates.safetensors"));
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        AdamW cfg = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = cases[c].decay};
        for (int i = 0; i < GROUPS; i++) {
            float theta[N], m[N] = {0}, v[N] = {0}, g[N], expected[N], given[GROUPS];
            fixture(&file, cases[c].key, groups[i], 0, N, theta);
            for (int t = 1; t <= STEPS; t++) {
                double rate = schedule_rate(cases[c].kind, rates[i], (uint64_t)t - 1, WARMUP, STEPS);
                fixture(&file, cases[c].key, "rates", t, GROUPS, given);
                assert_true((float)rate == given[i]);
                fixture(&file, "gradient", groups[i], t, N, g);
                adamw_update(&cfg, (uint64_t)t, rate, 1, N, theta, m, v, g);
            }
            fixture(&file, cases[c].key, groups[i], STEPS, N, expected);
            for (int j = 0; j < N; j++) /* the same bits but for one value in 67, where a tie was rounded the other way (optim/adamw.c) */
                if (fabsf(theta[j] - expected[j]) > 1e-7f * (float)rates[i])
                    fail_msg("%s, group %s: value %d is %.9g; torch's is %.9g", cases[c].key, groups[i], j, (double)theta[j], (double)expected[j]);
        }
    }
    safetensors_close(&file);
}

/* Adam's first step moves every value by its rate against the gradient's sign. */
static void every_parameter_learns_at_the_rate_of_its_group(void **state)
{
    (void)state;
    const StepRates wanted = {.A = 1e-3, .B = 4e-3, .router = 1e-4};
    Dp dp = {.size = 1};
    Model *model;
    Adapter *adapter;
    Step *step;
    Json *targets;
    assert_ok(json_parse(&targets, "\"all-linear\"", strlen("\"all-linear\"")));
    assert_ok(model_open(&model, "examples/tiny-glm5"));
    assert_ok(adapter_new(&adapter, model, &(LoraConfig){.r = 2, .lora_alpha = 4, .target_modules = targets, .train_router = true}, 1));
    assert_ok(step_new(&step, &dp, model, adapter, &(StepConfig){.adamw = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-30}}));
    for (size_t l = 0; l < adapter->n_layers; l++)
        for (size_t i = 0; i < adapter->layers[l].n; i++) {
            adapter->values[adapter->layers[l].offset + i] = 0;
            step_gradient(step, l)[i] = 0.25f;
        }
    assert_ok(step_update(step, 1, &wanted, &(StepResult){.loss = 1, .grad_norm = 1}));
    for (size_t l = 0; l < adapter->n_layers; l++)
        for (size_t i = 0; i < adapter->layers[l].n_params; i++) {
            const Param *p = &adapter->layers[l].params[i];
            double rate = strstr(p->name, "lora_A") ? wanted.A : strstr(p->name, "lora_B") ? wanted.B : wanted.router;
            for (size_t j = 0; j < param_count(p); j++)
                if (fabs((double)p->data[j] + rate) > 1e-6 * rate) fail_msg("%s moved by %g; its rate is %g", p->name, (double)p->data[j], rate);
        }
    step_free(step);
    adapter_free(adapter);
    model_close(model);
    json_free(targets);
}

int main(int argc, char **argv)
{
    (void)argc;
    matmul_prepare(argv);
    matmul_init("fp32");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(twenty_steps_are_those_of_torch),
        cmocka_unit_test(every_parameter_learns_at_the_rate_of_its_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
