#include "plan/tape_bytes.h"

#include "base/memory.h"
#include "base/pages.h"
#include "base/minmax.h"
#include "model/forward.h"

#include <stdlib.h>

/* A tape that counts, over documents of one length. */
typedef struct {
    Tape tape;
    Pool workspace;
    Group group;
    size_t *starts;     /* of documents, then of micro-batches */
    Keys *keys;         /* [n_layers] */
    uint64_t **bitmaps; /* [n_docs] of keys that a layer chooses; nothing lies behind them */
    int32_t **experts;  /* [n_layers] the same */
    Choices choices;
} Count;

static void count_close(Count *c)
{
    tape_free(&c->tape);
    pool_free(&c->workspace);
    free(c->starts);
    free(c->keys);
    free(c->bitmaps);
    free(c->experts);
}

/* Documents attend in one of two ways, and how many of each a group has is not known before: LONG is one of the longest among
 * others that attend to all keys, SHORT only such. */
typedef enum { LONG, SHORT } Layout;

/* Rows [from, n) cut every `each`; returns how many pieces. */
static size_t cut(size_t from, size_t n, size_t each, size_t *start)
{
    size_t pieces = 0;
    for (size_t at = from; at < n; at += each) start[pieces++] = at;
    start[pieces] = n;
    return pieces;
}

static Err *count_open(Count *c, const Model *model, size_t T, const TapeWork *work, Layout layout)
{
    static uint64_t bitmap; /* that there is one is all that is asked */
    size_t longest = size_max(size_min(work->longest, T), 1), latent_from = model->attention.latent_from;
    size_t others = latent_from > 1 ? size_min(longest, latent_from - 1) : longest,
           first = layout == LONG ? longest : others;
    size_t micro = size_max(work->micro_batch_tokens / 2, 1),
           n_docs = T / others + 3; /* two micro-batches that meet are more than a whole one */
    *c = (Count){.workspace.counts = true, .group.T = T};
    TRY(mem_new(&c->starts, n_docs + 1 + T / micro + 2, sizeof *c->starts)); /* micro is 1 where none is said */
    TRY(mem_new(&c->keys, model->n_layers, sizeof *c->keys));
    TRY(mem_new(&c->experts, model->n_layers, sizeof *c->experts));
    TRY(mem_new(&c->bitmaps, n_docs, sizeof *c->bitmaps));
    c->group.doc_start = c->starts;
    c->group.n_docs = 1 + cut(first, T, others, c->starts + 1);
    c->group.micro_batch_start = c->starts + c->group.n_docs + 1;
    c->group.n_micro_batches = cut(0, T, micro, c->starts + c->group.n_docs + 1);
    for (size_t d = 0; d < c->group.n_docs; d++)
        if (c->starts[d + 1] - c->starts[d] > model->index.top_k) c->bitmaps[d] = &bitmap;
    for (size_t l = 0; l < model->n_layers; l++)
        if (model->layers[l].indexer && longest > model->index.top_k)
            c->keys[l] = (Keys){c->group.n_docs, c->bitmaps, model->index.top_k};
    c->choices = (Choices){.n_layers = model->n_layers, .experts = c->experts, .keys = c->keys};
    c->tape = (Tape){.own_pool.counts = true, .count_only = true, .workspace = &c->workspace, .threads = work->threads};
    return NULL;
}

static void begin(Count *c, TapeMode mode, bool resident)
{
    c->tape.resident = resident;
    c->tape.dropout = 0.5f; /* where a pair drops at all */
    c->tape.own_pool.high_bytes = c->workspace.high_bytes = c->tape.node_pool.high_bytes = 0;
    tape_begin(&c->tape, &c->group, mode);
}

static Tensor *forward_layer(Count *c, const Model *model, const Adapter *adapter, size_t l, bool requires_grad,
                             bool made)
{
    LayerPass pass = {.choices = &c->choices, .made = made};
    return layer_forward(&c->tape, model, l, adapter,
                         tape_leaf(&c->tape, c->group.T, (size_t)model->config.hidden_size, NULL, requires_grad),
                         &pass);
}

static Err *layer_back(Count *c, Tensor *out)
{
    tape_seed(&c->tape, out);
    return tape_backward(&c->tape);
}

/* Bytes: of the room, of the notes of who is at work, and of a tape that stays, which holds its own. */
typedef struct {
    size_t workspace, notes, own;
} Taken;

static void note(const Count *c, bool keep, Taken *taken)
{
    taken->workspace = size_max(taken->workspace, c->workspace.high_bytes);
    if (keep)
        taken->own = size_max(taken->own, c->tape.own_pool.high_bytes + c->tape.node_pool.high_bytes);
    else
        taken->notes = size_max(taken->notes, c->tape.node_pool.high_bytes);
}

/* One layer, up and, when it is passed again, down. */
static Err *count_layer(Count *c, const Model *model, const Adapter *adapter, size_t l, bool back, bool keep,
                        Taken *taken)
{
    begin(c, keep ? TAPE_RECORD : TAPE_OFF, keep);
    Tensor *out = forward_layer(c, model, adapter, l, true, false);
    TRY(tape_error(&c->tape));
    *taken = (Taken){0};
    note(c, keep, taken);
    if (!back) return NULL;
    if (!keep) {
        begin(c, TAPE_RECORD, false);
        c->tape.recomputing = true;
        out = forward_layer(c, model, adapter, l, true, true);
        c->tape.recomputing = false;
    }
    TRY(layer_back(c, out));
    note(c, keep, taken);
    return NULL;
}

