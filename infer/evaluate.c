/* The driver over layers (model/forward.h) reads each layer once; in it, every group of documents goes through the
 * layer for every variant:  x = layer(x), in place. Below the lowest layer that an adapter changes, its hidden states
 * are variant 0's, so they are copied at that layer instead of computed. For the head, with z the logits of a row and
 * lse their logsumexp:
 *
 *     nll = lse(z) - z[target],   KL(a || b) = sum_v p_a(v) (z_a(v) - z_b(v)) - lse(z_a) + lse(z_b)
 *
 * A few rows of logits exist at a time. What always holds: a document's scores are sums in double over its own rows in
 * their order, so they depend on no other document, no group and no thread. */
#include "infer/evaluate.h"

#include "base/memory.h"
#include "base/minmax.h"
#include "model/forward.h"
#include "tensor/rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LOGITS = 1 << 22, MIN_HEAD_ROWS = 64, COLUMNS = 1024 };

/* Consecutive documents of one reading of the weights, that go through a layer together. */
typedef struct {
    Group group;
    size_t first; /* document of the scores */
    size_t row;   /* of the reading's hidden states */
    size_t *doc_start;
    size_t micro_batch_start[2];
} ScoreGroup;

typedef struct {
    Scores *out;
    Model *model;
    const Adapter *const *adapters;
    const Document *const *documents;
    const EvaluateConfig *config;
    size_t D, V;
    size_t *first_layer; /* [n_variants] below this layer a variant's hidden states are variant 0's */
    size_t begin, end;   /* documents of this reading */
    size_t T;            /* rows of this reading */
    int32_t *ids;
    size_t n_groups;
    ScoreGroup *groups;
    float **hidden;   /* [n_variants] of [T][D] */
    Choices *choices; /* [n_variants][n_groups] */
    Tape tape, other_tape;
} Scoring;

/* ---- one reading's rows --------------------------------------------------------------------------------------- */

/* Bytes that a token takes between the layers, all variants together. */
static size_t token_bytes(const Scoring *w)
{
    size_t sparse = 0;
    for (size_t l = 0; l < w->model->n_layers; l++) sparse += !w->model->layers[l].dense;
    return w->out->n_variants * (w->D * sizeof(float) + sparse * w->model->router.K * sizeof(int32_t));
}

/* The documents from `begin` on that fit, one at least. */
static void cut_reading(Scoring *w, size_t max_bytes)
{
    size_t each = token_bytes(w);
    w->T = 0;
    w->end = w->begin;
    while (w->end < w->out->n_documents &&
           (w->T == 0 || !max_bytes || (w->T + w->documents[w->end]->n) * each <= max_bytes))
        w->T += w->documents[w->end++]->n;
}

static Err *make_group(Scoring *w, size_t first, size_t row, size_t max_tokens, ScoreGroup *g)
{
    size_t n = 0, T = 0;
    while (first + n < w->end && (n == 0 || !max_tokens || T + w->documents[first + n]->n <= max_tokens))
        T += w->documents[first + n++]->n;
    TRY(mem_new(&g->doc_start, n + 1, sizeof *g->doc_start));
    for (size_t d = 0; d < n; d++) {
        const Document *doc = w->documents[first + d];
        memcpy(w->ids + row + g->doc_start[d], doc->ids, doc->n * sizeof *w->ids);
        g->doc_start[d + 1] = g->doc_start[d] + doc->n;
    }
    g->first = first;
    g->row = row;
    g->micro_batch_start[1] = T;
    g->group = group_init(n, g->doc_start, 1, g->micro_batch_start);
    return NULL;
}

static Err *make_groups(Scoring *w, size_t max_tokens)
{
    size_t at = w->begin, row = 0;
    TRY(mem_new(&w->ids, w->T, sizeof *w->ids));
    TRY(mem_new(&w->groups, w->end - w->begin, sizeof *w->groups));
    while (at < w->end) {
        ScoreGroup *g = &w->groups[w->n_groups++];
        TRY(make_group(w, at, row, max_tokens, g));
        at += g->group.n_docs;
        row += g->group.T;
    }
    return NULL;
}

