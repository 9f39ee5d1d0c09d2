/* A step takes the new tokens of all sequences through the layers in groups (model/forward.h). A sequence that begins
 * attends over expanded keys and values, one that goes on attends over the cached latents, so a group holds one kind
 * only. What always holds: the logits of a sequence depend on its own tokens alone. */
#include "infer/session.h"

#include "base/memory.h"
#include "base/minmax.h"
#include "model/forward.h"

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
    ASSERT(n <= s->capacity, "%zu tokens, capacity %zu", n, s->capacity);
    while (same < s->seen && same + 1 < n && s->ids[same] == ids[same])
        same++; /* the last token is always recomputed */
    memcpy(s->ids, ids, n * sizeof *ids);
    s->n = n;
    s->seen = same;
}

void session_workspace_free(SessionWorkspace *workspace)
{
    tape_free(&workspace->tape);
    tape_free(&workspace->head);
}

/* ---- groups --------------------------------------------------------------------------------------------------- */

/* New rows of some sequences, one after another. */
typedef struct {
    Group group;
    size_t n;
    size_t row;    /* of its first row among the step's */
    size_t *which; /* [n] sequences */
    size_t *doc_start, *doc_past;
    size_t micro_batch_start[2];
    float **cached; /* [3 n] the sequences' latent, rotary and index rows of the layer at work */
    Choices choices;
} SessionGroup;

typedef struct {
    SessionWorkspace *ws;
    Model *model;
    const Adapter *adapter;
    size_t n;
    Session *const *sessions;
    size_t n_groups, T;
    SessionGroup *groups; /* [n_groups] */
    int32_t *ids;         /* [T] the new tokens */
    float *x;             /* [T][D] between the layers */
    size_t *last;         /* [n] each sequence's last row */
} SessionStep;

static size_t new_rows(const Session *s) { return s->n - s->seen; }

static bool fits(const SessionStep *step, const SessionGroup *g, const Session *s)
{
    size_t limit = step->ws->group_tokens;
    return step->sessions[g->which[0]]->cached == s->cached && (!limit || g->doc_start[g->n] + new_rows(s) <= limit);
}

static Err *add_group(SessionStep *step)
{
    SessionGroup *g = &step->groups[step->n_groups++];
    g->row = step->T;
    TRY(mem_new(&g->which, step->n, sizeof *g->which));
    TRY(mem_new(&g->doc_start, step->n + 1, sizeof *g->doc_start));
    return mem_new(&g->doc_past, step->n, sizeof *g->doc_past);
}

/* Sequence i goes into the newest group, or begins a new one. */
static Err *add_sequence(SessionStep *step, size_t i, bool begins_kind)
{
    const Session *s = step->sessions[i];
    if (begins_kind || !fits(step, &step->groups[step->n_groups - 1], s)) TRY(add_group(step));
    SessionGroup *g = &step->groups[step->n_groups - 1];
    g->which[g->n] = i;
    g->doc_past[g->n] = s->seen;
    g->doc_start[g->n + 1] = g->doc_start[g->n] + new_rows(s);
    g->n++;
    step->T += new_rows(s);
    return NULL;
}

static Err *finish_group(SessionStep *step, SessionGroup *g)
{
    g->micro_batch_start[1] = g->doc_start[g->n];
    g->group = group_init(g->n, g->doc_start, 1, g->micro_batch_start);
    g->group.doc_past = g->doc_past;
    TRY(mem_new(&g->cached, 3 * g->n, sizeof *g->cached));
    for (size_t i = 0; i < g->n; i++) {
        const Session *s = step->sessions[g->which[i]];
        memcpy(step->ids + g->row + g->doc_start[i], s->ids + s->seen, new_rows(s) * sizeof *step->ids);
        step->last[g->which[i]] = g->row + g->doc_start[i + 1] - 1;
    }
    return choices_new(&g->choices, step->model, &g->group);
}

