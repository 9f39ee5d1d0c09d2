/* Prefill runs a prompt through the expanded attention of training and fills the cache. Every further token attends to
 * the cached latents (op_attention_cached). Each step of a batch runs the new tokens of all sequences in it through the
 * model, chooses one token for each, and replaces sequences that have ended by the next ones. */
#include "infer/generate.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

/* A sequence that is being generated. */
typedef struct {
    Session session;
    size_t number; /* of its generation */
    int32_t token; /* the chosen next token, and its log-probability */
    double log_probability;
} ActiveSequence;

typedef struct {
    Model *model;
    const Adapter *adapter;
    size_t n, next; /* generations; the first that has not begun */
    const Generation *generations;
    Generated *generated;
    size_t at_once, n_active; /* sequences */
    ActiveSequence *active;   /* [at_once] the first n_active are being generated */
    Session **sessions;       /* [at_once] */
    Session *lent;            /* the caller's session, for its one sequence; or NULL */
    SessionWorkspace workspace;
    float *logits, *work; /* [at_once][V] */
    uint32_t *order;      /* [at_once][V] */
} DecodeBatch;

/* ---- begin and end ----------------------------------------------------------------------------------------------- */

static Err *begin(DecodeBatch *batch, size_t number)
{
    const Generation *g = &batch->generations[number];
    if (g->n_prompt == 0) return err_new(ERR_DATA, "the prompt is empty");
    if (g->max_new_tokens == 0) return NULL;
    ActiveSequence *sequence = &batch->active[batch->n_active];
    sequence->number = number;
    if (!batch->lent)
        TRY(session_open(&sequence->session, batch->model, g->n_prompt + g->max_new_tokens, !g->no_cache));
    else
        sequence->session = *batch->lent;
    batch->n_active++;
    session_set(&sequence->session, g->n_prompt, g->prompt);
    return NULL;
}

static void close_sequence(DecodeBatch *batch, ActiveSequence *sequence)
{
    if (batch->lent)
        *batch->lent = sequence->session;
    else
        session_close(&sequence->session);
}

/* Remove the sequences that have ended; the others close the gaps. */
static void end(DecodeBatch *batch, const bool *ended)
{
    size_t n = 0;
    for (size_t i = 0; i < batch->n_active; i++) {
        if (ended[i])
            close_sequence(batch, &batch->active[i]);
        else
            batch->active[n++] = batch->active[i];
    }
    batch->n_active = n;
}

/* ---- one token for each ------------------------------------------------------------------------------------------ */

static void choose(const DecodeBatch *batch, size_t i)
{
    ActiveSequence *sequence = &batch->active[i];
    const Generation *g = &batch->generations[sequence->number];
    size_t V = (size_t)batch->model->config.vocab_size;
    const float *logits = batch->logits + i * V;
    float *work = batch->work + i * V; /* penalty and filters overwrite logits */
    uint32_t *order = batch->order + i * V;
    memcpy(work, logits, V * sizeof *work);
    sample_penalise(g->sampling.repetition_penalty, sequence->session.n, sequence->session.ids, V, work, order);
    sequence->token = sample_token(&g->sampling, sequence->session.n - g->n_prompt, V, work, order);
    sequence->log_probability = sample_log_probability(V, logits, sequence->token);
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

static Err *append(DecodeBatch *batch, ActiveSequence *sequence, bool *ended)
{
    const Generation *g = &batch->generations[sequence->number];
    Generated *to = &batch->generated[sequence->number];
    to->stopped = *ended = stops(g, sequence->token);
    if (*ended) return NULL;
    TRY(keep_token(to, sequence->token, sequence->log_probability));
    to->stopped = g->on_token && !g->on_token(g->context, sequence->token);
    sequence->session.ids[sequence->session.n++] = sequence->token;
    *ended = to->stopped || to->n == g->max_new_tokens;
    return NULL;
}

static Err *step(DecodeBatch *batch, bool *ended)
{
    for (size_t i = 0; i < batch->n_active; i++) batch->sessions[i] = &batch->active[i].session;
    TRY(sessions_step(&batch->workspace, batch->model, batch->adapter, batch->n_active, batch->sessions,
                      batch->logits));
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < batch->n_active; i++) choose(batch, i);
    for (size_t i = 0; i < batch->n_active; i++) TRY(append(batch, &batch->active[i], &ended[i]));
    end(batch, ended);
    return NULL;
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

static Err *run(DecodeBatch *batch)
{
    bool *ended;
    size_t V = (size_t)batch->model->config.vocab_size;
    if (batch->at_once > batch->n) batch->at_once = batch->n;
    TRY(mem_new(&batch->active, batch->at_once, sizeof *batch->active));
    TRY(mem_new(&batch->sessions, batch->at_once, sizeof *batch->sessions));
    TRY(mem_new(&batch->logits, batch->at_once * V, sizeof *batch->logits));
    TRY(mem_new(&batch->work, batch->at_once * V, sizeof *batch->work));
    TRY(mem_new(&batch->order, batch->at_once * V, sizeof *batch->order));
    TRY(mem_new(&ended, batch->at_once, sizeof *ended));
    Err *err = NULL;
    do {
        while (!err && batch->n_active < batch->at_once && batch->next < batch->n) err = begin(batch, batch->next++);
        if (!err && batch->n_active) err = step(batch, ended);
    } while (!err && (batch->n_active || batch->next < batch->n));
    free(ended);
    return err;
}

static Err *decode(DecodeBatch *batch)
{
    memset(batch->generated, 0, batch->n * sizeof *batch->generated);
    Err *err = run(batch);
    for (size_t i = 0; i < batch->n_active; i++) close_sequence(batch, &batch->active[i]);
    session_workspace_free(&batch->workspace);
    free(batch->active);
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
    return decode(&batch);
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
    if (g->n_prompt + g->max_new_tokens <= session->capacity) return decode(&batch);
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
