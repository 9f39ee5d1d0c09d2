/* Of the four layers the first is dense; the adapter begins at layer 2, so two layers have no backward pass. */
#include "tests/support/planned_model.h"

#include "tests/support/tiny.h"

Model *planned_model;
Adapter *planned_adapter;

int planned_model_open(void **state)
{
    (void)state;
    assert_ok(model_outline(&planned_model, "tests/fixtures/plan/config.json", DTYPE_BF16));
    assert_ok(tiny_adapter(&planned_adapter, planned_model, 2, "['o_proj']", "[2, 3]", NULL));
    return 0;
}

int planned_model_close(void **state)
{
    (void)state;
    adapter_free(planned_adapter);
    model_close(planned_model);
    return 0;
}
