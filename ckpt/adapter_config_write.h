/* adapter_config.json of an adapter that graft writes. */
#ifndef GRAFT_CKPT_ADAPTER_CONFIG_WRITE_H
#define GRAFT_CKPT_ADAPTER_CONFIG_WRITE_H

#include "ckpt/adapter_file.h"

/* r and alpha are those of every LoRA module. Fails: ERR_IO, ERR_MEMORY. */
MUST_USE Err *adapter_config_write(const char *path, const AdapterOut *out, size_t r, double alpha);

#endif
