/* Latent attention with its sparse indexer. */
#ifndef GRAFT_MODEL_ATTENTION_H
#define GRAFT_MODEL_ATTENTION_H

#include "model/model.h"

/* h [T][D], normed -> [T][D]. */
Tensor *attention_forward(Tape *tape, const Model *model, size_t l, const LayerAdapter *lora, Tensor *h,
                          const LayerPass *pass);

/* x W' with the adapter's LoRA of this place, if it has one. */
Tensor *project(Tape *tape, Tensor *x, const Weight *W, const LayerAdapter *lora, LoraPlace place);

#endif
