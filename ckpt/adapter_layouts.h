/* Keys to pairs: partners become one pair, or one for each expert (the layouts of ckpt/adapter_file.h). */
#ifndef GRAFT_CKPT_ADAPTER_LAYOUTS_H
#define GRAFT_CKPT_ADAPTER_LAYOUTS_H

#include "ckpt/adapter_keys.h"

/* The reader's keys are sorted. Fails: ERR_FORMAT, naming the tensor. */
MUST_USE Err *layouts_add_pairs(Reader *reader);

#endif
