/* Adapters as files: PEFT directories and our checkpoints become an Adapter, and an Adapter becomes a PEFT directory. */
#ifndef GRAFT_INFER_ADAPTER_IO_H
#define GRAFT_INFER_ADAPTER_IO_H

#include "model/model.h"

/* An adapter, whatever it is: a PEFT directory; a checkpoint of ours, .h5; or a run's directory, that is its exported
 * adapter/ or, as long as there is none, its newest checkpoint. */
MUST_USE Err *adapter_open(Adapter **adapter, const Model *model, const char *path);

/* Write a PEFT directory that transformers, vLLM and SGLang read; what is not adapted in a layer's experts is written as
 * zeros, because they ask for all of a layer's experts. Correction biases that training moved go into a file of ours
 * beside them, router_bias.safetensors: no other engine reads that. */
MUST_USE Err *adapter_export(const Adapter *adapter, const char *directory, const char *base_model, bool bf16);

#endif
