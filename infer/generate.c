/* Prefill runs a prompt through the expanded attention of training and fills the cache; every further token attends to
 * the cached latents (op_attention_cached). */
#include "infer/generate.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

/* One text at work. */
typedef struct {
    Session session;
    size_t number; /* of its generation */
    int32_t token; /* chosen after its end, and how likely it was */
    double log_probability;
} Writer;

typedef struct {
    Model *model;
    const Adapter *adapter;
    size_t n, next; /* generations; the first that has not begun */
    const Generation *generations;
    Generated *generated;
    size_t at_once, n_writers;
    Writer *writers;    /* [at_once] the first n_writers are at work */
    Session **sessions; /* [at_once] */
    Session *lent;      /* the one writer's, when it is the caller's */
    SessionWorkspace workspace;
    float *logits, *work; /* [at_once][V] */
    uint32_t *order;      /* [at_once][V] */
} DecodeBatch;

/* ---- begin and end -------------------------------------------------------------------------------------------- */

static Err *begin(DecodeBatch *batch, size_t number)
{
    const Generation *g = &batch->generations[number];
    if (g->n_prompt == 0) return err_new(ERR_DATA, "the prompt is empty");
    if (g->max_new_tokens == 0) return NULL;
    Writer *w = &batch->writers[batch->n_writers];
    w->number = number;
    if (!batch->lent)
        TRY(session_open(&w->session, batch->model, g->n_prompt + g->max_new_tokens, !g->no_cache));
    else
        w->session = *batch->lent;
    batch->n_writers++;
    session_set(&w->session, g->n_prompt, g->prompt);
    return NULL;
}

static void leave(DecodeBatch *batch, Writer *w)
{
    if (batch->lent)
        *batch->lent = w->session;
    else
        session_close(&w->session);
}

/* Writers that go on close ranks. */
static void end(DecodeBatch *batch, const bool *ended)
{
    size_t n = 0;
    for (size_t i = 0; i < batch->n_writers; i++) {
        if (ended[i])
            leave(batch, &batch->writers[i]);
        else
            batch->writers[n++] = batch->writers[i];
    }
    batch->n_writers = n;
}

/* ---- one token for everybody ---------------------------------------------------------------------------------- */

static void choose(const DecodeBatch *batch, size_t i)
{
    Writer *w = &batch->writers[i];
    const Generation *g = &batch->generations[w->number];
    size_t V = (size_t)batch->model->config.vocab_size;
    const float *logits = batch->logits + i * V;
    float *work = batch->work + i * V; /* penalty and filters use logits up */
    uint32_t *order = batch->order + i * V;
    memcpy(work, logits, V * sizeof *work);
    sample_penalise(g->sampling.repetition_penalty, w->session.n, w->session.ids, V, work, order);
    w->token = sample_token(&g->sampling, w->session.n - g->n_prompt, V, work, order);
    w->log_probability = sample_log_probability(V, logits, w->token);
}

static bool stops(const Generation *g, int32_t token)
{
    for (size_t i = 0; i < g->n_stop; i++)
        if (g->stop[i] == token) return true;
    return false;
}

static Err *keep_token(Generated *to, int32_t token, double log_probability)
{
    size_t other = to->capacity;
    TRY(mem_grow(&to->tokens, &to->capacity, to->n + 1, sizeof *to->tokens));
    TRY(mem_grow(&to->log_probabilities, &other, to->n + 1, sizeof *to->log_probabilities));
    to->tokens[to->n] = token;
    to->log_probabilities[to->n++] = log_probability;
    return NULL;
}

static Err *take(DecodeBatch *batch, Writer *w, bool *ended)
{
    const Generation *g = &batch->generations[w->number];
    Generated *to = &batch->generated[w->number];
    to->stopped = *ended = stops(g, w->token);
    if (*ended) return NULL;
    TRY(keep_token(to, w->token, w->log_probability));
    to->stopped = g->on_token && !g->on_token(g->context, w->token);
    w->session.ids[w->session.n++] = w->token;
    *ended = to->stopped || to->n == g->max_new_tokens;
    return NULL;
}

