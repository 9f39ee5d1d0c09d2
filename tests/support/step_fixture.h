/* What tests of a training step share: three documents, one rank, and an adapter with LoRA everywhere. */
#ifndef GRAFT_TESTS_SUPPORT_STEP_FIXTURE_H
#define GRAFT_TESTS_SUPPORT_STEP_FIXTURE_H

#include "train/step.h"

enum { FIXTURE_DOCS = 3 };

extern Dp fixture_dp; /* one rank */
extern Document fixture_docs[FIXTURE_DOCS];
extern const Document *fixture_list[FIXTURE_DOCS];
extern const StepConfig fixture_config; /* AdamW with clipping, no balance loss */

/* Of a test group: make the documents and free them. */
int fixture_open(void **state);
int fixture_close(void **state);

/* r 2 on all linear modules, and the router in full where `router`; values are random. Owner: the caller,
 * adapter_free. */
Adapter *fixture_lora(const Model *model, bool router);

/* Gradients of the documents, cut into micro-batches of `micro` tokens and groups of `group` (0: all). */
Err *fixture_gradients(Step *step, size_t micro, size_t group, StepResult *result);

#endif
