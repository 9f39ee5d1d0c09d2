/* A step takes the new tokens of all sessions through one layer after the other, in groups. Texts that begin and texts
 * that go on take different ways through attention (expanded, over the latents), so a group holds one kind only. */
#include "infer/session.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

Err *session_open(Session *s, Model *model, size_t capacity, bool cached)
{
    *s = (Session){.capacity = capacity, .cached = cached};
    TRY(model_reserve_positions(model, capacity));
    Err *err = mem_new(&s->ids, capacity, sizeof *s->ids);
    if (!err && cached) err = cache_new(&s->cache, model, 1, capacity);
    if (err) session_close(s);
    return err;
}

void session_close(Session *s)
{
    cache_free(&s->cache);
    free(s->ids);
    *s = (Session){0};
}

void session_set(Session *s, size_t n, const int32_t *ids)
{
    size_t same = 0;
    ASSERT(n <= s->capacity, "%zu tokens, room for %zu", n, s->capacity);
    while (same < s->seen && same + 1 < n && s->ids[same] == ids[same]) same++; /* the last token is always run again */
    memcpy(s->ids, ids, n * sizeof *ids);
    s->n = n;
    s->seen = same;
}

void stepper_free(Stepper *stepper)
{
    tape_free(&stepper->tape);
    tape_free(&stepper->head);
}

/* ---- one group ------------------------------------------------------------------------------------------------ */

/* New rows of some sessions, one after another. */
typedef struct {
    Group group;
    size_t n, capacity;
    size_t *which; /* [n] sessions */
    size_t *doc_start, *doc_past;
    size_t micro_batch_start[2];
    int32_t *ids;
    float *x;     /* [T][D] between the layers */
    float **rows; /* [3 n] the sessions' latent, rotary and index rows of the layer at work */
    Choices choices;
} Pack;

static Err *fill_pack(Pack *p, const Model *model, Session *const *sessions)
{
    size_t T = p->doc_start[p->n], D = (size_t)model->config.hidden_size;
    p->micro_batch_start[1] = T;
    p->group = (Group){.T = T,
                       .n_docs = p->n,
                       .doc_start = p->doc_start,
                       .doc_past = p->doc_past,
                       .n_micro_batches = 1,
                       .micro_batch_start = p->micro_batch_start};
    TRY(mem_new(&p->ids, T, sizeof *p->ids));
    TRY(mem_new(&p->x, T * D, sizeof *p->x));
    TRY(mem_new(&p->rows, 3 * p->n, sizeof *p->rows));
    for (size_t i = 0; i < p->n; i++) {
        const Session *s = sessions[p->which[i]];
        memcpy(p->ids + p->doc_start[i], s->ids + s->seen, (s->n - s->seen) * sizeof *p->ids);
    }
    return choices_new(&p->choices, model, &p->group);
}

static void drop_pack(Pack *p)
{
    choices_free(&p->choices);
    free(p->which);
    free(p->doc_start);
    free(p->doc_past);
    free(p->ids);
    free(p->x);
    free(p->rows);
}

static Err *embed(Stepper *st, const Model *model, Pack *p)
{
    tape_begin(&st->tape, &p->group, TAPE_OFF);
    Tensor *x = model_embed(&st->tape, model, p->ids);
    TRY(tape_error(&st->tape));
    memcpy(p->x, x->data, x->shape[0] * x->shape[1] * sizeof *p->x);
    return NULL;
}

static Err *run_layer(Stepper *st, const Model *model, const Adapter *adapter, size_t l, Session *const *sessions,
                      Pack *p)
{
    size_t D = (size_t)model->config.hidden_size;
    LayerCache cache = {.capacity = SIZE_MAX, .latent = p->rows, .rotary = p->rows + p->n, .index = p->rows + 2 * p->n};
    bool cached = sessions[p->which[0]]->cached;
    for (size_t i = 0; i < p->n && cached; i++) {
        const Session *s = sessions[p->which[i]];
        cache.latent[i] = s->cache.layers[l].latent[0];
        cache.rotary[i] = s->cache.layers[l].rotary[0];
        cache.index[i] = s->cache.layers[l].index[0];
        if (s->capacity < cache.capacity) cache.capacity = s->capacity;
    }
    LayerPass pass = {.choices = &p->choices, .cache = cached ? &cache : NULL};
    tape_begin(&st->tape, &p->group, TAPE_OFF);
    Tensor *x = tape_leaf(&st->tape, p->group.T, D, p->x, false);
    x = layer_forward(&st->tape, model, l, adapter, x, &pass);
    TRY(tape_error(&st->tape));
    memcpy(p->x, x->data, p->group.T * D * sizeof *p->x);
    return NULL;
}

