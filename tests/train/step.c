/* One step as a function: its loss, its gradient, and what it refuses. */
#define _GNU_SOURCE
#include "train/step.h"

#include "base/rng.h"
#include "infer/evaluate.h"
#include "tensor/rows.h"
#include "tests/support/step_fixture.h"
#include "tests/support/tiny.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static Adapter *routers_by_lora(const Model *model)
{
    Adapter *adapter;
    assert_ok(tiny_adapter(&adapter, model, 3, "['gate', 'o_proj']", NULL, NULL));
    tiny_fill(adapter, 22, 0.15);
    return adapter;
}

static Adapter *everything(const Model *model) { return fixture_lora(model, true); }

static const BalanceValues coefficients[16] = {
    [0 ... 15] = {.seq_aux_loss = 0.3, .aux_loss = 0.2, .load_balancing_loss = 0.1, .z_loss = 0.05}};
static const StepConfig balanced = {.adamw = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8},
                                    .max_grad_norm = 1,
                                    .balance = coefficients};

static double total(const StepConfig *c, const StepResult *r)
{
    return r->loss + c->balance->seq_aux_loss * r->balance.seq_aux_loss + c->balance->aux_loss * r->balance.aux_loss +
           c->balance->load_balancing_loss * r->balance.load_balancing_loss + c->balance->z_loss * r->balance.z_loss;
}

/* A fingerprint of all that is chosen: experts, and the K best logits, which the balance losses count. */
typedef struct {
    const Model *model;
    uint64_t print;
} Chosen;

static void see_choices(void *context, const char *what, size_t l, size_t row, size_t rows, size_t cols,
                        const void *data)
{
    Chosen *c = context;
    (void)l, (void)row;
    if (strcmp(what, "router.experts") == 0)
        for (size_t i = 0; i < rows * cols; i++) c->print = rng_key(c->print, (uint64_t)((const int32_t *)data)[i]);
    if (strcmp(what, "router.logits") != 0) return;
    int32_t *best = malloc(c->model->router.K * sizeof *best);
    assert_non_null(best);
    for (size_t t = 0; t < rows; t++) {
        uint64_t set = 0;
        row_top_k(cols, c->model->router.K, best, (const float *)data + t * cols);
        for (size_t k = 0; k < c->model->router.K; k++) set |= 1ull << best[k];
        c->print = rng_key(c->print, set);
    }
    free(best);
}

/* The loss of all, and what was chosen meanwhile. */
static double loss_at(Step *step, const Model *model, uint64_t *print)
{
    Batch batch;
    StepResult result;
    Chosen chosen = {.model = model};
    assert_ok(batch_new(&batch, &fixture_dp, FIXTURE_DOCS, fixture_list, 32, 0));
    assert_ok(step_gradients(step, &batch, 0, &(StepProbe){&chosen, see_choices}, &result));
    batch_free(&batch);
    *print = chosen.print;
    return total(&balanced, &result);
}

/* Along every parameter's own gradient the loss must rise by the gradient's length, where no choice flips: by `rise`,
 * small enough that few do. */