static Err *make_rows(Scoring *w)
{
    size_t n = w->out->n_variants;
    TRY(mem_new(&w->hidden, n, sizeof *w->hidden));
    TRY(mem_new(&w->choices, n * w->n_groups, sizeof *w->choices));
    for (size_t v = 0; v < n; v++) {
        TRY(mem_new(&w->hidden[v], w->T * w->D, sizeof **w->hidden));
        for (size_t i = 0; i < w->n_groups; i++)
            TRY(choices_new(&w->choices[v * w->n_groups + i], w->model, &w->groups[i].group));
    }
    return NULL;
}

static void free_reading(Scoring *w)
{
    for (size_t v = 0; v < w->out->n_variants; v++) {
        if (w->hidden) free(w->hidden[v]);
        for (size_t i = 0; w->choices && i < w->n_groups; i++) choices_free(&w->choices[v * w->n_groups + i]);
    }
    for (size_t i = 0; i < w->n_groups; i++) free(w->groups[i].doc_start);
    free(w->hidden);
    free(w->choices);
    free(w->groups);
    free(w->ids);
    w->hidden = NULL;
    w->choices = NULL;
    w->groups = NULL;
    w->ids = NULL;
    w->n_groups = 0;
}

/* ---- forward -------------------------------------------------------------------------------------------------- */

static Err *embed(void *context)
{
    Scoring *w = context;
    for (size_t i = 0; i < w->n_groups; i++) {
        const ScoreGroup *g = &w->groups[i];
        TRY(group_embed(&w->tape, w->model, &g->group, w->ids + g->row, w->hidden[0] + g->row * w->D));
    }
    return NULL;
}

/* Which experts the group's tokens chose in layer l, beside what variant 0 chose. */
static void count_routing(Scoring *w, size_t v, size_t l, size_t i)
{
    size_t K = w->model->router.K;
    const int32_t *ids = w->choices[v * w->n_groups + i].experts[l], *base = w->choices[i].experts[l];
    if (!ids) return; /* a dense layer */
    VariantScore *score = &w->out->variants[v];
    for (size_t t = 0; t < w->groups[i].group.T; t++) {
        for (size_t k = 0; k < K; k++) score->load[l * w->out->n_experts + (size_t)ids[t * K + k]]++;
        score->changed[l] += memcmp(ids + t * K, base + t * K, K * sizeof *ids) != 0; /* both in id order */
    }
}

static Err *run_group(Scoring *w, size_t v, size_t l, size_t i)
{
    const ScoreGroup *g = &w->groups[i];
    LayerPass pass = {.choices = &w->choices[v * w->n_groups + i]};
    TRY(group_forward(&w->tape, w->model, l, w->adapters[v], &g->group, w->hidden[v] + g->row * w->D, &pass));
    count_routing(w, v, l, i);
    return NULL;
}

/* A variant whose own layers begin at layer l begins with the hidden states of variant 0. */
static void copy_shared_states(Scoring *w, size_t l)
{
    for (size_t v = 1; v < w->out->n_variants; v++)
        if (w->first_layer[v] == l) memcpy(w->hidden[v], w->hidden[0], w->T * w->D * sizeof **w->hidden);
}

static Err *forward_layer(void *context, size_t l)
{
    Scoring *w = context;
    copy_shared_states(w, l);
    for (size_t i = 0; i < w->n_groups; i++)
        for (size_t v = 0; v < w->out->n_variants; v++)
            if (l >= w->first_layer[v]) TRY(run_group(w, v, l, i));
    return NULL;
}

static Err *before_layer(void *context)
{
    const EvaluateConfig *config = ((const Scoring *)context)->config;
    return config->between_layers ? config->between_layers(config->context) : NULL;
}

static Err *forward_pass(Scoring *w)
{
    TRY(layers_forward(w->model, &(LayerLoop){.lowest = w->model->n_layers,
                                              .group_passes = w->n_groups * w->out->n_variants,
                                              .embed = embed,
                                              .before_layer = before_layer,
                                              .layer = forward_layer,
                                              .context = w}));
    copy_shared_states(w, w->model->n_layers);
    return NULL;
}

/* ---- head ----------------------------------------------------------------------------------------------------- */

/* Sum of exp(z - max), and of exp(z - max) (z - other) when there is another row. */
typedef struct {
    double max, sum, weighted;
} RowSums;