/* ---- a step --------------------------------------------------------------------------------------------------- */

typedef struct {
    size_t n, capacity;
    Pack *items;
} Packs;

static Err *add_to_pack(Packs *packs, size_t group_tokens, bool fresh, Session *const *sessions, size_t i)
{
    const Session *s = sessions[i];
    size_t rows = s->n - s->seen;
    Pack *p = packs->n ? &packs->items[packs->n - 1] : NULL;
    if (fresh || !p || p->n == p->capacity || (group_tokens && p->doc_start[p->n] + rows > group_tokens) ||
        sessions[p->which[0]]->cached != s->cached) {
        p = &packs->items[packs->n++];
        p->capacity = packs->capacity;
        TRY(mem_new(&p->which, p->capacity, sizeof *p->which));
        TRY(mem_new(&p->doc_start, p->capacity + 1, sizeof *p->doc_start));
        TRY(mem_new(&p->doc_past, p->capacity, sizeof *p->doc_past));
    }
    p->which[p->n] = i;
    p->doc_past[p->n] = s->seen;
    p->doc_start[p->n + 1] = p->doc_start[p->n] + rows;
    p->n++;
    return NULL;
}

static Err *make_packs(Packs *packs, const Stepper *st, const Model *model, size_t n, Session *const *sessions)
{
    packs->capacity = n;
    TRY(mem_new(&packs->items, n + 1, sizeof *packs->items));
    for (int past = 0; past < 2; past++) {
        bool fresh = true;
        for (size_t i = 0; i < n; i++) {
            if ((sessions[i]->seen > 0) != past) continue;
            TRY(add_to_pack(packs, st->group_tokens, fresh, sessions, i));
            fresh = false;
        }
    }
    for (size_t i = 0; i < packs->n; i++) TRY(fill_pack(&packs->items[i], model, sessions));
    return NULL;
}

static Err *forward_pass(Stepper *st, Model *model, const Adapter *adapter, Session *const *sessions, Packs *packs)
{
    layers_announce(model, model->n_layers, packs->n);
    for (size_t i = 0; i < packs->n; i++) TRY(embed(st, model, &packs->items[i]));
    for (size_t l = 0; l < model->n_layers; l++) {
        TRY(layer_acquire(model, l));
        Err *err = NULL;
        for (size_t i = 0; i < packs->n && !err; i++)
            err = run_layer(st, model, adapter, l, sessions, &packs->items[i]);
        layer_release(model, l);
        if (err) return err_wrap(err, "layer %zu", l);
    }
    return NULL;
}

/* Logits of every text's last row. */
static Err *head(Stepper *st, const Model *model, const Packs *packs, size_t n, float *logits)
{
    size_t D = (size_t)model->config.hidden_size, V = (size_t)model->config.vocab_size;
    tape_begin(&st->head, &packs->items[0].group, TAPE_OFF);
    float *last = tape_floats(&st->head, n * D);
    TRY(tape_error(&st->head));
    for (size_t i = 0; i < packs->n; i++) {
        const Pack *p = &packs->items[i];
        for (size_t d = 0; d < p->n; d++)
            memcpy(last + p->which[d] * D, p->x + (p->doc_start[d + 1] - 1) * D, D * sizeof *last);
    }
    Tensor *z = model_logits(&st->head, model, tape_leaf(&st->head, n, D, last, false));
    TRY(tape_error(&st->head));
    memcpy(logits, z->data, n * V * sizeof *logits);
    return NULL;
}

Err *sessions_step(Stepper *st, Model *model, const Adapter *adapter, size_t n, Session *const *sessions, float *logits)
{
    Packs packs = {0};
    for (size_t i = 0; i < n; i++) ASSERT(sessions[i]->n > sessions[i]->seen, "session %zu has nothing new", i);
    Err *err = n ? make_packs(&packs, st, model, n, sessions) : NULL;
    if (!err && n) err = forward_pass(st, model, adapter, sessions, &packs);
    if (!err && n) err = head(st, model, &packs, n, logits);
    for (size_t i = 0; i < packs.n; i++) drop_pack(&packs.items[i]);
    free(packs.items);
    for (size_t i = 0; i < n && !err; i++)
        if (sessions[i]->cached) sessions[i]->seen = sessions[i]->n;
    return err;
}