static Err *step(DecodeBatch *batch, bool *ended)
{
    for (size_t i = 0; i < batch->n_writers; i++) batch->sessions[i] = &batch->writers[i].session;
    TRY(sessions_step(&batch->workspace, batch->model, batch->adapter, batch->n_writers, batch->sessions,
                      batch->logits));
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < batch->n_writers; i++) choose(batch, i);
    for (size_t i = 0; i < batch->n_writers; i++) TRY(take(batch, &batch->writers[i], &ended[i]));
    end(batch, ended);
    return NULL;
}

/* ---- all ------------------------------------------------------------------------------------------------------ */

static Err *run(DecodeBatch *batch)
{
    bool *ended;
    size_t V = (size_t)batch->model->config.vocab_size;
    if (batch->at_once > batch->n) batch->at_once = batch->n;
    TRY(mem_new(&batch->writers, batch->at_once, sizeof *batch->writers));
    TRY(mem_new(&batch->sessions, batch->at_once, sizeof *batch->sessions));
    TRY(mem_new(&batch->logits, batch->at_once * V, sizeof *batch->logits));
    TRY(mem_new(&batch->work, batch->at_once * V, sizeof *batch->work));
    TRY(mem_new(&batch->order, batch->at_once * V, sizeof *batch->order));
    TRY(mem_new(&ended, batch->at_once, sizeof *ended));
    Err *err = NULL;
    do {
        while (!err && batch->n_writers < batch->at_once && batch->next < batch->n) err = begin(batch, batch->next++);
        if (!err && batch->n_writers) err = step(batch, ended);
    } while (!err && (batch->n_writers || batch->next < batch->n));
    free(ended);
    return err;
}

static Err *open_batch(DecodeBatch *batch)
{
    memset(batch->generated, 0, batch->n * sizeof *batch->generated);
    Err *err = run(batch);
    for (size_t i = 0; i < batch->n_writers; i++) leave(batch, &batch->writers[i]);
    session_workspace_free(&batch->workspace);
    free(batch->writers);
    free(batch->sessions);
    free(batch->logits);
    free(batch->work);
    free(batch->order);
    if (err) generated_free(batch->n, batch->generated);
    return err;
}

Err *generate_all(Model *model, const Adapter *adapter, size_t n, const Generation *generations, size_t at_once,
                  size_t group_tokens, Generated *generated)
{
    DecodeBatch batch = {.model = model,
                         .adapter = adapter,
                         .n = n,
                         .generations = generations,
                         .generated = generated,
                         .at_once = at_once ? at_once : 1,
                         .workspace.group_tokens = group_tokens};
    return open_batch(&batch);
}

Err *generate_in(Session *session, Model *model, const Adapter *adapter, const Generation *g, Generated *generated)
{
    DecodeBatch batch = {.model = model,
                         .adapter = adapter,
                         .n = 1,
                         .generations = g,
                         .generated = generated,
                         .at_once = 1,
                         .lent = session};
    if (g->n_prompt + g->max_new_tokens <= session->capacity) return open_batch(&batch);
    return err_new(ERR_DATA, "%zu tokens and %zu new ones; the context holds %zu", g->n_prompt, g->max_new_tokens,
                   session->capacity);
}

void generated_free(size_t n, Generated *generated)
{
    for (size_t i = 0; i < n; i++) {
        free(generated[i].tokens);
        free(generated[i].log_probabilities);
        generated[i] = (Generated){0};
    }
}

Err *generate(Model *model, const Adapter *adapter, const Generation *generation, int32_t **tokens, size_t *n_tokens)
{
    Generated made;
    TRY(generate_all(model, adapter, 1, generation, 1, 0, &made));
    *n_tokens = made.n;
    *tokens = made.tokens;
    free(made.log_probabilities);
    return made.tokens ? NULL : mem_new(tokens, 0, sizeof **tokens);
}
