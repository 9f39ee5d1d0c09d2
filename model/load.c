/* From a directory to a Model: every tensor by its published name. */
#include "model/model.h"

#include "base/file.h"
#include "base/memory.h"
#include "model/rope.h"
#include "model/stream.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 192, FIRST_POSITIONS = 512 };

/* Reads one layer's tensors and keeps the first error, so that loading reads as a list. */
typedef struct {
    const Weights *weights;
    size_t l;
    Err *err;
} Reader;

static const char *full_name(const Reader *r, char name[NAME_BYTES], const char *leaf)
{
    snprintf(name, NAME_BYTES, "model.layers.%zu.%s.weight", r->l, leaf);
    return name;
}

static void read_weight(Reader *r, Weight *to, const char *leaf)
{
    char name[NAME_BYTES];
    if (!r->err) r->err = weights_get(r->weights, full_name(r, name, leaf), to);
}

/* What chooses: scores of experts and of keys stay in fp32 on every path, so that a path rarely changes a choice. */
static void read_exact(Reader *r, Weight *to, const char *leaf)
{
    read_weight(r, to, leaf);
    to->exact = true;
}

static void read_vector(Reader *r, float **to, size_t n, const char *leaf)
{
    char name[NAME_BYTES];
    if (!r->err) r->err = weights_get_floats(r->weights, full_name(r, name, leaf), n, to);
}

static void read_attention(Reader *r, const ModelConfig *c, Layer *layer)
{
    size_t D = (size_t)c->hidden_size;
    read_vector(r, &layer->input_layernorm, D, "input_layernorm");
    read_vector(r, &layer->post_attention_layernorm, D, "post_attention_layernorm");
    if (c->q_lora_rank) {
        (layer->indexer ? read_exact : read_weight)(r, &layer->q_down,
                                                    "self_attn.q_a_proj"); /* the indexer asks from there */
        read_vector(r, &layer->q_norm, (size_t)c->q_lora_rank, "self_attn.q_a_layernorm");
        read_weight(r, &layer->q_up, "self_attn.q_b_proj");
    } else {
        read_weight(r, &layer->q_proj, "self_attn.q_proj");
    }
    read_weight(r, &layer->kv_down, "self_attn.kv_a_proj_with_mqa");
    read_vector(r, &layer->kv_norm, (size_t)c->kv_lora_rank, "self_attn.kv_a_layernorm");
    read_weight(r, &layer->kv_up, "self_attn.kv_b_proj");
    read_weight(r, &layer->o_proj, "self_attn.o_proj");
}

static void read_indexer(Reader *r, const ModelConfig *c, Layer *layer)
{
    char name[NAME_BYTES];
    size_t dim = (size_t)c->index_head_dim;
    read_exact(r, &layer->index_q, "self_attn.indexer.wq_b");
    read_exact(r, &layer->index_k, "self_attn.indexer.wk");
    read_exact(r, &layer->index_heads, "self_attn.indexer.weights_proj");
    read_vector(r, &layer->index_norm, dim, "self_attn.indexer.k_norm");
    snprintf(name, sizeof name, "model.layers.%zu.self_attn.indexer.k_norm.bias", r->l);
    if (!r->err) r->err = weights_get_floats(r->weights, name, dim, &layer->index_norm_bias);
}

static void read_mlp(Reader *r, Layer *layer, const char *stem)
{
    char leaf[64];
    Weight *to[] = {&layer->gate, &layer->up, &layer->down};
    const char *const kinds[] = {"gate_proj", "up_proj", "down_proj"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(leaf, sizeof leaf, "%s%s", stem, kinds[i]);
        read_weight(r, to[i], leaf);
    }
}

