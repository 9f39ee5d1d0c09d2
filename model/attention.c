/* Multi-head latent attention:
 *     cq = norm(h Wqa'),  q = cq Wqb' = [qn | qr] per head;   [c | kr] = h Wkva',  c = norm(c);   qr, kr rotated
 *     [kn | v] = c Wkvb' per head;   o = attention over the keys that the indexer chose;   out = o Wo'
 * The indexer (4.1 of its source) sees cq and h: q_I = cq Wq_I', k_I = layernorm(h Wk_I'), w = h Ww', the first `rope`
 * numbers of every index head rotated. A layer without one uses the choice of the layer below.
 * Source: DeepSeek-V2 report, section 2.1 (arXiv:2405.04434); DeepSeek-V3.2 report, section 2.1; transformers
 * 5.23.0. */
#include "model/attention.h"

#include <string.h>

static const double index_norm_eps = 1e-6; /* k_norm's own, whatever rms_norm_eps says */

Tensor *project(Tape *tape, Tensor *x, const Weight *W, const LayerAdapter *lora, LoraPlace place)
{
    return op_linear(tape, x, 1, &W, 1, (const Lora *[]){lora ? lora->places[place] : NULL});
}

static Tensor *frozen(Tape *tape, Tensor *x, const Weight *W) { return op_linear(tape, x, 1, &W, 0, NULL); }

/* Put the new rows of a tensor's columns behind what the cache holds of each document. */
static void remember(Tape *tape, float **cache, size_t width, const Tensor *x, size_t col)
{
    const Group *group = tape->group;
    if (tape->err) return;
    for (size_t d = 0; d < group->n_docs; d++)
        for (size_t t = group->doc_start[d]; t < group->doc_start[d + 1]; t++)
            memcpy(cache[d] + (group->doc_past[d] + t - group->doc_start[d]) * width, x->data + t * x->shape[1] + col,
                   width * sizeof(float));
}

static bool any_past(const Group *group)
{
    for (size_t d = 0; d < group->n_docs && group->doc_past; d++)
        if (group->doc_past[d]) return true;
    return false;
}

static void choose_keys(Tape *tape, const Model *model, const Layer *layer, Tensor *h, Tensor *cq,
                        const LayerPass *pass, Keys *keys)
{
    const ModelConfig *cfg = &model->config;
    size_t dim = model->index.dim;
    TapeMode mode = tape->mode;
    tape->mode = TAPE_OFF; /* the choice has no gradient */
    Tensor *k = frozen(tape, h, &layer->index_k);
    k = op_layernorm(tape, k, layer->index_norm, layer->index_norm_bias, index_norm_eps);
    k = op_rope(tape, k, &model->rope, 0, 1, dim, cfg->indexer_rope_interleave);
    tape_expect_finite(tape, k, "indexer, keys");
    if (pass->cache) remember(tape, pass->cache->index, dim, k, 0);
    if (keys->of) {
        Tensor *q = frozen(tape, cq, &layer->index_q);
        q = op_rope(tape, q, &model->rope, 0, model->index.n_heads, dim, cfg->indexer_rope_interleave);
        Tensor *w = frozen(tape, h, &layer->index_heads);
        tape_expect_finite(tape, q, "indexer, queries");
        tape_expect_finite(tape, w, "indexer, head weights");
        op_index(tape, &model->index, q, k, w, pass->cache ? (const float *const *)pass->cache->index : NULL, keys);
    }
    tape->mode = mode;
}

/* The choice in force: this layer's, or that of the nearest layer below with an indexer. */
static Keys *keys_in_force(const Model *model, const Choices *choices, size_t l)
{
    while (l > 0 && !model->layers[l].indexer) l--;
    return &choices->keys[l];
}

/* How many of a group's documents attend to latents, and whether others do not. */
static size_t count_latent(const Group *group, const AttentionShape *shape, const Keys *chosen)
{
    size_t n = 0;
    for (size_t d = 0; d < group->n_docs; d++) n += attends_latents(shape, group, chosen, d);
    return n;
}

/* Documents without a past: each the cheaper of two ways, over expanded keys and values or over latents. The LoRA on
 * kv_up serves both, and goes in halves always: a document's bits must not depend on whether the group has others. */
static Tensor *attend(Tape *tape, const AttentionShape *shape, LatentInputs in, const Keys *chosen)
{
    size_t n_latent = count_latent(tape->group, shape, chosen);
    Tensor *o = NULL;
    if (in.lora) {
        in.B = op_param(tape, in.lora->B);
        in.u = op_lora_A(tape, in.latent, in.lora);
    }
    if (n_latent < tape->group->n_docs) {
        Tensor *kv = in.lora ? op_lora_B(tape, in.latent, in.kv_up, in.u, in.lora, in.B)
                             : frozen(tape, in.latent, in.kv_up);
        o = op_attention(tape, shape, in.q, kv, in.kr, in.kr_col, chosen);
    }
    return n_latent ? op_attention_latent(tape, shape, &in, chosen, o) : o;
}

Tensor *attention_forward(Tape *tape, const Model *model, size_t l, const LayerAdapter *lora, Tensor *h,
                          const LayerPass *pass)
{
    const ModelConfig *cfg = &model->config;
    const Layer *layer = &model->layers[l];
    const AttentionShape *shape = &model->attention;
    size_t H = shape->n_heads, R = (size_t)cfg->kv_lora_rank, per_head = shape->nope + shape->rope;
    Tensor *q, *cq = NULL;
    if (cfg->q_lora_rank) {
        Tensor *down = project(tape, h, &layer->q_down, lora, LORA_Q_DOWN);
        cq = op_rmsnorm(tape, down, 0, (size_t)cfg->q_lora_rank, layer->q_norm, cfg->latent_norm_eps);
        q = project(tape, cq, &layer->q_up, lora, LORA_Q_UP);
    } else {
        q = project(tape, h, &layer->q_proj, lora, LORA_Q);
    }
    q = op_rope(tape, q, &model->rope, shape->nope, H, per_head, cfg->rope_interleave);
    Tensor *kv_down = project(tape, h, &layer->kv_down, lora, LORA_KV_DOWN);
    Tensor *latent = op_rmsnorm(tape, kv_down, 0, R, layer->kv_norm, cfg->latent_norm_eps);
    kv_down = op_rope(tape, kv_down, &model->rope, R, 1, shape->rope, cfg->rope_interleave);

    Keys *keys = keys_in_force(model, pass->choices, l);
    if (layer->indexer && !pass->made && (keys->of || pass->cache)) choose_keys(tape, model, layer, h, cq, pass, keys);
    const Keys *chosen = keys->of ? keys : NULL;
    const Lora *kv_lora = lora ? lora->places[LORA_KV_UP] : NULL;
    Tensor *o;
    if (pass->cache) {
        remember(tape, pass->cache->latent, R, latent, 0);
        remember(tape, pass->cache->rotary, shape->rope, kv_down, R);
    }
    if (pass->cache && any_past(tape->group)) {
        CachedInputs in = {.q = q,
                           .kv_up = &layer->kv_up,
                           .lora = kv_lora,
                           .latent = (const float *const *)pass->cache->latent,
                           .rotary = (const float *const *)pass->cache->rotary};
        o = op_attention_cached(tape, shape, &in, chosen);
    } else {
        o = attend(tape, shape,
                   (LatentInputs){
                       .q = q, .latent = latent, .kr = kv_down, .kr_col = R, .kv_up = &layer->kv_up, .lora = kv_lora},
                   chosen);
    }
    return project(tape, o, &layer->o_proj, lora, LORA_O);
}
