/* The tensors that a checkpoint of a config must hold, by their published names, layer by layer: what weights are
 * checked against, what an outline is made of and what `graft inspect` counts.
 * Source: the published index files of the families' repositories; docs/glm5.md names the matrices. */
#include "model/config.h"

#include <stdarg.h>
#include <stdio.h>

typedef struct {
    const ModelConfig *c;
    TensorVisit visit;
    void *context;
    char prefix[64]; /* "model.layers.3." */
    bool mtp;
    Err *err; /* the first; nothing is visited after it */
} Listing;

static void PRINTF(3, 4) visit_tensor(Listing *w, TensorSpec spec, const char *format, ...)
{
    char name[192];
    if (w->err) return;
    int n = snprintf(name, sizeof name, "%s", w->prefix);
    va_list args;
    va_start(args, format);
    vsnprintf(name + n, sizeof name - (size_t)n, format, args);
    va_end(args);
    spec.mtp = w->mtp;
    if (w->mtp) spec.part = "MTP";
    w->err = w->visit(w->context, name, &spec);
}

static TensorSpec vector(const char *part, int64_t n)
{
    return (TensorSpec){.part = part, .rows = 1, .cols = (size_t)n, .vector = true};
}

static TensorSpec matrix(const char *part, int64_t rows, int64_t cols)
{
    return (TensorSpec){.part = part, .rows = (size_t)rows, .cols = (size_t)cols};
}

static TensorSpec projection(const char *part, int64_t rows, int64_t cols) /* a matrix that FP8 files quantise */
{
    return (TensorSpec){.part = part, .rows = (size_t)rows, .cols = (size_t)cols, .may_fp8 = true};
}

static void attention_tensors(Listing *w)
{
    const ModelConfig *c = w->c;
    const char *part = "attention";
    int64_t D = c->hidden_size, H = c->num_attention_heads;
    if (c->q_lora_rank) {
        visit_tensor(w, projection(part, c->q_lora_rank, D), "self_attn.q_a_proj.weight");
        visit_tensor(w, vector(part, c->q_lora_rank), "self_attn.q_a_layernorm.weight");
        visit_tensor(w, projection(part, H * c->qk_head_dim, c->q_lora_rank), "self_attn.q_b_proj.weight");
    } else {
        visit_tensor(w, projection(part, H * c->qk_head_dim, D), "self_attn.q_proj.weight");
    }
    visit_tensor(w, projection(part, c->kv_lora_rank + c->qk_rope_head_dim, D), "self_attn.kv_a_proj_with_mqa.weight");
    visit_tensor(w, vector(part, c->kv_lora_rank), "self_attn.kv_a_layernorm.weight");
    visit_tensor(w, projection(part, H * (c->qk_nope_head_dim + c->v_head_dim), c->kv_lora_rank),
                 "self_attn.kv_b_proj.weight");
    visit_tensor(w, projection(part, D, H * c->v_head_dim), "self_attn.o_proj.weight");
}

static void indexer_tensors(Listing *w)
{
    const ModelConfig *c = w->c;
    const char *part = "indexer";
    visit_tensor(w, projection(part, c->index_n_heads * c->index_head_dim, c->q_lora_rank),
                 "self_attn.indexer.wq_b.weight");
    visit_tensor(w, projection(part, c->index_head_dim, c->hidden_size), "self_attn.indexer.wk.weight");
    visit_tensor(w, vector(part, c->index_head_dim), "self_attn.indexer.k_norm.weight");
    visit_tensor(w, vector(part, c->index_head_dim), "self_attn.indexer.k_norm.bias");
    visit_tensor(w, matrix(part, c->index_n_heads, c->hidden_size), "self_attn.indexer.weights_proj.weight");
}

static void mlp_tensors(Listing *w, const char *part, const char *where, int64_t width)
{
    int64_t D = w->c->hidden_size;
    visit_tensor(w, projection(part, width, D), "%sgate_proj.weight", where);
    visit_tensor(w, projection(part, width, D), "%sup_proj.weight", where);
    visit_tensor(w, projection(part, D, width), "%sdown_proj.weight", where);
}

static void moe_tensors(Listing *w)
{
    const ModelConfig *c = w->c;
    TensorSpec bias = vector("router", c->n_routed_experts);
    bias.must_f32 = true;
    visit_tensor(w, matrix("router", c->n_routed_experts, c->hidden_size), "mlp.gate.weight");
    visit_tensor(w, bias, "mlp.gate.e_score_correction_bias");
    for (int64_t e = 0; e < c->n_routed_experts && !w->err; e++) {
        char where[48];
        snprintf(where, sizeof where, "mlp.experts.%lld.", (long long)e);
        mlp_tensors(w, "experts", where, c->moe_intermediate_size);
    }
    mlp_tensors(w, "shared experts", "mlp.shared_experts.", c->n_shared_experts * c->moe_intermediate_size);
}

static void layer_tensors(Listing *w, bool indexer, bool dense)
{
    const ModelConfig *c = w->c;
    visit_tensor(w, vector("norms", c->hidden_size), "input_layernorm.weight");
    attention_tensors(w);
    if (indexer) indexer_tensors(w);
    visit_tensor(w, vector("norms", c->hidden_size), "post_attention_layernorm.weight");
    if (dense)
        mlp_tensors(w, "dense MLP", "mlp.", c->intermediate_size);
    else
        moe_tensors(w);
}

/* An MTP layer is a whole sparse layer, with the tensors that join it to the last layer. */
static void mtp_tensors(Listing *w)
{
    const ModelConfig *c = w->c;
    const FamilyRules *r = family_rules(c->family);
    int64_t D = c->hidden_size;
    if (r->mtp_embedding) visit_tensor(w, matrix("MTP", c->vocab_size, D), "embed_tokens.weight");
    visit_tensor(w, vector("MTP", D), "enorm.weight");
    visit_tensor(w, vector("MTP", D), "hnorm.weight");
    visit_tensor(w, matrix("MTP", D, 2 * D), "eh_proj.weight");
    layer_tensors(w, r->indexer, false);
    visit_tensor(w, vector("MTP", D), "shared_head.norm.weight");
    if (r->mtp_embedding) visit_tensor(w, matrix("MTP", c->vocab_size, D), "shared_head.head.weight");
}

Err *model_config_tensors(const ModelConfig *c, bool with_mtp, TensorVisit visit, void *context)
{
    Listing w = {.c = c, .visit = visit, .context = context};
    int64_t n_layers = c->num_hidden_layers, n_mtp = with_mtp ? c->num_nextn_predict_layers : 0;
    visit_tensor(&w, matrix("embedding", c->vocab_size, c->hidden_size), "model.embed_tokens.weight");
    for (int64_t l = 0; l < n_layers + n_mtp && !w.err; l++) {
        snprintf(w.prefix, sizeof w.prefix, "model.layers.%lld.", (long long)l);
        w.mtp = l >= n_layers;
        if (w.mtp)
            mtp_tensors(&w);
        else
            layer_tensors(&w, c->indexer[l], c->dense[l]);
    }
    w.prefix[0] = 0;
    w.mtp = false;
    visit_tensor(&w, vector("norms", c->hidden_size), "model.norm.weight");
    visit_tensor(&w, matrix("head", c->vocab_size, c->hidden_size), "lm_head.weight");
    return w.err;
}
