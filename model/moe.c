/*     z = h Wr',  experts and weights from z;   y = sum_k w_k expert_k(h) + shared(h)
 * Source: DeepSeek-V3 report, section 2.1.2 (arXiv:2412.19437); transformers 5.23.0, GlmMoeDsaMoE. */
#include "model/moe.h"

#include "model/attention.h"

Tensor *mlp_forward(Tape *tape, const Layer *layer, const LayerAdapter *lora, LoraPlace place, Tensor *h)
{
    const Weight *weights[] = {&layer->gate, &layer->up};
    const Lora *loras[] = {lora ? lora->places[place] : NULL, lora ? lora->places_up[place] : NULL};
    Tensor *both = op_linear(tape, h, 2, weights, 2, loras);
    return project(tape, op_swiglu(tape, both), &layer->down, lora, (LoraPlace)(place + 1));
}

Tensor *moe_forward(Tape *tape, const Model *model, size_t l, const LayerAdapter *lora, Tensor *h,
                    const LayerPass *pass)
{
    const Layer *layer = &model->layers[l];
    bool paired = lora && lora->places[LORA_ROUTER];
    Tensor *logits = paired ? project(tape, h, &layer->router, lora, LORA_ROUTER)
                            : op_linear_trained(tape, h, &layer->router, lora ? lora->router : NULL);
    tape_expect_finite(tape, logits, "router");
    if (pass->balance_stats) balance_gather(tape, &model->router, logits, pass->balance_stats);
    if (pass->coefficient) op_balance(tape, logits, &model->router, pass->coefficient, pass->balance);
    const float *bias = lora && lora->router_bias ? lora->router_bias : layer->router_bias;
    Route route = op_route(tape, logits, bias, &model->router, pass->choices->experts[l], pass->made);
    if (pass->trace) *pass->trace = (LayerTrace){logits, route};
    Tensor *y = op_experts(tape, h, route, model->router.E, lora && lora->experts ? lora->experts : layer->experts,
                           layer->chunks);
    return op_add(tape, y, mlp_forward(tape, layer, lora, LORA_SHARED_IN, h));
}
