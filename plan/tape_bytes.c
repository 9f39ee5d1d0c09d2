/* A tape whose pools only count (Tape.count_only) goes through one layer of each kind, as train/step.c does, and
 * through the head. Layers that ask for the same blocks (is_alike) are counted once. The bytes are
 *
 *     max over layers of workspace (activations, gradients, scratch)
 *     + max over layers of nodes
 *     + sum over kept layers of groups * (results + nodes)
 *
 * with every pool rounded up to huge pages, which is how memory is touched. What always holds:
 *   1. No float is read or written, so data pointers of leaves are NULL.
 *   2. Micro-batches are counted at half the tokens that were asked for. Two neighbours together are longer than that
 *      number, so a group never has more of them. */
#include "plan/tape_bytes.h"

#include "base/memory.h"
#include "base/minmax.h"
#include "base/pages.h"
#include "model/forward.h"

#include <stdlib.h>

/* A tape that counts, over documents of one length. */
typedef struct {
    const Model *model;
    Adapter *adapter; /* NULL: forward only */
    const TapeWork *work;
    Tape tape;
    Pool workspace;
    Group group;
    size_t *starts;     /* of documents, then of micro-batches */
    Keys *keys;         /* [n_layers] */
    uint64_t **bitmaps; /* [n_docs] of keys that a layer chooses; no bit is behind these pointers */
    int32_t **experts;  /* [n_layers] the same */
    Choices choices;
} TapeCounter;

/* Documents attend in one of two ways, over expanded keys and values or, long ones, over latents. How many of each a
 * group has is not known before: one of the longest among others that attend to all keys, or only such others. */
typedef enum { MIX_ONE_LONGEST, MIX_ALL_SHORT } DocumentMix;

static void counter_close(TapeCounter *c)
{
    tape_free(&c->tape);
    pool_free(&c->workspace);
    free(c->starts);
    free(c->keys);
    free(c->bitmaps);
    free(c->experts);
}

/* Rows [from, n) cut every `each`; returns the number of pieces. */
static size_t cut_rows(size_t from, size_t n, size_t each, size_t *start)
{
    size_t pieces = 0;
    for (size_t at = from; at < n; at += each) start[pieces++] = at;
    start[pieces] = n;
    return pieces;
}

static Err *counter_open(TapeCounter *c, const Model *model, Adapter *adapter, const TapeWork *work, DocumentMix mix)
{
    static uint64_t bitmap; /* operations ask only whether there is one */
    size_t T = work->T, longest = size_max(size_min(work->longest, T), 1), latent_from = model->attention.latent_from;
    size_t others = latent_from > 1 ? size_min(longest, latent_from - 1) : longest,
           first = mix == MIX_ONE_LONGEST ? longest : others;
    size_t micro = size_max(work->micro_batch_tokens / 2, 1),
           n_docs = T / others + 3; /* two neighbouring micro-batches are more than a whole one */
    *c = (TapeCounter){.model = model, .adapter = adapter, .work = work, .workspace.counts = true, .group.T = T};
    TRY(mem_new(&c->starts, n_docs + 1 + T / micro + 2, sizeof *c->starts)); /* micro is 1 where none is given */
    TRY(mem_new(&c->keys, model->n_layers, sizeof *c->keys));
    TRY(mem_new(&c->experts, model->n_layers, sizeof *c->experts));
    TRY(mem_new(&c->bitmaps, n_docs, sizeof *c->bitmaps));
    c->group.doc_start = c->starts;
    c->group.n_docs = 1 + cut_rows(first, T, others, c->starts + 1);
    c->group.micro_batch_start = c->starts + c->group.n_docs + 1;
    c->group.n_micro_batches = cut_rows(0, T, micro, c->starts + c->group.n_docs + 1);
    for (size_t d = 0; d < c->group.n_docs; d++)
        if (c->starts[d + 1] - c->starts[d] > model->index.top_k) c->bitmaps[d] = &bitmap;
    for (size_t l = 0; l < model->n_layers; l++)
        if (model->layers[l].indexer && longest > model->index.top_k)
            c->keys[l] = (Keys){c->group.n_docs, c->bitmaps, model->index.top_k};
    c->choices = (Choices){.n_layers = model->n_layers, .experts = c->experts, .keys = c->keys};
    c->tape = (Tape){.own_pool.counts = true, .count_only = true, .workspace = &c->workspace, .threads = work->threads};
    return NULL;
}

