/* Tapes of real steps hold the bytes that are counted from shapes, whatever the group size and the kept layers. */
#include "tests/support/check.h"

#include "base/memory.h"
#include "base/pages.h"
#include "tensor/dispatch.h"
#include "train/step.h"
#include "plan/tape_bytes.h"

#include <omp.h>
#include <stdlib.h>

enum { N_DOCS = 4, LENGTH = 768 };

static Model *model;
static Adapter *adapter;

static int open_model(void **state)
{
    (void)state;
    dispatch_init(NULL);
    assert_ok(model_open(&model, "examples/tiny-glm5"));
    Json *names = json_new_array();
    json_add_string(names, NULL, "q_b_proj");
    json_add_string(names, NULL, "o_proj");
    json_add_string(names, NULL, "kv_b_proj"); /* a gradient for each micro-batch */
    assert_ok(adapter_new(&adapter, model, &(LoraConfig){.r = 4, .lora_alpha = 8, .target_modules = names}, 5));
    json_free(names);
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    adapter_free(adapter);
    model_close(model);
    return 0;
}

/* Bytes that the tapes of a step hold. */
static size_t held_bytes(size_t length, size_t group_tokens, size_t keep)
{
    static int32_t ids[N_DOCS][LENGTH], targets[N_DOCS][LENGTH];
    static Document docs[N_DOCS];
    const Document *list[N_DOCS];
    Dp dp = {.size = 1};
    Step *step;
    Batch batch;
    StepResult result;
    for (size_t d = 0; d < N_DOCS; d++) {
        for (size_t t = 0; t < LENGTH; t++) {
            ids[d][t] = (int32_t)((d * 131 + t * t * 17) % 1000);
            targets[d][t] = (int32_t)((d * 13 + t * 29) % 1000);
        }
        docs[d] = (Document){.n = length, .ids = ids[d], .targets = targets[d], .n_loss_tokens = length};
        list[d] = &docs[d];
    }
    assert_ok(step_new(&step, &dp, model, adapter, &(StepConfig){.keep_layers = keep}));
    assert_ok(batch_new(&batch, &dp, N_DOCS, list, length, group_tokens));
    assert_ok(step_gradients(step, &batch, 0, NULL, &result));
    size_t bytes = step_tape_bytes(step);
    batch_free(&batch);
    step_free(step);
    return bytes;
}

/* groups: documents of a group, 0: all. The count is never too small, and too large by `more` bytes beyond whole
 * pages at most. */
static void check_count(size_t length, size_t groups, size_t keep, size_t more)
{
    size_t T = groups ? groups * length : N_DOCS * length, counted, held = held_bytes(length, groups * length, keep);
    TapeWork work = {.rows = N_DOCS * length,
                     .T = T,
                     .longest = length,
                     .micro_batch_tokens = length,
                     .threads = (size_t)omp_get_max_threads(),
                     .kept_layers = keep};
    assert_ok(tapes_bytes(&counted, model, adapter, &work));
    if (held > counted || counted - held > (2 + 2 * keep) * HUGE_PAGE + more)
        fail_msg("%zu tokens, groups of %zu, %zu layers kept: %.1f MB counted, %.1f MB held", length, groups, keep,
                 1e-6 * (double)counted, 1e-6 * (double)held);
}

static const struct {
    size_t groups, keep;
} cases[] = {{0, 0}, {1, 0}, {2, 2}, {0, 6}};
enum { N_CASES = sizeof cases / sizeof *cases };

static void tapes_take_what_is_counted(void **state)
{
    (void)state;
    assert_true(model->attention.latent_from > 1 && model->attention.latent_from <= LENGTH);
    for (size_t i = 0; i < N_CASES; i++)
        check_count(model->attention.latent_from - 1, cases[i].groups, cases[i].keep, 0);
}

/* How many documents attend to latents is not known, so the count is enough if none does and if all do. */
static void long_documents_take_no_more(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CASES; i++) check_count(LENGTH, cases[i].groups, cases[i].keep, SIZE_MAX / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(tapes_take_what_is_counted),
                                       cmocka_unit_test(long_documents_take_no_more)};
    return cmocka_run_group_tests(tests, open_model, close_model);
}