static void finite_differences(const char *name, Adapter *(*make)(const Model *model), double rise, size_t min_checked)
{
    Model *model = tiny_model(name);
    Adapter *adapter = make(model);
    Step *step;
    StepResult result;
    assert_ok(step_new(&step, &fixture_dp, model, adapter, &balanced));
    assert_ok(fixture_gradients(step, 32, 0, &result));
    float *g = malloc(adapter->n * sizeof *g);
    assert_non_null(g);
    for (size_t l = 0; l < model->n_layers; l++)
        memcpy(g + adapter->layers[l].offset, step_gradient(step, l), adapter->layers[l].n * sizeof *g);
    size_t checked = 0, flipped = 0;
    for (size_t l = 0; l < model->n_layers; l++)
        for (size_t i = 0; i < adapter->layers[l].n_params; i++) {
            const Param *p = &adapter->layers[l].params[i];
            const float *dp_of = g + adapter->layers[l].offset + p->offset;
            size_t n = param_count(p);
            double square = 0;
            float *kept = malloc(n * sizeof *kept);
            assert_non_null(kept);
            memcpy(kept, p->data, n * sizeof *kept);
            for (size_t j = 0; j < n; j++) square += (double)dp_of[j] * (double)dp_of[j];
            double length = sqrt(square), h = rise / length;
            if (length > 1e-3) { /* else rounding is all there is to see */
                uint64_t here, there;
                for (size_t j = 0; j < n; j++) p->data[j] = (float)((double)kept[j] + h * (double)dp_of[j] / length);
                double up = loss_at(step, model, &here);
                for (size_t j = 0; j < n; j++) p->data[j] = (float)((double)kept[j] - h * (double)dp_of[j] / length);
                double slope = (up - loss_at(step, model, &there)) / (2 * h);
                if (here == there && fabs(slope / length - 1) > 0.01)
                    fail_msg("%s %s: slope %g, gradient %g", name, p->name, slope, length);
                checked += here == there;
                flipped += here != there;
            }
            memcpy(p->data, kept, n * sizeof *kept);
            free(kept);
        }
    if (checked <= min_checked || flipped > checked / 4)
        fail_msg("%s: %zu checked, in %zu a choice flipped", name, checked, flipped);
    free(g);
    step_free(step);
    adapter_free(adapter);
    model_close(model);
}

static void the_gradient_of_the_whole_step_is_the_slope_of_its_loss(void **state)
{
    (void)state;
    finite_differences("dense", everything, 2e-4, 80);
    finite_differences("lite_noqlora", everything, 2e-4, 80);
    finite_differences("v3_groups_yarn", everything, 2e-4, 80);
    finite_differences("dense", routers_by_lora, 4e-5, 5);
}

static double evaluated(Model *model, const Adapter *adapter)
{
    Scores scores;
    double nll = 0, n_loss_tokens = 0;
    assert_ok(evaluate(&scores, model, 1, &adapter, FIXTURE_DOCS, fixture_list, &(EvaluateConfig){.group_tokens = 20}));
    for (size_t d = 0; d < FIXTURE_DOCS; d++) {
        nll += scores.variants[0].documents[d].nll;
        n_loss_tokens += (double)fixture_list[d]->n_loss_tokens;
    }
    scores_free(&scores);
    return nll / n_loss_tokens;
}

static void evaluation_before_an_update_equals_the_training_loss(void **state)
{
    (void)state;
    static const char *const names[] = {"dense", "sparse", "fp8"};
    for (size_t i = 0; i < 3; i++) {
        Model *model = tiny_model(names[i]);
        Adapter *adapter = everything(model);
        Step *step;
        StepResult result;
        assert_ok(step_new(&step, &fixture_dp, model, adapter, &fixture_config));
        assert_ok(fixture_gradients(step, 32, 0, &result));
        assert_true(fabs(evaluated(model, adapter) - result.loss) <
                    1e-6 * result.loss); /* one logarithm in double, one in float */
        assert_true(fabs(evaluated(model, NULL) - result.loss) > 1e-3 * result.loss);
        step_free(step);
        adapter_free(adapter);
        model_close(model);
    }
}

static void kept_layers_and_groups_change_no_bit(void **state)
{
    (void)state;
    static const char *const names[] = {"dense", "sparse", "indexshare"};
    for (size_t i = 0; i < 3; i++) {
        Model *model = tiny_model(names[i]);
        Adapter *adapter = everything(model);
        float *first = malloc(adapter->n * sizeof *first);
        StepResult result, again;
        assert_non_null(first);
        for (size_t keep = 0; keep <= model->n_layers + 1; keep++)
            for (size_t group = 0; group <= 40; group += 20) {
                StepConfig config = balanced;
                Step *step;
                config.keep_layers = keep;
                config.lora_dropout = 0.1;
                assert_ok(step_new(&step, &fixture_dp, model, adapter, &config));
                assert_ok(fixture_gradients(step, 20, group, keep + group ? &again : &result));
                for (size_t l = 0; l < model->n_layers; l++) {
                    const LayerAdapter *layer = &adapter->layers[l];
                    if (keep + group == 0)
                        memcpy(first + layer->offset, step_gradient(step, l), layer->n * sizeof *first);
                    else
                        assert_memory_equal(first + layer->offset, step_gradient(step, l), layer->n * sizeof *first);
                }
                if (keep + group)
                    assert_true(again.loss == result.loss && again.grad_norm == result.grad_norm &&
                                again.balance.aux_loss == result.balance.aux_loss);
                step_free(step);
            }
        free(first);
        adapter_free(adapter);
        model_close(model);
    }
}