static RowSums row_sums(size_t V, const float *z, const float *other)
{
    RowSums s = {.max = (double)row_max(V, z)};
    float p[COLUMNS];
    for (size_t at = 0; at < V; at += COLUMNS) {
        size_t n = V - at < COLUMNS ? V - at : COLUMNS;
        memcpy(p, z + at, n * sizeof *p);
        row_exp(n, p, (float)s.max);
        for (size_t i = 0; i < n; i++) s.sum += (double)p[i];
        for (size_t i = 0; i < n && other; i++)
            s.weighted += (double)p[i] * ((double)z[at + i] - (double)other[at + i]);
    }
    return s;
}

/* A row of logits against its target; base NULL: this is variant 0. */
static DocumentScore score_row(size_t V, const float *z, const float *base, int32_t target)
{
    RowSums a = row_sums(V, z, base);
    double lse = a.max + log(a.sum);
    DocumentScore score = {.nll = lse - (double)z[target], .right = row_largest(V, z) == target};
    if (!base) return score;
    RowSums b = row_sums(V, base, z);
    double lse_base = b.max + log(b.sum);
    score.kl = a.weighted / a.sum - lse + lse_base;
    score.kl_back = b.weighted / b.sum - lse_base + lse;
    return score;
}

/* The rows of one group whose next token is in the loss. */
typedef struct {
    size_t n;
    size_t *row, *doc; /* of the reading's hidden states; of the scores */
    int32_t *target;
    DocumentScore *scores; /* [n] of the variant at work */
} LossRows;

static Tensor *logits_of(Scoring *w, Tape *tape, const ScoreGroup *g, size_t v, size_t n, const size_t *rows)
{
    tape_begin(tape, &g->group, TAPE_OFF);
    return model_logits(tape, w->model, head_rows(tape, w->model, n, rows, w->hidden[v], false));
}

static Err *score_rows(Scoring *w, const ScoreGroup *g, const LossRows *s, size_t at, size_t n)
{
    Tensor *base = logits_of(w, &w->tape, g, 0, n, s->row + at);
    TRY(tape_error(&w->tape));
    for (size_t v = 0; v < w->out->n_variants; v++) {
        Tensor *z = v ? logits_of(w, &w->other_tape, g, v, n, s->row + at) : base;
        TRY(tape_error(&w->other_tape));
#pragma omp parallel for schedule(static)
        for (size_t i = 0; i < n; i++)
            s->scores[i] = score_row(w->V, z->data + i * w->V, v ? base->data + i * w->V : NULL, s->target[at + i]);
        for (size_t i = 0; i < n; i++) { /* in order, on one thread */
            DocumentScore *to = &w->out->variants[v].documents[s->doc[at + i]];
            to->nll += s->scores[i].nll;
            to->right += s->scores[i].right;
            to->kl += s->scores[i].kl;
            to->kl_back += s->scores[i].kl_back;
        }
    }
    return NULL;
}

static Err *find_loss_tokens(const Scoring *w, const ScoreGroup *g, LossRows *s)
{
    size_t T = g->group.T;
    TRY(mem_new(&s->row, T, sizeof *s->row));
    TRY(mem_new(&s->doc, T, sizeof *s->doc));
    TRY(mem_new(&s->target, T, sizeof *s->target));
    TRY(mem_new(&s->scores, T, sizeof *s->scores));
    for (size_t d = 0; d < g->group.n_docs; d++) {
        const Document *doc = w->documents[g->first + d];
        for (size_t t = 0; t < doc->n; t++) {
            if (doc->targets[t] < 0) continue;
            if ((size_t)doc->targets[t] >= w->V)
                return err_new(ERR_DATA, "token %d is not in the vocabulary of %zu", doc->targets[t], w->V);
            s->row[s->n] = g->row + g->doc_start[d] + t;
            s->doc[s->n] = g->first + d;
            s->target[s->n++] = doc->targets[t];
        }
    }
    return NULL;
}

static Err *head(Scoring *w)
{
    size_t max_rows = size_max(MAX_LOGITS / w->V, MIN_HEAD_ROWS);
    for (size_t i = 0; i < w->n_groups; i++) {
        LossRows s = {0};
        Err *err = find_loss_tokens(w, &w->groups[i], &s);
        for (size_t at = 0; at < s.n && !err; at += max_rows)
            err = score_rows(w, &w->groups[i], &s, at, size_min(s.n - at, max_rows));
        free(s.row);
        free(s.doc);
        free(s.target);
        free(s.scores);
        if (err) return err;
    }
    return NULL;
}