static void counter_begin(TapeCounter *c, TapeMode mode, bool resident)
{
    c->tape.resident = resident;
    c->tape.dropout = 0.5f; /* LoRA modules with a dropout of their own ask for a mask */
    c->tape.own_pool.high_bytes = c->workspace.high_bytes = c->tape.node_pool.high_bytes = 0;
    tape_begin(&c->tape, &c->group, mode);
}

static Tensor *forward_layer(TapeCounter *c, size_t l, bool requires_grad, bool recompute)
{
    LayerPass pass = {.choices = &c->choices, .made = recompute};
    return layer_forward(&c->tape, c->model, l, c->adapter,
                         tape_leaf(&c->tape, c->group.T, (size_t)c->model->config.hidden_size, NULL, requires_grad),
                         &pass);
}

static Err *backward_from(TapeCounter *c, Tensor *out)
{
    tape_seed(&c->tape, out);
    return tape_backward(&c->tape);
}

/* Bytes of the workspace, of the nodes of a tape at work, and of a tape that is kept, which holds its own results. */
typedef struct {
    size_t workspace, nodes, kept;
} TapeUse;

static void note_use(const TapeCounter *c, bool keep, TapeUse *use)
{
    use->workspace = size_max(use->workspace, c->workspace.high_bytes);
    if (keep)
        use->kept = size_max(use->kept, c->tape.own_pool.high_bytes + c->tape.node_pool.high_bytes);
    else
        use->nodes = size_max(use->nodes, c->tape.node_pool.high_bytes);
}

/* One layer: the forward pass and, if `backward`, the backward pass, after a second forward pass unless its tape is
 * kept. */
static Err *count_layer(TapeCounter *c, size_t l, bool backward, bool keep, TapeUse *use)
{
    counter_begin(c, keep ? TAPE_RECORD : TAPE_OFF, keep);
    Tensor *out = forward_layer(c, l, true, false);
    TRY(tape_error(&c->tape));
    *use = (TapeUse){0};
    note_use(c, keep, use);
    if (!backward) return NULL;
    if (!keep) {
        counter_begin(c, TAPE_RECORD, false);
        c->tape.recomputing = true;
        out = forward_layer(c, l, true, true);
        c->tape.recomputing = false;
    }
    TRY(backward_from(c, out));
    note_use(c, keep, use);
    return NULL;
}

/* The same while the layer's parameters train: they do when they have a forest. */
static Err *count_trained(TapeCounter *c, size_t l, bool backward, bool keep, TapeUse *use)
{
    static Forest forest; /* nothing is added to it */
    if (!backward) return count_layer(c, l, false, keep, use);
    adapter_set_forest(c->adapter, l, &forest);
    Err *err = count_layer(c, l, true, keep, use);
    adapter_set_forest(c->adapter, l, NULL);
    return err;
}

/* The head over rows that are all in the loss (train/step.c, head_group). */
static Err *count_head(TapeCounter *c, bool backward, TapeUse *use)
{
    size_t T = c->group.T;
    counter_begin(c, backward ? TAPE_RECORD : TAPE_OFF, false);
    tape_alloc(&c->tape, T * sizeof(int32_t));
    tape_alloc(&c->tape, T * sizeof(size_t));
    Tensor *loss = model_loss(&c->tape, c->model, head_rows(&c->tape, c->model, T, NULL, NULL, backward), NULL);
    TRY(tape_error(&c->tape));
    if (backward) TRY(backward_from(c, loss));
    note_use(c, false, use);
    return NULL;
}

