/* An adapter as training saved it: the checkpoint's settings say where LoRA sits, its arrays hold the values. A run
 * that began with another adapter (init_adapter) adds that adapter's shape to the settings of its checkpoints. */
#ifndef GRAFT_INFER_ADAPTER_CHECKPOINT_H
#define GRAFT_INFER_ADAPTER_CHECKPOINT_H

#include "ckpt/checkpoint.h"
#include "model/model.h"

/* Opens an adapter whatever its format: adapter_open of infer/adapter_io. */
typedef Err *AdapterOpener(Adapter **adapter, const Model *model, const char *path);

/* The settings that a checkpoint holds: those of the run, and the shape of its adapter if it began with init_adapter.
 * Owner: the caller, until free(). */
MUST_USE Err *adapter_checkpoint_settings(const Adapter *adapter, const char *settings, char **text);

/* An adapter of the shape in a checkpoint's settings, with the values of a new one. *adapter is NULL when they hold
 * none: the run did not begin with init_adapter, or an older version of graft saved it. */
MUST_USE Err *adapter_checkpoint_shape(Adapter **adapter, const Model *model, const char *settings);

/* Open a checkpoint, with trained routers and with the correction biases that training moved.
 *   path       a checkpoint, .h5
 *   open_init  opens the adapter that the run began with, where an older checkpoint holds its path only
 * Fails: ERR_FORMAT when it was trained on another base (by digest), or its arrays are not those of its settings;
 *        and as lora_experts_read, open_init and checkpoint_load_values do. */
MUST_USE Err *adapter_checkpoint_open(Adapter **adapter, const Model *model, const char *path,
                                      AdapterOpener *open_init);

/* The list of an adapter's arrays as a checkpoint needs it; names and ids are borrowed from *names.
 * Owner of both: the caller, arrays_free(*names, *n) and free(*arrays). */
MUST_USE Err *adapter_checkpoint_table(const Adapter *adapter, AdapterArray **names, CkptArray **arrays, size_t *n);

#endif
