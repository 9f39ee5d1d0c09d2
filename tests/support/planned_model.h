/* The model and the adapter of the plans that are computed by hand: tests/fixtures/plan/config.json in BF16, without
 * files. */
#ifndef GRAFT_TESTS_SUPPORT_PLANNED_MODEL_H
#define GRAFT_TESTS_SUPPORT_PLANNED_MODEL_H

#include "model/model.h"

extern Model *planned_model;
extern Adapter *planned_adapter; /* o_proj of layers 2 and 3, r 2: A [2][256] and B [256][2], 1,024 numbers a layer */

/* Of a test group. */
int planned_model_open(void **state);
int planned_model_close(void **state);

#endif
