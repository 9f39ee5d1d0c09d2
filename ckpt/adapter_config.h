/* adapter_config.json of a PEFT LoRA adapter: the part that gives tensors their meaning.
 *
 * Only plain LoRA is read: a key that could mean something else must be absent or empty (null, false, "", [], {}).
 * Source: Hugging Face PEFT 0.21, tuners/lora/config.py, utils/other.py (get_pattern_key). */
#ifndef GRAFT_CKPT_ADAPTER_CONFIG_H
#define GRAFT_CKPT_ADAPTER_CONFIG_H

#include "base/json.h"

typedef struct AdapterPattern AdapterPattern;

/* alpha_pattern or rank_pattern, in the order of the file. */
typedef struct {
    size_t n;
    AdapterPattern *items;
} AdapterPatterns;

typedef struct {
    Json *root;
    int64_t r;
    double alpha;
    bool use_rslora;
    const char *base_model;        /* base_model_name_or_path, or NULL */
    const Json *target_parameters; /* arrays of strings, or NULL */
    const Json *modules_to_save;
    AdapterPatterns alpha_pattern, rank_pattern;
} AdapterConfig;

/* Fails: ERR_FORMAT, naming the key, what was found and what was expected. */
MUST_USE Err *adapter_config_read(AdapterConfig *cfg, const char *path);
void adapter_config_free(AdapterConfig *cfg);

/* Whether the list has an entry that is the path itself or its end after a dot. list may be NULL. */
bool adapter_config_lists(const Json *list, const char *path);

/* Set *value to the number of the first key, in file order, that matches one of the paths as (.*\.)?(KEY)$.
 * Returns whether there is one. */
bool adapter_config_match(const AdapterPatterns *patterns, const char *const *paths, size_t n_paths, double *value);

#endif
