/* Everything that a step shows, as safetensors, to compare with a reference.
 *
 *     DIR/step-000012-rank-0.safetensors
 *         hidden.3           [T][D]   hidden state below layer 3, this rank's rows in their order; grad.hidden.3
 *         router.logits.3    [T][E]   router.weights.3 [T][K], router.experts.3 [T][K]: of layer 3
 *         grad.NAME          [rows][cols]  rank 0 only: the whole step's gradient of a parameter, before clipping */
#ifndef GRAFT_TRAIN_DUMP_H
#define GRAFT_TRAIN_DUMP_H

#include "train/step.h"

typedef struct Dump Dump;

/* rows: of this rank. dump_probe is for step_gradients. */
MUST_USE Err *dump_new(Dump **dump, size_t rows);
void dump_free(Dump *dump);
const StepProbe *dump_probe(Dump *dump);

/* Add the gradients that the step holds, and write the file. Collective. */
MUST_USE Err *dump_write(Dump *dump, const Dp *dp, Step *step, const Adapter *adapter, uint64_t number,
                         const char *directory);

#endif
