/* Adapters as files: PEFT directories and checkpoints of graft are read, PEFT directories are written. */
#ifndef GRAFT_INFER_ADAPTER_IO_H
#define GRAFT_INFER_ADAPTER_IO_H

#include "model/model.h"

/* Open an adapter. path is one of
 *     a PEFT directory;
 *     a checkpoint of graft, .h5;
 *     the directory of a run, or best/ in it: infer/adapter_path says what is opened, and a line says which step.
 * Fails: ERR_IO, ERR_FORMAT, and as adapter_from_modules does.   Owner: the caller, adapter_free. */
MUST_USE Err *adapter_open(Adapter **adapter, const Model *model, const char *path);

/* Write a PEFT directory that transformers, vLLM and SGLang read. They require all experts of a layer, so experts
 * without LoRA are written as zeros when other experts of the layer have it. Correction biases that training moved are
 * written beside them into router_bias.safetensors, which only graft reads. */
MUST_USE Err *adapter_export(const Adapter *adapter, const char *directory, const char *base_model, bool bf16);

/* Whether a directory holds an adapter: adapter_config.json is there. Fails: ERR_IO, a path that is too long. */
MUST_USE Err *adapter_is_in(const char *directory, bool *is);

/* Remove the files of an exported adapter, and then the directory unless it holds other files. Nothing happens when
 * they are not there. */
MUST_USE Err *adapter_remove(const char *directory);

#endif
