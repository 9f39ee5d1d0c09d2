/* Values come from fixed seeds, so every program that uses this sees the same step. */
#include "tests/support/step_fixture.h"

#include "tests/support/tiny.h"

Dp fixture_dp = {.size = 1};
Document fixture_docs[FIXTURE_DOCS];
const Document *fixture_list[FIXTURE_DOCS];

int fixture_open(void **state)
{
    static const size_t lengths[FIXTURE_DOCS] = {13, 30, 21};
    (void)state;
    for (size_t d = 0; d < FIXTURE_DOCS; d++) {
        fixture_docs[d] = tiny_document(lengths[d], 256, 50 + d);
        fixture_list[d] = &fixture_docs[d];
    }
    return 0;
}

int fixture_close(void **state)
{
    (void)state;
    for (size_t d = 0; d < FIXTURE_DOCS; d++) tiny_document_free(&fixture_docs[d]);
    return 0;
}

Adapter *fixture_lora(const Model *model, bool router)
{
    Adapter *adapter = NULL;
    Json *all = tiny_json("'all-linear'");
    assert_ok(adapter_new(&adapter, model,
                          &(LoraConfig){.r = 2, .lora_alpha = 4, .target_modules = all, .train_router = router}, 7));
    json_free(all);
    tiny_fill(adapter, 21, 0.15);
    return adapter;
}

const StepConfig fixture_config = {.adamw = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8}, .max_grad_norm = 1};

Err *fixture_gradients(Step *step, size_t micro, size_t group, StepResult *result)
{
    Batch batch;
    assert_ok(batch_new(&batch, &fixture_dp, FIXTURE_DOCS, fixture_list, micro, group));
    Err *err = step_gradients(step, &batch, 0, NULL, result);
    batch_free(&batch);
    return err;
}