static void read_experts(Reader *r, const ModelConfig *c, Layer *layer)
{
    size_t E = (size_t)c->n_routed_experts;
    char name[NAME_BYTES], leaf[64];
    read_exact(r, &layer->router, "mlp.gate");
    snprintf(name, sizeof name, "model.layers.%zu.mlp.gate.e_score_correction_bias", r->l);
    if (!r->err) r->err = weights_get_floats(r->weights, name, E, &layer->router_bias);
    if (!r->err) r->err = mem_new(&layer->expert_weights, 3 * E, sizeof *layer->expert_weights);
    if (!r->err) r->err = mem_new(&layer->experts, E, sizeof *layer->experts);
    const char *const kinds[] = {"gate_proj", "up_proj", "down_proj"};
    for (size_t e = 0; e < E && !r->err; e++) {
        Weight *w = layer->expert_weights + 3 * e;
        for (size_t i = 0; i < 3; i++) {
            snprintf(leaf, sizeof leaf, "mlp.experts.%zu.%s", e, kinds[i]);
            read_weight(r, w + i, leaf);
        }
        layer->experts[e] = (Expert){.gate = w, .up = w + 1, .down = w + 2};
    }
    read_mlp(r, layer, "mlp.shared_experts.");
}

static Err *read_layer(Model *model, size_t l)
{
    const ModelConfig *c = &model->config;
    Layer *layer = &model->layers[l];
    Reader reader = {.weights = model->weights, .l = l};
    layer->dense = c->dense[l];
    layer->indexer = c->indexer[l];
    read_attention(&reader, c, layer);
    if (layer->indexer) read_indexer(&reader, c, layer);
    if (layer->dense)
        read_mlp(&reader, layer, "mlp.");
    else
        read_experts(&reader, c, layer);
    return reader.err;
}

/* Documents of so many tokens attend to their chosen latents, shorter ones to all keys, expanded: whichever has fewer
 * multiply-adds, forward and backward. A query and head has 7 R + 4 rope for each chosen latent, 4 (nope + rope) + 3 v
 * for each key of half a document (docs/design.md, section 3, has the times). */
static size_t latent_from(const ModelConfig *c)
{
    double latent = 7 * (double)c->kv_lora_rank + 4 * (double)c->qk_rope_head_dim;
    double key = 4 * (double)(c->qk_nope_head_dim + c->qk_rope_head_dim) + 3 * (double)c->v_head_dim;
    return c->index_topk ? (size_t)((double)c->index_topk * fmax(2 * latent / key, 1)) + 1 : 0;
}

static void set_shapes(Model *model)
{
    const ModelConfig *c = &model->config;
    double width = (double)(c->qk_nope_head_dim + c->qk_rope_head_dim);
    model->attention = (AttentionShape){(size_t)c->num_attention_heads,
                                        (size_t)c->qk_nope_head_dim,
                                        (size_t)c->qk_rope_head_dim,
                                        (size_t)c->v_head_dim,
                                        (float)(rope_softmax_factor(&c->rope) / sqrt(width)),
                                        latent_from(c)};
    if (c->index_topk)
        model->index = (IndexShape){(size_t)c->index_n_heads, (size_t)c->index_head_dim, (size_t)c->index_topk,
                                    (float)(1 / sqrt((double)c->index_head_dim)),
                                    (float)(1 / sqrt((double)c->index_n_heads))};
    model->router = (RouterShape){(size_t)c->n_routed_experts, (size_t)c->num_experts_per_tok,
                                  (size_t)c->n_group,          (size_t)c->topk_group,
                                  c->norm_topk_prob,           (float)c->routed_scaling_factor};
}

/* Everything once config and weights are open. */
static Err *read_all(Model *model)
{
    TRY(weights_get(model->weights, "model.embed_tokens.weight", &model->embed_tokens));
    TRY(weights_get(model->weights, "lm_head.weight", &model->lm_head));
    TRY(weights_get_floats(model->weights, "model.norm.weight", (size_t)model->config.hidden_size, &model->norm));
    model->n_layers = (size_t)model->config.num_hidden_layers;
    TRY(mem_new(&model->layers, model->n_layers, sizeof *model->layers));
    set_shapes(model);
    for (size_t l = 0; l < model->n_layers; l++) TRY(read_layer(model, l));
    return model_reserve_positions(model, 1);
}

