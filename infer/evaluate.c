/* For every layer, every group of documents, every variant: x = layer(x), in place. Below the lowest layer that an
 * adapter changes its hidden states are the base's: they are copied there, not computed again. At the top
 *     nll = lse(z) - z[target],   KL(a || b) = sum_v p_a(v) (z_a(v) - z_b(v)) - lse(z_a) + lse(z_b)
 * a few rows of logits at a time; sums in double. */
#include "infer/evaluate.h"

#include "base/memory.h"
#include "tensor/rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LOGITS_AT_ONCE = 1 << 22, LEAST_ROWS = 64, COLUMNS = 1024 };

/* Consecutive documents of one reading, run through a layer together. */
typedef struct {
    Group group;
    size_t first; /* document of the scores */
    size_t row;   /* of the reading's hidden states */
    size_t *doc_start;
    size_t micro_batch_start[2];
} Part;

typedef struct {
    Scores *out;
    Model *model;
    const Adapter *const *adapters;
    const Document *const *documents;
    const EvaluateConfig *config;
    size_t D, V;
    size_t *start;     /* [n_variants] the layer from which on a variant goes its own way */
    size_t begin, end; /* documents of this reading */
    size_t T;          /* rows of this reading */
    int32_t *ids;
    size_t n_parts;
    Part *parts;
    float **hidden;   /* [n_variants] of [T][D] */
    Choices *choices; /* [n_variants][n_parts] */
    Tape tape, other;
} Work;

/* ---- one reading's rows --------------------------------------------------------------------------------------- */

/* Bytes that a token takes between the layers, all variants together. */
static size_t token_bytes(const Work *w)
{
    size_t sparse = 0;
    for (size_t l = 0; l < w->model->n_layers; l++) sparse += !w->model->layers[l].dense;
    return w->out->n_variants * (w->D * sizeof(float) + sparse * w->model->router.K * sizeof(int32_t));
}

/* The documents from `begin` on that fit, one at least. */
static void cut_reading(Work *w, size_t most_bytes)
{
    size_t each = token_bytes(w);
    w->T = 0;
    w->end = w->begin;
    while (w->end < w->out->n_documents &&
           (w->T == 0 || !most_bytes || (w->T + w->documents[w->end]->n) * each <= most_bytes))
        w->T += w->documents[w->end++]->n;
}

static Err *make_part(Work *w, size_t first, size_t row, size_t most, Part *part)
{
    size_t n = 0, T = 0;
    while (first + n < w->end && (n == 0 || !most || T + w->documents[first + n]->n <= most))
        T += w->documents[first + n++]->n;
    TRY(mem_new(&part->doc_start, n + 1, sizeof *part->doc_start));
    for (size_t d = 0; d < n; d++) {
        const Document *doc = w->documents[first + d];
        memcpy(w->ids + row + part->doc_start[d], doc->ids, doc->n * sizeof *w->ids);
        part->doc_start[d + 1] = part->doc_start[d] + doc->n;
    }
    part->first = first;
    part->row = row;
    part->micro_batch_start[1] = T;
    part->group = (Group){.T = T,
                          .n_docs = n,
                          .doc_start = part->doc_start,
                          .n_micro_batches = 1,
                          .micro_batch_start = part->micro_batch_start};
    return NULL;
}

static Err *make_parts(Work *w, size_t most)
{
    size_t at = w->begin, row = 0;
    TRY(mem_new(&w->ids, w->T, sizeof *w->ids));
    TRY(mem_new(&w->parts, w->end - w->begin, sizeof *w->parts));
    while (at < w->end) {
        Part *part = &w->parts[w->n_parts++];
        TRY(make_part(w, at, row, most, part));
        at += part->group.n_docs;
        row += part->group.T;
    }
    return NULL;
}

static Err *make_rows(Work *w)
{
    size_t n = w->out->n_variants;
    TRY(mem_new(&w->hidden, n, sizeof *w->hidden));
    TRY(mem_new(&w->choices, n * w->n_parts, sizeof *w->choices));
    for (size_t v = 0; v < n; v++) {
        TRY(mem_new(&w->hidden[v], w->T * w->D, sizeof **w->hidden));
        for (size_t i = 0; i < w->n_parts; i++)
            TRY(choices_new(&w->choices[v * w->n_parts + i], w->model, &w->parts[i].group));
    }
    return NULL;
}

static void drop_reading(Work *w)
{
    for (size_t v = 0; v < w->out->n_variants; v++) {
        if (w->hidden) free(w->hidden[v]);
        for (size_t i = 0; w->choices && i < w->n_parts; i++) choices_free(&w->choices[v * w->n_parts + i]);
    }
    for (size_t i = 0; i < w->n_parts; i++) free(w->parts[i].doc_start);
    free(w->hidden);
    free(w->choices);
    free(w->parts);
    free(w->ids);
    w->hidden = NULL;
    w->choices = NULL;
    w->parts = NULL;
    w->ids = NULL;
    w->n_parts = 0;
}