static size_t r_at(const LayerAdapter *lora, LoraPlace place)
{
    return lora->places[place] ? lora->places[place]->A->rows : 0;
}

/* Do two layers ask for the same blocks? */
static bool is_alike(const Model *model, const Adapter *adapter, size_t a, size_t b)
{
    const Layer *x = &model->layers[a], *y = &model->layers[b];
    if (x->dense != y->dense || x->indexer != y->indexer || x->gate.rows != y->gate.rows) return false;
    if (!adapter) return true;
    const LayerAdapter *of_a = &adapter->layers[a], *of_b = &adapter->layers[b];
    if (of_a->n != of_b->n || of_a->n_params != of_b->n_params || !of_a->experts != !of_b->experts) return false;
    for (size_t i = 0; i < LORA_PLACES; i++)
        if (r_at(of_a, (LoraPlace)i) != r_at(of_b, (LoraPlace)i)) return false;
    return true;
}

/* Pools are touched by huge pages. */
static size_t touched_bytes(size_t bytes) { return round_up(bytes, HUGE_PAGE); }

static Err *count_all(TapeCounter *c, TapeUse *use)
{
    size_t L = c->model->n_layers, lowest = c->adapter ? adapter_lowest_layer(c->adapter) : L,
           keep_from = L - size_min(c->work->kept_layers, L - lowest);
    size_t groups = (c->work->rows + c->work->T - 1) / c->work->T;
    TapeUse layer = {0};
    for (size_t l = 0; l < L; l++) {
        bool same = l > 0 && l != lowest && l != keep_from && is_alike(c->model, c->adapter, l, l - 1);
        if (!same) TRY(count_trained(c, l, l >= lowest, l >= keep_from, &layer));
        use->workspace = size_max(use->workspace, layer.workspace);
        use->nodes = size_max(use->nodes, layer.nodes);
        use->kept += groups * touched_bytes(layer.kept);
    }
    return count_head(c, c->adapter != NULL, use);
}

static Err *count_mix(size_t *bytes, const Model *model, Adapter *adapter, const TapeWork *work, DocumentMix mix)
{
    TapeCounter counter;
    TapeUse use = {0};
    Err *err = counter_open(&counter, model, adapter, work, mix);
    if (!err) err = count_all(&counter, &use);
    counter_close(&counter);
    *bytes = touched_bytes(use.workspace) + touched_bytes(use.nodes) + use.kept;
    return err;
}

Err *tapes_bytes(size_t *bytes, const Model *model, Adapter *adapter, const TapeWork *work)
{
    size_t latent_from = model->attention.latent_from, others = 0;
    TRY(count_mix(bytes, model, adapter, work, MIX_ONE_LONGEST));
    if (latent_from == 0 || work->longest < latent_from) return NULL;
    TRY(count_mix(&others, model, adapter, work, MIX_ALL_SHORT));
    *bytes = size_max(*bytes, others);
    return NULL;
}

static Err *count_row_floats(TapeCounter *c, size_t *floats)
{
    for (size_t l = 0; l < c->model->n_layers; l++) {
        floats[l] = l > 0 ? floats[l - 1] : 0;
        if (l > 0 && is_alike(c->model, NULL, l, l - 1)) continue;
        counter_begin(c, TAPE_OFF, false);
        forward_layer(c, l, false, false);
        TRY(tape_error(&c->tape));
        floats[l] = c->workspace.used_bytes / sizeof(float) / c->group.T;
    }
    return NULL;
}

Err *tapes_rows(size_t *floats, const Model *model, size_t n)
{
    TapeCounter counter;
    TapeWork work = {.T = n, .longest = n, .micro_batch_tokens = 2 * n, .threads = 1};
    Err *err = counter_open(&counter, model, NULL, &work, MIX_ONE_LONGEST);
    if (!err) err = count_row_floats(&counter, floats);
    counter_close(&counter);
    return err;
}