/* "zai-org/GLM-5": two words with one slash between them. */
static bool looks_like_hub_name(const char *path)
{
    const char *slash = strchr(path, '/');
    return slash && slash > path && slash[1] && !strchr(slash + 1, '/') && *path != '.' && *path != '~';
}

Err *model_expect_directory(const char *path)
{
    if (file_is_directory(path)) return NULL;
    if (file_exists(path)) return err_new(ERR_IO, "%s is a file; expected the directory of a model", path);
    if (!looks_like_hub_name(path)) return err_new(ERR_IO, "%s: there is no such directory", path);
    return err_new(
        ERR_IO,
        "%s: there is no such directory; graft downloads nothing: if this is a name on the Hugging Face hub, "
        "fetch it first (hf download %s --local-dir DIR) and give DIR",
        path, path);
}

static Err *open_into(Model *model, const char *directory)
{
    char path[PATH_BYTES];
    TRY(model_expect_directory(directory));
    TRY(file_join(path, directory, "config.json"));
    TRY(model_config_read(&model->config, path));
    TRY(weights_open(&model->weights, &model->config, directory));
    return read_all(model);
}

static Err *outline_into(Model *model, const char *config_path, DType matrices)
{
    TRY(model_config_read(&model->config, config_path));
    TRY(weights_outline(&model->weights, &model->config, matrices));
    return read_all(model);
}

/* err NULL: the model is whole. */
static Err *finish(Model **model, Err *err, const char *what, const char *path)
{
    if (!err) return NULL;
    model_close(*model);
    *model = NULL;
    return err_wrap(err, "%s %s", what, path);
}

Err *model_open(Model **model, const char *directory)
{
    TRY(mem_new(model, 1, sizeof **model));
    return finish(model, open_into(*model, directory), "open model", directory);
}

Err *model_outline(Model **model, const char *config_path, DType matrices)
{
    TRY(mem_new(model, 1, sizeof **model));
    return finish(model, outline_into(*model, config_path, matrices), "outline model", config_path);
}

void model_close(Model *model)
{
    if (!model) return;
    stream_close(model->stream);
    for (size_t l = 0; l < model->n_layers && model->layers; l++) {
        Layer *layer = &model->layers[l];
        void *owned[] = {layer->input_layernorm, layer->post_attention_layernorm,
                         layer->q_norm,          layer->kv_norm,
                         layer->index_norm,      layer->index_norm_bias,
                         layer->router_bias,     layer->expert_weights,
                         layer->experts};
        for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    }
    free(model->layers);
    free(model->norm);
    free(model->rope_values);
    weights_close(model->weights);
    model_config_free(&model->config);
    free(model);
}

Err *model_reserve_positions(Model *model, size_t n)
{
    size_t max_positions = (size_t)model->config.max_position_embeddings,
           half = (size_t)model->config.qk_rope_head_dim / 2;
    if (n > max_positions)
        return err_new(ERR_DATA, "%zu tokens in a row; %s says max_position_embeddings is %zu", n, model->config.path,
                       max_positions);
    if (n <= model->rope.n) return NULL;
    size_t capacity = n < FIRST_POSITIONS ? FIRST_POSITIONS : n;
    float *values;
    TRY(mem_new(&values, 2 * capacity * half, sizeof *values));
    rope_fill(&model->config, capacity, values, values + capacity * half);
    free(model->rope_values);
    model->rope_values = values;
    model->rope = (RopeTable){capacity, 2 * half, values, values + capacity * half};
    return NULL;
}

/* Without a memory limit every layer lies in the mapping. */
void layers_announce(Model *model, size_t lowest, size_t group_passes)
{
    if (model->stream) stream_announce(model->stream, lowest, group_passes);
}

Err *layer_acquire(Model *model, size_t l)
{
    ASSERT(l < model->n_layers, "layer %zu of %zu", l, model->n_layers);
    return model->stream ? stream_acquire(model->stream, l) : NULL;
}

void layer_release(Model *model, size_t l)
{
    if (model->stream) stream_release(model->stream, l);
}
