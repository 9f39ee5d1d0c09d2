/* An adapter as training saved it: the checkpoint's settings say where pairs sit, its arrays what is in them. */
#ifndef GRAFT_INFER_ADAPTER_CHECKPOINT_H
#define GRAFT_INFER_ADAPTER_CHECKPOINT_H

#include "ckpt/checkpoint.h"
#include "model/model.h"

/* path: a checkpoint, .h5. Trained routers and correction biases that training moved come along.
 * Fails: ERR_FORMAT when it was trained on another base (by digest), or its arrays are not those that its settings ask
 * for; what checkpoint_load_values fails with. */
MUST_USE Err *trained_open(Adapter **adapter, const Model *model, const char *path);

/* An adapter's table of contents in the checkpoint's words; names and ids are borrowed from *names.
 * Owner of both: the caller, arrays_free(*names, *n) and free(*arrays). */
MUST_USE Err *trained_table(const Adapter *adapter, AdapterArray **names, CkptArray **arrays, size_t *n);

#endif