/* ---- up ------------------------------------------------------------------------------------------------------- */

static Err *embed(Work *w)
{
    for (size_t i = 0; i < w->n_parts; i++) {
        const Part *part = &w->parts[i];
        tape_begin(&w->tape, &part->group, TAPE_OFF);
        Tensor *x = model_embed(&w->tape, w->model, w->ids + part->row);
        TRY(tape_error(&w->tape));
        memcpy(w->hidden[0] + part->row * w->D, x->data, part->group.T * w->D * sizeof *x->data);
    }
    return NULL;
}

/* Which experts the part's tokens chose in layer l, beside what variant 0 chose. */
static void count_routing(Work *w, size_t v, size_t l, size_t i)
{
    size_t K = w->model->router.K;
    const int32_t *ids = w->choices[v * w->n_parts + i].experts[l], *base = w->choices[i].experts[l];
    if (!ids) return; /* a dense layer */
    VariantScore *score = &w->out->variants[v];
    for (size_t t = 0; t < w->parts[i].group.T; t++) {
        for (size_t k = 0; k < K; k++) score->load[l * w->out->n_experts + (size_t)ids[t * K + k]]++;
        score->changed[l] += memcmp(ids + t * K, base + t * K, K * sizeof *ids) != 0; /* both in id order */
    }
}

static Err *run_part(Work *w, size_t v, size_t l, size_t i)
{
    const Part *part = &w->parts[i];
    float *rows = w->hidden[v] + part->row * w->D;
    LayerPass pass = {.choices = &w->choices[v * w->n_parts + i]};
    tape_begin(&w->tape, &part->group, TAPE_OFF);
    Tensor *x = tape_leaf(&w->tape, part->group.T, w->D, rows, false);
    x = layer_forward(&w->tape, w->model, l, w->adapters[v], x, &pass);
    TRY(tape_error(&w->tape));
    memcpy(rows, x->data, part->group.T * w->D * sizeof *rows);
    count_routing(w, v, l, i);
    return NULL;
}

/* Variants that part from variant 0 at this layer begin with its hidden states. */
static void part_ways(Work *w, size_t l)
{
    for (size_t v = 1; v < w->out->n_variants; v++)
        if (w->start[v] == l) memcpy(w->hidden[v], w->hidden[0], w->T * w->D * sizeof **w->hidden);
}

static Err *forward_layer(Work *w, size_t l)
{
    part_ways(w, l);
    for (size_t i = 0; i < w->n_parts; i++)
        for (size_t v = 0; v < w->out->n_variants; v++)
            if (l >= w->start[v]) TRY(run_part(w, v, l, i));
    return NULL;
}

static Err *forward_pass(Work *w)
{
    layers_announce(w->model, w->model->n_layers, w->n_parts * w->out->n_variants);
    TRY(embed(w));
    for (size_t l = 0; l < w->model->n_layers; l++) {
        if (w->config->between_layers) TRY(w->config->between_layers(w->config->context));
        TRY(layer_acquire(w->model, l));
        Err *err = forward_layer(w, l);
        layer_release(w->model, l);
        if (err) return err_wrap(err, "layer %zu", l);
    }
    part_ways(w, w->model->n_layers);
    return NULL;
}

/* ---- head ----------------------------------------------------------------------------------------------------- */

/* Sum of exp(z - max), and of exp(z - max) (z - other) when there is another row. */
typedef struct {
    double max, sum, weighed;
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
        for (size_t i = 0; i < n && other; i++) s.weighed += (double)p[i] * ((double)z[at + i] - (double)other[at + i]);
    }
    return s;
}

/* One scored row; base NULL: this is variant 0. */
static DocumentScore score_row(size_t V, const float *z, const float *base, int32_t target)
{
    RowSums a = row_sums(V, z, base);
    double lse = a.max + log(a.sum);
    DocumentScore score = {.nll = lse - (double)z[target], .right = row_largest(V, z) == target};
    if (!base) return score;
    RowSums b = row_sums(V, base, z);
    double lse_base = b.max + log(b.sum);
    score.kl = a.weighed / a.sum - lse + lse_base;
    score.kl_back = b.weighed / b.sum - lse_base + lse;
    return score;
}

/* Scored rows of one part. */
typedef struct {
    size_t n;
    size_t *row, *doc; /* of the reading's hidden states; of the scores */
    int32_t *target;
    DocumentScore *scores; /* [n] of the variant at work */
} Scored;

static Tensor *logits_of(Work *w, Tape *tape, const Part *part, size_t v, size_t n, const size_t *rows)
{
    tape_begin(tape, &part->group, TAPE_OFF);
    float *x = tape_floats(tape, n * w->D);
    if (tape->err) return &tape->dummy;
    for (size_t i = 0; i < n; i++) memcpy(x + i * w->D, w->hidden[v] + rows[i] * w->D, w->D * sizeof *x);
    return model_logits(tape, w->model, tape_leaf(tape, n, w->D, x, false));
}

