/* The forward pass, as docs/glm5.md has it:
 *     x = embed(ids);  for every layer:  x += attention(norm(x));  x += mlp(norm(x));  logits = norm(x) W'
 * Numbers that are not finite end the pass here, whatever --guard says: a NaN must not choose experts, keys or tokens.
 * Source: transformers 5.23.0, modeling_glm_moe_dsa.py, and its siblings for the other families. */
#include "model/model.h"

#include "model/attention.h"
#include "model/moe.h"

Tensor *layer_forward(Tape *tape, const Model *model, size_t l, const Adapter *adapter, Tensor *x,
                      const LayerPass *pass)
{
    const Layer *layer = &model->layers[l];
    const LayerAdapter *lora = adapter ? &adapter->layers[l] : NULL;
    size_t D = x->shape[1];
    double eps = model->config.rms_norm_eps;
    Tensor *h = op_rmsnorm(tape, x, 0, D, layer->input_layernorm, eps);
    x = op_add(tape, attention_forward(tape, model, l, lora, h, pass), x);
    h = op_rmsnorm(tape, x, 0, D, layer->post_attention_layernorm, eps);
    Tensor *m = layer->dense ? mlp_forward(tape, layer, lora, LORA_MLP_IN, h)
                             : moe_forward(tape, model, l, lora, h, pass);
    x = op_add(tape, m, x);
    tape_expect_finite(tape, x, "hidden state");
    return x;
}

Tensor *model_embed(Tape *tape, const Model *model, const int32_t *ids)
{
    Tensor *x = op_embed(tape, &model->embed_tokens, ids);
    tape_expect_finite(tape, x, "embedding");
    return x;
}

static Tensor *last_norm(Tape *tape, const Model *model, Tensor *x)
{
    return op_rmsnorm(tape, x, 0, x->shape[1], model->norm, model->config.rms_norm_eps);
}

Tensor *model_loss(Tape *tape, const Model *model, Tensor *x, const int32_t *targets)
{
    Tensor *nll = op_loss(tape, last_norm(tape, model, x), &model->lm_head, targets);
    tape_expect_finite(tape, nll, "head");
    return nll;
}

Tensor *model_logits(Tape *tape, const Model *model, Tensor *x)
{
    Tensor *logits = op_linear(tape, last_norm(tape, model, x), 1, (const Weight *[]){&model->lm_head}, 0, NULL);
    tape_expect_finite(tape, logits, "head");
    return logits;
}
