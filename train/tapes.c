#include "train/tapes.h"

#include "base/sizes.h"
#include "tensor/matmul.h"

enum { ATTENTION_ROOM = 1 << 18 }; /* floats of a thread's tiles, rounded up (autograd/op_attention.c) */

/* Floats. results and gradients are of one layer's tape, scratch what its largest operation needs while it runs. */
typedef struct {
    size_t results, gradients, scratch;
} Sizes;

/* Widths of a layer's rows. */
typedef struct {
    size_t D, q, kv, o, latent, low_q, low_kv, heads, rope; /* low_kv with the rotary part, latent without */
    size_t F;           /* of the dense or shared MLP */
    size_t E, K, expert;
    size_t index;       /* queries, key and head weights of an indexer */
} Widths;

static Widths widths_of(const Model *model, size_t l)
{
    const ModelConfig *c = &model->config;
    const Layer *layer = &model->layers[l];
    size_t H = (size_t)c->num_attention_heads, latent = (size_t)c->kv_lora_rank, rope = (size_t)c->qk_rope_head_dim;
    return (Widths){.D = (size_t)c->hidden_size, .q = H * (size_t)c->qk_head_dim, .kv = H * (size_t)(c->qk_nope_head_dim + c->v_head_dim), .o = H * (size_t)c->v_head_dim,
                    .latent = latent, .low_q = (size_t)c->q_lora_rank, .low_kv = latent + rope, .heads = H, .rope = rope, .F = layer->gate.rows,
                    .E = layer->dense ? 0 : model->router.E, .K = model->router.K, .expert = layer->dense ? 0 : layer->expert_weights[0].rows,
                    .index = layer->indexer ? model->index.n_heads * (model->index.dim + 1) + model->index.dim : 0};
}

/* Tensors of a row that have gradients on the way back. */
static size_t tensors(const Widths *w)
{
    size_t attention = 2 * w->D + 2 * w->low_q + w->q + w->low_kv + w->latent + w->kv + w->o;
    return attention + 3 * w->F + 2 * w->D + (w->E ? w->E + w->K + w->D : 0);
}

/* What operations keep of a row besides: norms, log-sums, pairs' u, the router's scores, the experts' plan. */
static size_t kept(const Widths *w, size_t r)
{
    return 4 + w->heads + 7 * r + (w->E ? 3 * w->K + 1 : 0);
}

size_t tapes_row(const Model *model, size_t l)
{
    Widths w = widths_of(model, l);
    return tensors(&w) + kept(&w, 0);
}

static size_t most_rank(const Adapter *adapter, size_t l)
{
    size_t most = 0;
    for (size_t i = 0; adapter && i < adapter->layers[l].n_params; i += 2) most = larger(most, adapter->layers[l].params[i].rows);
    return most;
}

/* Experts work on their rows in two passes: packed rows of the run at work, and each thread's bench for the busiest of them. */
static size_t experts_scratch(const Widths *w, const TapeWork *work, size_t T, size_t r, bool back)
{
    size_t pairs = T * w->K, most = least(T, 3 * pairs / w->E + 64), pack = rows_scratch(most, larger(w->D, w->expert), r);
    size_t rows = least(pairs, (size_t)(1.2 * work->experts * (double)pairs)), experts = (size_t)(work->experts * (double)w->E) + 1, each = pairs / w->E + 1;
    size_t packed = rows_scratch(each, w->expert, r) / each * rows + experts * rows_scratch(1, w->expert, r);
    size_t bench = back ? most * (2 * w->D + 6 * w->expert + 2 * r) : most * (3 * w->expert + r);
    return (back ? 2 : 1) * packed + work->threads * (bench + pack);
}

static size_t scratch_up(const Widths *w, const TapeWork *work, size_t T, size_t r)
{
    size_t most = rows_scratch(T, larger(larger(w->D, w->o), larger(w->F, w->low_q)), r);
    most = larger(most, work->threads * ATTENTION_ROOM);
    if (w->index) most = larger(most, work->threads * 65 * work->longest);
    return w->E ? larger(most, experts_scratch(w, work, T, r, false)) : most;
}

static size_t scratch_back(const Widths *w, const TapeWork *work, size_t T, size_t r)
{
    size_t most = rows_scratch(T, larger(larger(w->q, w->kv), larger(w->F, w->D)), r) + T * 2 * r;
    most = larger(most, w->heads * T * (w->rope + 1) + work->threads * ATTENTION_ROOM);
    most = larger(most, T * larger(2 * w->F, w->D));
    return w->E ? larger(most, experts_scratch(w, work, T, r, true)) : most;
}

/* One layer over T rows. keep: its tape is one of those kept, with the experts' gate and up. */
static Sizes layer_sizes(const Model *model, const Adapter *adapter, size_t l, size_t T, const TapeWork *work, bool keep)
{
    Widths w = widths_of(model, l);
    size_t r = most_rank(adapter, l), row = tensors(&w) + kept(&w, r);
    Sizes up = {T * (row + w.index), 0, scratch_up(&w, work, T, r)}, down = {T * row, T * (tensors(&w) + w.D), scratch_back(&w, work, T, r)};
    if (keep) up.results += T * w.K * (w.E ? 2 * w.expert + r : 0);
    if (!adapter) return up;
    return (Sizes){larger(up.results, down.results), down.gradients, larger(up.scratch, down.scratch)};
}

/* Scored rows, their norm, loss and gradients; logits a few rows at a time (autograd/op_loss.c). */
static Sizes head_sizes(const Model *model, const Adapter *adapter, size_t T)
{
    enum { LOGITS_AT_ONCE = 1 << 22, LEAST_ROWS = 128 };
    size_t D = (size_t)model->config.hidden_size, V = model->lm_head.rows, step = least(larger(LOGITS_AT_ONCE / V, LEAST_ROWS), T);
    return (Sizes){T * (2 * D + 5 + (adapter ? D : 0)), adapter ? T * (2 * D + 1) : 0, step * V + rows_scratch(step, larger(V, D), 0)};
}

/* Arenas are touched by huge pages, and blocks leave some chunks open. */
static size_t arena_bytes(size_t floats)
{
    enum { HUGE_PAGE = 2 << 20 };
    return 4 * floats + floats / 4 + HUGE_PAGE;
}

size_t tapes_bytes(const Model *model, const Adapter *adapter, const TapeWork *work)
{
    size_t L = model->n_layers, kept_floats = 0;
    Sizes most = head_sizes(model, adapter, work->T);
    for (size_t l = 0; l < L; l++) {
        bool keep = adapter && l + work->kept_layers >= L;
        Sizes s = layer_sizes(model, adapter, l, keep ? work->kept_rows : work->T, work, keep);
        if (keep) kept_floats += s.results;
        else most.results = larger(most.results, s.results);
        most.gradients = larger(most.gradients, s.gradients);
        most.scratch = larger(most.scratch, s.scratch);
    }
    return arena_bytes(most.results) + arena_bytes(most.scratch) + (adapter ? arena_bytes(most.gradients) : 0) + (kept_floats ? arena_bytes(kept_floats) : 0);
}