static Err *score_rows(Work *w, const Part *part, const Scored *s, size_t at, size_t n)
{
    Tensor *base = logits_of(w, &w->tape, part, 0, n, s->row + at);
    TRY(tape_error(&w->tape));
    for (size_t v = 0; v < w->out->n_variants; v++) {
        Tensor *z = v ? logits_of(w, &w->other, part, v, n, s->row + at) : base;
        TRY(tape_error(&w->other));
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

static Err *find_loss_tokens(const Work *w, const Part *part, Scored *s)
{
    size_t T = part->group.T;
    TRY(mem_new(&s->row, T, sizeof *s->row));
    TRY(mem_new(&s->doc, T, sizeof *s->doc));
    TRY(mem_new(&s->target, T, sizeof *s->target));
    TRY(mem_new(&s->scores, T, sizeof *s->scores));
    for (size_t d = 0; d < part->group.n_docs; d++) {
        const Document *doc = w->documents[part->first + d];
        for (size_t t = 0; t < doc->n; t++) {
            if (doc->targets[t] < 0) continue;
            if ((size_t)doc->targets[t] >= w->V)
                return err_new(ERR_DATA, "token %d is not in the vocabulary of %zu", doc->targets[t], w->V);
            s->row[s->n] = part->row + part->doc_start[d] + t;
            s->doc[s->n] = part->first + d;
            s->target[s->n++] = doc->targets[t];
        }
    }
    return NULL;
}

static Err *head(Work *w)
{
    size_t most = LOGITS_AT_ONCE / w->V > LEAST_ROWS ? LOGITS_AT_ONCE / w->V : LEAST_ROWS;
    for (size_t i = 0; i < w->n_parts; i++) {
        Scored s = {0};
        Err *err = find_loss_tokens(w, &w->parts[i], &s);
        for (size_t at = 0; at < s.n && !err; at += most)
            err = score_rows(w, &w->parts[i], &s, at, s.n - at < most ? s.n - at : most);
        free(s.row);
        free(s.doc);
        free(s.target);
        free(s.scores);
        if (err) return err;
    }
    return NULL;
}

/* ---- all ------------------------------------------------------------------------------------------------------ */

/* A variant parts from variant 0 at its lowest trained layer, or at the layer below it whose choice of keys it uses. */
static size_t layer_of_parting(const Model *model, const Adapter *const *adapters, size_t v)
{
    if (v == 0 || adapters[0]) return 0;
    size_t l = adapters[v] ? adapter_lowest_layer(adapters[v]) : model->n_layers;
    while (l > 0 && l < model->n_layers && !model->layers[l].indexer) l--;
    return l;
}

static Err *prepare(Work *w)
{
    Scores *out = w->out;
    size_t longest = 1;
    TRY(mem_new(&out->variants, out->n_variants, sizeof *out->variants));
    TRY(mem_new(&w->start, out->n_variants, sizeof *w->start));
    for (size_t v = 0; v < out->n_variants; v++) {
        VariantScore *score = &out->variants[v];
        w->start[v] = layer_of_parting(w->model, w->adapters, v);
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

static Err *run(Work *w)
{
    Scores *out = w->out;
    TRY(prepare(w));
    do {
        w->begin = w->end;
        cut_reading(w, w->config->hidden_bytes);
        TRY(make_parts(w, w->config->group_tokens));
        TRY(make_rows(w));
        TRY(forward_pass(w));
        TRY(head(w));
        drop_reading(w);
        out->readings++;
    } while (w->end < out->n_documents);
    for (size_t v = 1; v < out->n_variants; v++) /* what was not computed again is variant 0's */
        memcpy(out->variants[v].load, out->variants[0].load,
               w->start[v] * out->n_experts * sizeof *out->variants[v].load);
    return NULL;
}

Err *evaluate(Scores *out, Model *model, size_t n_variants, const Adapter *const *adapters, size_t n_documents,
              const Document *const *documents, const EvaluateConfig *config)
{
    *out = (Scores){.n_variants = n_variants,
                    .n_documents = n_documents,
                    .n_layers = model->n_layers,
                    .n_experts = model->router.E};
    Work w = {.out = out,
              .model = model,
              .adapters = adapters,
              .documents = documents,
              .config = config,
              .D = (size_t)model->config.hidden_size,
              .V = (size_t)model->config.vocab_size};
    Err *err = run(&w);
    drop_reading(&w);
    tape_free(&w.tape);
    tape_free(&w.other);
    free(w.start);
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
    double all = 0, most = 0, entropy = 0, E = (double)e->n_experts;
    for (size_t i = 0; i < e->n_experts; i++) {
        all += (double)load[i];
        most = fmax(most, (double)load[i]);
    }
    if (all == 0) return (RoutingShift){0};
    for (size_t i = 0; i < e->n_experts; i++)
        entropy -= load[i] ? (double)load[i] / all * log((double)load[i] / all) : 0;
    return (RoutingShift){(double)e->variants[v].changed[l] / (double)e->tokens, E > 1 ? entropy / log(E) : 1,
                          most * E / all};
}
