/* What the name of a module says: "model.layers.1.mlp.experts.7.up_proj" is a matrix of routed expert 7. */
#ifndef GRAFT_CKPT_ADAPTER_MODULES_H
#define GRAFT_CKPT_ADAPTER_MODULES_H

#include <stdbool.h>
#include <stddef.h>

/* The last part of the name: "up_proj". */
const char *adapter_module_leaf(const char *module);

/* 0 for down_proj, 1 for gate_proj, 2 for up_proj (alphabetical order), 3 for another leaf. */
size_t adapter_module_projection(const char *leaf);

/* A matrix of a routed expert. */
typedef struct {
    const char *module;
    size_t stem;               /* bytes of the name up to and with ".experts" */
    size_t expert, projection; /* as adapter_module_projection */
} ExpertMatrix;

/* Is the module a matrix of a routed expert with a number? *found is set only then. */
bool adapter_module_is_expert(const char *module, ExpertMatrix *found);

#endif