/* ---- all ------------------------------------------------------------------------------------------------------ */

/* A variant differs from variant 0 from its lowest trained layer on, or from the layer below whose choice of keys that
 * layer uses. */
static size_t first_own_layer(const Model *model, const Adapter *const *adapters, size_t v)
{
    if (v == 0 || adapters[0]) return 0;
    size_t l = adapters[v] ? adapter_lowest_layer(adapters[v]) : model->n_layers;
    while (l > 0 && l < model->n_layers && !model->layers[l].indexer) l--;
    return l;
}

static Err *prepare(Scoring *w)
{
    Scores *out = w->out;
    size_t longest = 1;
    TRY(mem_new(&out->variants, out->n_variants, sizeof *out->variants));
    TRY(mem_new(&w->first_layer, out->n_variants, sizeof *w->first_layer));
    for (size_t v = 0; v < out->n_variants; v++) {
        VariantScore *score = &out->variants[v];
        w->first_layer[v] = first_own_layer(w->model, w->adapters, v);
        TRY(mem_new(&score->documents, out->n_documents, sizeof *score->documents));
        TRY(mem_new(&score->load, out->n_layers * out->n_experts, sizeof *score->load));
        TRY(mem_new(&score->changed, out->n_layers, sizeof *score->changed));
    }
    for (size_t d = 0; d < out->n_documents; d++) {
        out->tokens += w->documents[d]->n;
        if (w->documents[d]->n > longest) longest = w->documents[d]->n;
    }
    return model_reserve_positions(w->model, longest);
}

static Err *run(Scoring *w)
{
    Scores *out = w->out;
    TRY(prepare(w));
    do {
        w->begin = w->end;
        cut_reading(w, w->config->hidden_bytes);
        TRY(make_groups(w, w->config->group_tokens));
        TRY(make_rows(w));
        TRY(forward_pass(w));
        TRY(head(w));
        free_reading(w);
        out->readings++;
    } while (w->end < out->n_documents);
    for (size_t v = 1; v < out->n_variants; v++) /* the routing of shared layers is variant 0's */
        memcpy(out->variants[v].load, out->variants[0].load,
               w->first_layer[v] * out->n_experts * sizeof *out->variants[v].load);
    return NULL;
}

Err *evaluate(Scores *out, Model *model, size_t n_variants, const Adapter *const *adapters, size_t n_documents,
              const Document *const *documents, const EvaluateConfig *config)
{
    *out = (Scores){.n_variants = n_variants,
                    .n_documents = n_documents,
                    .n_layers = model->n_layers,
                    .n_experts = model->router.E};
    Scoring w = {.out = out,
                 .model = model,
                 .adapters = adapters,
                 .documents = documents,
                 .config = config,
                 .D = (size_t)model->config.hidden_size,
                 .V = (size_t)model->config.vocab_size};
    Err *err = run(&w);
    free_reading(&w);
    tape_free(&w.tape);
    tape_free(&w.other_tape);
    free(w.first_layer);
    if (err) scores_free(out);
    return err;
}

void scores_free(Scores *e)
{
    for (size_t v = 0; v < e->n_variants && e->variants; v++) {
        free(e->variants[v].documents);
        free(e->variants[v].load);
        free(e->variants[v].changed);
    }
    free(e->variants);
    *e = (Scores){0};
}

RoutingShift scores_routing(const Scores *e, size_t v, size_t l)
{
    const uint64_t *load = e->variants[v].load + l * e->n_experts;
    double all = 0, max_load = 0, entropy = 0, E = (double)e->n_experts;
    for (size_t i = 0; i < e->n_experts; i++) {
        all += (double)load[i];
        max_load = fmax(max_load, (double)load[i]);
    }
    if (all == 0) return (RoutingShift){0};
    for (size_t i = 0; i < e->n_experts; i++)
        entropy -= load[i] ? (double)load[i] / all * log((double)load[i] / all) : 0;
    return (RoutingShift){(double)e->variants[v].changed[l] / (double)e->tokens, E > 1 ? entropy / log(E) : 1,
                          max_load * E / all};
}
