/* From keys to LoRA modules: A and B of a module become one AdapterLora, or one for each expert (the layouts are listed
 * in ckpt/adapter_file.h). */
#ifndef GRAFT_CKPT_ADAPTER_LAYOUTS_H
#define GRAFT_CKPT_ADAPTER_LAYOUTS_H

#include "ckpt/adapter_keys.h"

/* The reader's keys must be sorted by adapter_keys_compare. Fails: ERR_FORMAT, naming the tensor. */
MUST_USE Err *adapter_layouts_add_loras(AdapterReader *reader);

#endif
