/* Learning rates by group: twenty steps of every schedule, with LoRA+ and weight decay, against PyTorch's own figures;
 * and which parameters of an adapter learn at which rate. */
#include "optim/schedule.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"
#include "tensor/safetensors.h"
#include "tests/support/check.h"
#include "train/step.h"

#include <float.h>
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

/* The names and kwargs of tests/fixtures/rates/make_rates_fixture.py. */
static const struct {
    const char *key, *name, *kwargs;
} schedules[] = {
    {"constant", "constant_with_warmup", "{}"},
    {"linear", "linear", "{}"},
    {"cosine", "cosine", "{}"},
    {"cosine_min", "cosine_with_min_lr", "{\"min_lr_rate\": 0.1}"},
    {"wsd", "warmup_stable_decay", "{\"num_decay_steps\": 6, \"min_lr_ratio\": 0.05}"},
    {"wsd_linear", "warmup_stable_decay", "{\"num_decay_steps\": 6, \"decay_type\": \"linear\"}"},
    {"wsd_sqrt", "warmup_stable_decay", "{\"num_decay_steps\": 6, \"decay_type\": \"1-sqrt\"}"},
};

/* Returns how many of the values have other bits in the end: a last place here and there in twenty steps, by which
 * torch also differs from itself on another CPU (tests/fixtures/rates/README.md). */
static size_t take_steps(const Safetensors *file, const char *key, const Schedule *schedule, double decay, int group)
{
    AdamW cfg = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = decay};
    float theta[N], m[N] = {0}, v[N] = {0}, g[N], expected[N], given[GROUPS], largest[N] = {0};
    fixture(file, key, groups[group], 0, N, theta);
    for (int t = 1; t <= STEPS; t++) {
        double rate = schedule_rate(schedule, rates[group], (uint64_t)t - 1);
        fixture(file, key, "rates", t, GROUPS, given);
        if ((float)rate != given[group])
            fail_msg("%s, group %s, step %d: rate %.9g; PyTorch's is %.9g", key, groups[group], t, rate,
                     (double)given[group]);
        fixture(file, "gradient", groups[group], t, N, g);
        adamw_update(&cfg, &(AdamWStep){(uint64_t)t, rate, 1}, N, theta, m, v, g);
        for (int j = 0; j < N; j++) largest[j] = fmaxf(largest[j], fabsf(theta[j]));
    }
    fixture(file, key, groups[group], STEPS, N, expected);
    size_t others = 0;
    for (int j = 0; j < N; j++) {
        if (theta[j] == expected[j]) continue;
        if (fabsf(theta[j] - expected[j]) > 4 * FLT_EPSILON * largest[j])
            fail_msg("%s, group %s: value %d is %.9g; PyTorch's is %.9g", key, groups[group], j, (double)theta[j],
                     (double)expected[j]);
        others++;
    }
    return others;
}

static void twenty_steps_are_those_of_pytorch(void **state)
{
    (void)state;
    Safetensors file;
    size_t n = 0, others = 0;
    assert_ok(safetensors_open(&file, "tests/fixtures/rates/rates.safetensors"));
    for (size_t c = 0; c < sizeof schedules / sizeof *schedules; c++) {
        Schedule schedule;
        Json *kwargs;
        char key[64];
        assert_ok(json_parse(&kwargs, schedules[c].kwargs, strlen(schedules[c].kwargs)));
        assert_ok(schedule_init(&schedule, schedules[c].name, kwargs, rates[0], WARMUP, STEPS));
        json_free(kwargs);
        for (int decayed = 0; decayed < 2; decayed++)
            for (int i = 0; i < GROUPS; i++) {
                snprintf(key, sizeof key, "%s.%s", schedules[c].key, decayed ? "0.1" : "0");
                others += take_steps(&file, key, &schedule, decayed ? 0.1 : 0, i);
                n += N;
            }
    }
    if (others * 20 > n) fail_msg("%zu of %zu values have other bits than PyTorch's", others, n);
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
    assert_ok(adapter_new(&adapter, model,
                          &(LoraConfig){.r = 2, .lora_alpha = 4, .target_modules = targets, .train_router = true}, 1));
    assert_ok(
        step_new(&step, &dp, model, adapter, &(StepConfig){.adamw = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-30}}));
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
                if (fabs((double)p->data[j] + rate) > 1e-6 * rate)
                    fail_msg("%s moved by %g; its rate is %g", p->name, (double)p->data[j], rate);
        }
    step_free(step);
    adapter_free(adapter);
    model_close(model);
    json_free(targets);
}

int main(void)
{
    dispatch_init("fp32");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(twenty_steps_are_those_of_pytorch),
        cmocka_unit_test(every_parameter_learns_at_the_rate_of_its_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