static void a_loss_or_norm_that_is_not_finite_updates_nothing(void **state)
{
    (void)state;
    Model *model = tiny_model("dense");
    Adapter *adapter = everything(model);
    Step *step;
    StepResult result;
    float *before = malloc(adapter->n * sizeof *before);
    assert_non_null(before);
    assert_ok(step_new(&step, &fixture_dp, model, adapter, &fixture_config));
    assert_ok(fixture_gradients(step, 32, 0, &result));
    memcpy(before, adapter->values, adapter->n * sizeof *before);
    StepResult bad = result;
    bad.loss = NAN;
    assert_fails(step_update(step, 1, &(StepRates){1e-3, 1e-3, 1e-3}, &bad), ERR_NUMERIC, "the loss is nan");
    bad = result;
    bad.grad_norm = INFINITY;
    assert_fails(step_update(step, 1, &(StepRates){1e-3, 1e-3, 1e-3}, &bad), ERR_NUMERIC, "the gradient's norm is inf");
    assert_memory_equal(before, adapter->values, adapter->n * sizeof *before);
    for (size_t l = 0; l < model->n_layers; l++)
        for (size_t i = 0; i < adapter->layers[l].n; i++)
            assert_true(step_moment_m(step, l)[i] == 0 && step_moment_v(step, l)[i] == 0);
    assert_ok(step_update(step, 1, &(StepRates){1e-3, 1e-3, 1e-3}, &result));
    assert_memory_not_equal(before, adapter->values, adapter->n * sizeof *before);
    free(before);
    step_free(step);
    adapter_free(adapter);
    model_close(model);
}

static void updates_lower_the_loss(void **state)
{
    (void)state;
    Model *model = tiny_model("sparse");
    Adapter *adapter;
    Step *step;
    StepResult result;
    double first = 0;
    assert_ok(tiny_adapter(&adapter, model, 4, "'all-linear'", NULL, NULL));
    assert_ok(step_new(&step, &fixture_dp, model, adapter, &fixture_config));
    for (uint64_t t = 1; t <= 20; t++) {
        assert_ok(fixture_gradients(step, 32, 0, &result));
        if (t == 1) first = result.loss;
        assert_ok(step_update(step, t, &(StepRates){1e-2, 1e-2, 1e-2}, &result));
    }
    assert_true(result.loss < 0.8 * first);
    step_free(step);
    adapter_free(adapter);
    model_close(model);
}

static void the_norm_is_that_of_all_gradients(void **state)
{
    (void)state;
    Model *model = tiny_model("dense");
    Adapter *adapter = everything(model);
    Step *step;
    StepResult result;
    double square = 0;
    assert_ok(step_new(&step, &fixture_dp, model, adapter, &fixture_config));
    assert_ok(fixture_gradients(step, 32, 0, &result));
    for (size_t l = 0; l < model->n_layers; l++)
        for (size_t i = 0; i < adapter->layers[l].n; i++)
            square += (double)step_gradient(step, l)[i] * (double)step_gradient(step, l)[i];
    assert_true(fabs(result.grad_norm / sqrt(square) - 1) < 1e-12);
    step_free(step);
    adapter_free(adapter);
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_gradient_of_the_whole_step_is_the_slope_of_its_loss),
        cmocka_unit_test(evaluation_before_an_update_equals_the_training_loss),
        cmocka_unit_test(kept_layers_and_groups_change_no_bit),
        cmocka_unit_test(a_loss_or_norm_that_is_not_finite_updates_nothing),
        cmocka_unit_test(updates_lower_the_loss),
        cmocka_unit_test(the_norm_is_that_of_all_gradients),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