/* The same while its parameters train: they do when they have a forest. */
static Err *count_trained(Count *c, const Model *model, const Adapter *adapter, size_t l, bool back, bool keep,
                          Taken *taken)
{
    static Forest forest; /* nothing is added to it */
    Adapter *trained = (Adapter *)(size_t)adapter;
    if (back) adapter_set_forest(trained, l, &forest);
    Err *err = count_layer(c, model, adapter, l, back, keep, taken);
    if (back) adapter_set_forest(trained, l, NULL);
    return err;
}

/* The head over rows that are all scored (train/step.c, head_group). */
static Err *count_head(Count *c, const Model *model, bool back, Taken *taken)
{
    size_t T = c->group.T;
    begin(c, back ? TAPE_RECORD : TAPE_OFF, false);
    tape_alloc(&c->tape, T * sizeof(int32_t));
    tape_alloc(&c->tape, T * sizeof(size_t));
    Tensor *loss = model_loss(&c->tape, model, head_rows(&c->tape, model, T, NULL, NULL, back), NULL);
    TRY(tape_error(&c->tape));
    if (back) TRY(layer_back(c, loss));
    note(c, false, taken);
    return NULL;
}

static size_t rank_at(const LayerAdapter *lora, LoraPlace place)
{
    return lora->places[place] ? lora->places[place]->A->rows : 0;
}

/* Do two layers ask for the same blocks? */
static bool alike(const Model *model, const Adapter *adapter, size_t a, size_t b)
{
    const Layer *x = &model->layers[a], *y = &model->layers[b];
    if (x->dense != y->dense || x->indexer != y->indexer || x->gate.rows != y->gate.rows) return false;
    if (!adapter) return true;
    const LayerAdapter *of_a = &adapter->layers[a], *of_b = &adapter->layers[b];
    if (of_a->n != of_b->n || of_a->n_params != of_b->n_params || !of_a->experts != !of_b->experts) return false;
    for (size_t i = 0; i < LORA_PLACES; i++)
        if (rank_at(of_a, (LoraPlace)i) != rank_at(of_b, (LoraPlace)i)) return false;
    return true;
}

/* Pools are touched by huge pages. */
static size_t touched(size_t bytes) { return round_up(bytes, HUGE_PAGE); }

static Err *count_all(Count *c, const Model *model, const Adapter *adapter, const TapeWork *work, Taken *taken)
{
    size_t L = model->n_layers, lowest = adapter ? adapter_lowest_layer(adapter) : L,
           keep_from = L - size_min(work->kept_layers, L - lowest);
    size_t groups = (work->rows + work->T - 1) / work->T;
    Taken last = {0};
    for (size_t l = 0; l < L; l++) {
        bool same = l > 0 && l != lowest && l != keep_from && alike(model, adapter, l, l - 1);
        if (!same) TRY(count_trained(c, model, adapter, l, l >= lowest, l >= keep_from, &last));
        taken->workspace = size_max(taken->workspace, last.workspace);
        taken->notes = size_max(taken->notes, last.notes);
        taken->own += groups * touched(last.own);
    }
    return count_head(c, model, adapter != NULL, taken);
}

static Err *count_layout(size_t *bytes, const Model *model, const Adapter *adapter, const TapeWork *work, Layout layout)
{
    Count count;
    Taken taken = {0};
    Err *err = count_open(&count, model, work->T, work, layout);
    if (!err) err = count_all(&count, model, adapter, work, &taken);
    count_close(&count);
    *bytes = touched(taken.workspace) + touched(taken.notes) + taken.own;
    return err;
}

Err *tapes_bytes(size_t *bytes, const Model *model, const Adapter *adapter, const TapeWork *work)
{
    size_t latent_from = model->attention.latent_from, others = 0;
    TRY(count_layout(bytes, model, adapter, work, LONG));
    if (latent_from == 0 || work->longest < latent_from) return NULL;
    TRY(count_layout(&others, model, adapter, work, SHORT));
    *bytes = size_max(*bytes, others);
    return NULL;
}

static Err *count_rows(Count *c, const Model *model, size_t *floats)
{
    for (size_t l = 0; l < model->n_layers; l++) {
        floats[l] = l > 0 ? floats[l - 1] : 0;
        if (l > 0 && alike(model, NULL, l, l - 1)) continue;
        begin(c, TAPE_OFF, false);
        forward_layer(c, model, NULL, l, false, false);
        TRY(tape_error(&c->tape));
        floats[l] = c->workspace.used_bytes / sizeof(float) / c->group.T;
    }
    return NULL;
}

Err *tapes_rows(size_t *floats, const Model *model, size_t n)
{
    Count count;
    Err *err = count_open(&count, model, n,
                          &(TapeWork){.T = n, .longest = n, .micro_batch_tokens = 2 * n, .threads = 1}, LONG);
    if (!err) err = count_rows(&count, model, floats);
    count_close(&count);
    return err;
}
