/* An adapter as training saved it: the checkpoint's settings say where LoRA sits, its arrays hold the values. */
#ifndef GRAFT_INFER_ADAPTER_CHECKPOINT_H
#define GRAFT_INFER_ADAPTER_CHECKPOINT_H

#include "ckpt/checkpoint.h"
#include "model/model.h"

/* Opens an adapter whatever its format: adapter_open of infer/adapter_io. */
typedef Err *AdapterOpener(Adapter **adapter, const Model *model, const char *path);

/* Open a checkpoint, with trained routers and with the correction biases that training moved.
 *   path       a checkpoint, .h5
 *   open_init  opens the adapter that the run began with (init_adapter), if it began with one
 * Fails: ERR_FORMAT when it was trained on another base (by digest), or its arrays are not those of its settings;
 *        and as lora_experts_read, open_init and checkpoint_load_values do. */
MUST_USE Err *adapter_checkpoint_open(Adapter **adapter, const Model *model, const char *path,
                                      AdapterOpener *open_init);

/* The list of an adapter's arrays as a checkpoint needs it; names and ids are borrowed from *names.
 * Owner of both: the caller, arrays_free(*names, *n) and free(*arrays). */
MUST_USE Err *adapter_checkpoint_table(const Adapter *adapter, AdapterArray **names, CkptArray **arrays, size_t *n);

#endif
