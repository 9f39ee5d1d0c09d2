/* The shape of an adapter as JSON: where LoRA sits, with which r and scale, and which routers are trained in full. */
#ifndef GRAFT_MODEL_ADAPTER_SHAPE_H
#define GRAFT_MODEL_ADAPTER_SHAPE_H

#include "model/adapter.h"

/* [{"modules": ["model.layers.3.self_attn.o_proj", "model.layers.4.mlp.experts.7.gate_up_proj", ...],
 *   "r": 16, "scale": 2},
 *  {"modules": ["model.layers.3.mlp.gate"]}, {"modules": [], "router_bias": true}]
 * Modules are parameters' names without lora_A; gate_up_proj: both halves with one A. A group without r is of routers
 * trained in full. router_bias: the adapter has correction biases of its own. Owner: the caller, json_free. */
MUST_USE Err *adapter_shape_json(const Adapter *adapter, Json **shape);

/* An adapter of that shape: its arrays are those of the adapter that the shape was taken from. Values are zero, but for
 * the routers', which are the base's. Fails: ERR_FORMAT, naming the module or the key.
 * Owner: the caller, adapter_free. */
MUST_USE Err *adapter_from_shape(Adapter **adapter, const Model *model, const Json *shape);

#endif
