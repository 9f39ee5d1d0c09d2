/* Each rank scores its run of documents (infer/evaluate), then all know all scores and add them in the same order. */
#include "train/evaluate.h"

#include "base/memory.h"
#include "base/minmax.h"
#include "infer/evaluate.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    Model *model;
    const Dp *dp;
    const Adapter *adapter;
    const Dataset *dataset;
    const EvaluateHow *how;
    size_t *first;         /* [size + 1] first document of each rank in this pass */
    DocumentScore *scores; /* [count] of all documents */
} Work;

enum { SCORE = sizeof(DocumentScore) / sizeof(double) };

/* ---- passes --------------------------------------------------------------------------------------------------- */

/* The documents of the pass that begins at `at`: each rank takes on until it has its share. */
static void share_out(Work *w, size_t at, size_t share)
{
    for (int r = 0; r < w->dp->size; r++) {
        w->first[r] = at;
        for (size_t tokens = 0; at < dataset_count(w->dataset) && tokens < share; at++)
            tokens += dataset_document(w->dataset, at)->n;
    }
    w->first[w->dp->size] = at;
}

static Err *stop_between_layers(void *context)
{
    const Work *w = context;
    if (!w->how->stop || !dp_any(w->dp, *w->how->stop != 0)) return NULL;
    return err_new(ERR_STOPPED, "stopped inside an evaluation");
}

/* A rank without documents goes through the layers, too: ranks of one host share what streams. */
static Err *score_own(Work *w)
{
    size_t from = w->first[w->dp->rank], n = w->first[w->dp->rank + 1] - from;
    const Document **docs;
    Scores scores;
    EvaluateConfig config = {.group_tokens = w->how->group_tokens, .between_layers = stop_between_layers, .context = w};
    TRY(mem_new(&docs, n, sizeof *docs));
    for (size_t d = 0; d < n; d++) docs[d] = dataset_document(w->dataset, from + d);
    Err *err = evaluate(&scores, w->model, 1, &w->adapter, n, docs, &config);
    free(docs);
    if (err) return err;
    memcpy(w->scores + from, scores.variants[0].documents, n * sizeof *w->scores);
    scores_free(&scores);
    return dp_share_rows(w->dp, w->first, SCORE, &w->scores->nll);
}

static Err *score_all(Work *w)
{
    size_t count = dataset_count(w->dataset), size = (size_t)w->dp->size;
    size_t share = size_min(w->how->pass_tokens, dataset_totals(w->dataset).tokens / size + 1);
    for (size_t at = 0; at < count; at = w->first[size]) {
        share_out(w, at, share);
        TRY(score_own(w));
    }
    return NULL;
}

/* ---- parts ---------------------------------------------------------------------------------------------------- */

static void add_score(EvalPart *part, const Document *doc, const DocumentScore *score)
{
    part->nll += score->nll;
    part->right += score->right;
    part->n_loss_tokens += doc->n_loss_tokens;
    part->documents++;
}

/* Domain d of the data set is part d until those without documents are left out; 0 has no name: the whole takes its
 * place. */
static Err *sum_up(Evaluation *e, const Dataset *dataset, const DocumentScore *scores)
{
    size_t n = dataset_n_domains(dataset);
    TRY(mem_new(&e->parts, n, sizeof *e->parts));
    for (size_t i = 0; i < dataset_count(dataset); i++) {
        const Document *doc = dataset_document(dataset, i);
        add_score(&e->parts[0], doc, &scores[i]);
        if (doc->domain) add_score(&e->parts[doc->domain], doc, &scores[i]);
    }
    for (size_t d = 0; d < n; d++) {
        if (e->parts[d].documents == 0) continue;
        e->parts[e->n] = e->parts[d];
        e->parts[e->n++].domain = d ? dataset_domain(dataset, d) : NULL;
    }
    return NULL;
}

Err *evaluate_dataset(Evaluation *e, Model *model, const Dp *dp, const Adapter *adapter, const Dataset *dataset,
                      const EvaluateHow *how)
{
    Work w = {.model = model, .dp = dp, .adapter = adapter, .dataset = dataset, .how = how};
    *e = (Evaluation){0};
    Err *err = mem_new(&w.first, (size_t)dp->size + 1, sizeof *w.first);
    if (!err) err = mem_new(&w.scores, dataset_count(dataset), sizeof *w.scores);
    if (!err) err = score_all(&w);
    if (!err) err = sum_up(e, dataset, w.scores);
    free(w.first);
    free(w.scores);
    return err;
}

void evaluation_free(Evaluation *e)
{
    free(e->parts);
    *e = (Evaluation){0};
}