/* Sequences without a past come first, then the others. */
static Err *make_groups(SessionStep *step)
{
    TRY(mem_new(&step->groups, step->n + 1, sizeof *step->groups));
    for (int past = 0; past < 2; past++) {
        bool begins_kind = true;
        for (size_t i = 0; i < step->n; i++) {
            if ((step->sessions[i]->seen > 0) != past) continue;
            TRY(add_sequence(step, i, begins_kind));
            begins_kind = false;
        }
    }
    TRY(mem_new(&step->ids, step->T, sizeof *step->ids));
    TRY(mem_new(&step->x, step->T * (size_t)step->model->config.hidden_size, sizeof *step->x));
    TRY(mem_new(&step->last, step->n, sizeof *step->last));
    for (size_t i = 0; i < step->n_groups; i++) TRY(finish_group(step, &step->groups[i]));
    return NULL;
}

static void step_close(SessionStep *step)
{
    for (size_t i = 0; i < step->n_groups; i++) {
        SessionGroup *g = &step->groups[i];
        choices_free(&g->choices);
        free(g->which);
        free(g->doc_start);
        free(g->doc_past);
        free(g->cached);
    }
    free(step->groups);
    free(step->ids);
    free(step->x);
    free(step->last);
}

/* ---- a step --------------------------------------------------------------------------------------------------- */

static float *rows_of_group(const SessionStep *step, const SessionGroup *g)
{
    return step->x + g->row * (size_t)step->model->config.hidden_size;
}

static Err *embed(void *context)
{
    SessionStep *step = context;
    for (size_t i = 0; i < step->n_groups; i++) {
        const SessionGroup *g = &step->groups[i];
        TRY(group_embed(&step->ws->tape, step->model, &g->group, step->ids + g->row, rows_of_group(step, g)));
    }
    return NULL;
}

static Err *run_group(SessionStep *step, SessionGroup *g, size_t l)
{
    LayerCache cache = {.capacity = SIZE_MAX,
                        .latent = g->cached,
                        .rotary = g->cached + g->n,
                        .index = g->cached + 2 * g->n};
    bool cached = step->sessions[g->which[0]]->cached;
    for (size_t i = 0; i < g->n && cached; i++) {
        const Session *s = step->sessions[g->which[i]];
        cache.latent[i] = s->cache.layers[l].latent[0];
        cache.rotary[i] = s->cache.layers[l].rotary[0];
        cache.index[i] = s->cache.layers[l].index[0];
        cache.capacity = size_min(cache.capacity, s->capacity);
    }
    LayerPass pass = {.choices = &g->choices, .cache = cached ? &cache : NULL};
    return group_forward(&step->ws->tape, step->model, l, step->adapter, &g->group, rows_of_group(step, g), &pass);
}

static Err *forward_layer(void *context, size_t l)
{
    SessionStep *step = context;
    for (size_t i = 0; i < step->n_groups; i++) TRY(run_group(step, &step->groups[i], l));
    return NULL;
}

/* Logits of every sequence's last row. */
static Err *head(SessionStep *step, float *logits)
{
    Tape *tape = &step->ws->head;
    tape_begin(tape, &step->groups[0].group, TAPE_OFF);
    Tensor *z = model_logits(tape, step->model, head_rows(tape, step->model, step->n, step->last, step->x, false));
    TRY(tape_error(tape));
    memcpy(logits, z->data, step->n * (size_t)step->model->config.vocab_size * sizeof *logits);
    return NULL;
}

static Err *run(SessionStep *step, float *logits)
{
    TRY(make_groups(step));
    TRY(layers_forward(step->model, &(LayerLoop){.lowest = step->model->n_layers,
                                                 .group_passes = step->n_groups,
                                                 .embed = embed,
                                                 .layer = forward_layer,
                                                 .context = step}));
    return head(step, logits);
}

Err *sessions_step(SessionWorkspace *ws, Model *model, const Adapter *adapter, size_t n, Session *const *sessions,
                   float *logits)
{
    SessionStep step = {.ws = ws, .model = model, .adapter = adapter, .n = n, .sessions = sessions};
    for (size_t i = 0; i < n; i++) ASSERT(sessions[i]->n > sessions[i]->seen, "session %zu has nothing new", i);
    Err *err = n ? run(&step, logits) : NULL;
    step_close(&step);
    for (size_t i = 0; i < n && !err; i++)
        if (sessions[i]->cached) sessions[i]->seen = sessions[i]->n;
    return err;
}
