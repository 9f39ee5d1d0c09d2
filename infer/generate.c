/* Prefill runs the prompt through the expanded attention of training and fills the cache; every further token attends to
 * the cached latents (op_attention_cached). */
#include "infer/generate.h"

#include "base/memory.h"
#include "infer/cache.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    Model *model;
    const Adapter *adapter;
    Tape tape;
    Cache cache;
    bool cached;
    int32_t *text; /* prompt and what came after */
    size_t n;
    float *logits;
    uint32_t *order;
} Session;

/* Logits after the last of the rows [from, n) of the text. */
static Err *advance(Session *s, size_t from)
{
    size_t rows = s->n - from, doc_start[] = {0, rows}, past[] = {from}, micro[] = {0, rows};
    Group group = {.T = rows, .n_docs = 1, .doc_start = doc_start, .doc_past = past, .n_micro = 1, .micro_start = micro};
    Choices choices;
    TRY(choices_new(&choices, s->model, &group));
    tape_begin(&s->tape, &group, TAPE_OFF);
    Tensor *x = model_embed(&s->tape, s->model, s->text + from);
    Err *err = tape_error(&s->tape);
    for (size_t l = 0; l < s->model->n_layers && !err; l++) {
        LayerPass pass = {.choices = &choices, .cache = s->cached ? &s->cache.layers[l] : NULL};
        err = layer_acquire(s->model, l);
        if (!err) x = layer_forward(&s->tape, s->model, l, s->adapter, x, &pass);
        layer_release(s->model, l);
        if (!err) err = err_wrap(tape_error(&s->tape), "layer %zu", l);
    }
    size_t D = (size_t)s->model->config.hidden_size, V = (size_t)s->model->config.vocab_size;
    if (!err) {
        Tensor *last = tape_leaf(&s->tape, 1, D, x->data + (rows - 1) * D, false);
        Tensor *logits = model_logits(&s->tape, s->model, last);
        err = tape_error(&s->tape);
        if (!err) memcpy(s->logits, logits->data, V * sizeof *s->logits);
    }
    choices_free(&choices);
    return err;
}

static bool stops(const Generation *g, int32_t token)
{
    for (size_t i = 0; i < g->n_stop; i++)
        if (g->stop[i] == token) return true;
    return false;
}

static Err *run(Session *s, const Generation *g)
{
    size_t V = (size_t)s->model->config.vocab_size, seen = 0;
    while (s->n < g->n_prompt + g->max_new_tokens) {
        TRY(advance(s, s->cached ? seen : 0));
        seen = s->n;
        int32_t token = sample_token(&g->sampling, s->n - g->n_prompt, V, s->logits, s->order);
        if (stops(g, token)) return NULL;
        s->text[s->n++] = token;
        if (g->on_token && !g->on_token(g->context, token)) return NULL;
    }
    return NULL;
}

static Err *start(Session *s, const Generation *g)
{
    size_t V = (size_t)s->model->config.vocab_size, most = g->n_prompt + g->max_new_tokens;
    if (g->n_prompt == 0) return err_new(ERR_DATA, "the prompt is empty");
    TRY(model_reserve_positions(s->model, most));
    TRY(mem_new(&s->text, most, sizeof *s->text));
    TRY(mem_new(&s->logits, V, sizeof *s->logits));
    TRY(mem_new(&s->order, V, sizeof *s->order));
    if (s->cached) TRY(cache_new(&s->cache, s->model, 1, most));
    memcpy(s->text, g->prompt, g->n_prompt * sizeof *s->text);
    s->n = g->n_prompt;
    return NULL;
}

Err *generate(Model *model, const Adapter *adapter, const Generation *g, int32_t **tokens, size_t *n_tokens)
{
    Session s = {.model = model, .adapter = adapter, .cached = !g->no_cache};
    Err *err = start(&s, g);
    if (!err) err = run(&s, g);
    if (!err) err = mem_new(tokens, s.n - g->n_prompt, sizeof **tokens);
    if (!err) {
        *n_tokens = s.n - g->n_prompt;
        memcpy(*tokens, s.text + g->n_prompt, *n_tokens * sizeof **tokens);
    }
    tape_free(&s.tape);
    cache_free(&s.cache);
    free(s.text);
    free(s.logits);
    free(s.order);
    return err;
}
