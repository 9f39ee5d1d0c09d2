/* Dump a step: its activations and gradients as safetensors, to compare them with a reference.
 *
 *     DIR/step-000012-rank-0.safetensors
 *         hidden.3           [T][D]   layer input of layer 3: this rank's rows in order; its gradient is grad.hidden.3
 *         router.logits.3    [T][E]   also router.weights.3 [T][K] and router.experts.3 [T][K]
 *         grad.NAME          [rows][cols]  rank 0 only: the gradient of a parameter, of the whole step, before
 *                            clipping */
#ifndef GRAFT_TRAIN_DUMP_H
#define GRAFT_TRAIN_DUMP_H

#include "train/step.h"

typedef struct Dump Dump;

/* rows: of this rank. Owner: the caller, until dump_free, which takes NULL, too. */
MUST_USE Err *dump_new(Dump **dump, size_t rows);
void dump_free(Dump *dump);

/* What step_forward takes; NULL for a dump that is NULL. */
const StepProbe *dump_probe(const Dump *dump);

/* Add the gradients that the step holds, and write the file. Collective. */
MUST_USE Err *dump_write(Dump *dump, const Dp *dp, Step *step, const Adapter *adapter, uint64_t number,
                         const char *directory);

#endif
