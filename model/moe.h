/* The MLPs: dense, shared and routed experts behind their router. */
#ifndef GRAFT_MODEL_MOE_H
#define GRAFT_MODEL_MOE_H

#include "model/model.h"

/* silu(h Wg') (h Wu') Wd' with the layer's gate, up and down; the LoRA are at place (gate|up) and place + 1 (down). */
Tensor *mlp_forward(Tape *tape, const Layer *layer, const LayerAdapter *lora, LoraPlace place, Tensor *h);

/* Routed experts plus the shared one. */
Tensor *moe_forward(Tape *tape, const Model *model, size_t l, const LayerAdapter *lora, Tensor *h,
                    const LayerPass *pass);

#endif
