/* What a step may do to save time or memory never changes a bit of its gradients. */
#include "tests/support/check.h"

#include "base/memory.h"
#include "tensor/dispatch.h"
#include "train/step.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { N_DOCS = 3, LENGTH = 21, N_IDS = 60 };

static Model *model;
static Adapter *adapter;
static Document docs[N_DOCS];

static int open_model(void **state)
{
    static int32_t ids[N_DOCS][LENGTH], targets[N_DOCS][LENGTH];
    (void)state;
    dispatch_init("fp32");
    assert_ok(model_open(&model, "tests/fixtures/model/sparse"));
    Json *experts = json_new_object();
    json_add_string(experts, "experts", "all");
    assert_ok(adapter_new(
        &adapter, model,
        &(LoraConfig){.r = 3, .lora_alpha = 6, .experts = json_find(experts, "experts"), .train_router = true}, 5));
    json_free(experts);
    for (size_t i = 0; i < adapter->n; i++)
        adapter->values[i] += (float)(i * 7919 % 1000) * 1e-4f; /* B is no longer zero */
    for (size_t d = 0; d < N_DOCS; d++) {
        docs[d] =
            (Document){.n = LENGTH - 4 * d, .ids = ids[d], .targets = targets[d], .n_loss_tokens = LENGTH - 4 * d};
        for (size_t t = 0; t < LENGTH; t++) {
            ids[d][t] = (int32_t)((d * 31 + t * 17) % N_IDS);
            targets[d][t] = (int32_t)((d * 13 + t * 29) % N_IDS);
        }
    }
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    adapter_free(adapter);
    model_close(model);
    return 0;
}

/* Gradients of all layers, one after another, of the second of two steps: buffers are no longer fresh. */
static float *gradients(const StepConfig *config, size_t group_tokens, int threads)
{
    Dp dp = {.size = 1};
    Step *step;
    Batch batch;
    StepResult result;
    float *all;
    const Document *list[N_DOCS] = {&docs[0], &docs[1], &docs[2]};
    omp_set_num_threads(threads);
    assert_ok(step_new(&step, &dp, model, adapter, config));
    assert_ok(batch_new(&batch, &dp, N_DOCS, list, LENGTH, group_tokens));
    for (int i = 0; i < 2; i++) assert_ok(step_gradients(step, &batch, 0, NULL, &result));
    assert_ok(mem_new(&all, adapter->n, sizeof *all));
    for (size_t l = 0; l < adapter->n_layers; l++)
        memcpy(all + adapter->layers[l].offset, step_gradient(step, l), adapter->layers[l].n * sizeof *all);
    batch_free(&batch);
    step_free(step);
    return all;
}

static void gradients_have_the_same_bits_however_they_are_computed(void **state)
{
    static const struct {
        size_t keep, group;
        bool recompute_experts;
        int threads;
    } ways[] = {
        {0, 0, true, 1},  {1, 0, false, 2},       {99, 0, false, 2},
        {99, 0, true, 2}, {99, LENGTH, false, 1}, {1, LENGTH, true, 2},
    };
    (void)state;
    float *reference = gradients(&(StepConfig){0}, 0, 1), sum = 0;
    for (size_t i = 0; i < adapter->n; i++) sum += reference[i] * reference[i];
    assert_true(sum > 0);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        float *other = gradients(&(StepConfig){.keep_layers = ways[w].keep,
                                               .recompute_experts = ways[w].recompute_experts},
                                 ways[w].group, ways[w].threads);
        assert_memory_equal(other, reference, adapter->n * sizeof *other);
        free(other);
    }
    free(reference);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gradients_have_the_same_bits_however_they_are_computed)};
    return cmocka_run_group_tests(tests, open_model, close_model);
}
