/* Scoring. Documents with a loss and the choices of questions are documents alike: one pass over the weights scores all
 * of them for the base and every adapter (infer/evaluate.h). Questions without choices need generated answers
 * (infer/exact_match.h), file after file. Figures and intervals are infer/summary.h's. */
#include "cli/eval_score.h"

#include "base/memory.h"
#include "infer/exact_match.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- records -------------------------------------------------------------------------------------------------- */

static Err *add_document(Eval *e, const Document *document)
{
    TRY(mem_grow(&e->documents, &e->documents_capacity, e->n_documents + 1, sizeof *e->documents));
    e->documents[e->n_documents++] = document;
    return NULL;
}

static Err *add_record(Eval *e, EvalRecord record, size_t n, const Document *documents)
{
    TRY(mem_grow(&e->records, &e->records_capacity, e->n_records + 1, sizeof *e->records));
    record.first_document = e->n_documents;
    record.n_documents = n;
    for (size_t i = 0; i < n; i++) TRY(add_document(e, &documents[i]));
    e->records[e->n_records++] = record;
    return NULL;
}

static Err *add_questions(Eval *e, size_t f)
{
    EvalFile *file = &e->files[f];
    size_t n = questions_count(file->questions);
    file->kind = questions_get(file->questions, 0)->n_choices ? RECORD_CHOICE : RECORD_WRITTEN;
    for (size_t i = 0; i < n; i++) {
        const Question *q = questions_get(file->questions, i);
        if ((q->n_choices > 0) != (file->kind == RECORD_CHOICE))
            return err_new(ERR_DATA, "%s: line %zu: in one file every record has choices, or none has", file->path,
                           q->record);
        double denominator = q->n_choices ? 1 : (double)e->settings.samples;
        TRY(add_record(
            e,
            (EvalRecord){.file = f, .line = q->record, .domain = q->domain, .question = q, .denominator = denominator},
            q->n_choices, q->choices));
    }
    return NULL;
}

static Err *add_documents(Eval *e, size_t f)
{
    EvalFile *file = &e->files[f];
    for (size_t i = 0; i < dataset_count(file->data); i++) {
        const Document *d = dataset_document(file->data, i);
        const char *domain = d->domain ? dataset_domain(file->data, d->domain) : NULL;
        TRY(add_record(e,
                       (EvalRecord){.file = f,
                                    .line = d->record,
                                    .domain = domain,
                                    .denominator = (double)d->n_loss_tokens,
                                    .n_loss_tokens = (double)d->n_loss_tokens},
                       1, d));
    }
    return NULL;
}

static Err *open_file(Eval *e, size_t f, const DocumentOptions *options)
{
    EvalFile *file = &e->files[f];
    bool asks;
    file->path = e->settings.data.items[f];
    file->first = e->n_records;
    TRY(questions_recognise(&asks, file->path));
    if (asks) {
        ChatOptions asking = options->chat;
        asking.end_of_text = true;
        asking.enable_thinking = e->settings.sampling.thinking ? CHAT_YES : CHAT_NO;
        TRY(questions_open(&file->questions, file->path, e->candidate.tokenizer, &asking, options->max_length));
        TRY(add_questions(e, f));
    } else {
        TRY(dataset_open_file(&file->data, e->candidate.tokenizer, file->path, options));
        TRY(add_documents(e, f));
    }
    file->n = e->n_records - file->first;
    return NULL;
}

/* Memory besides the weights: the documents, and the hidden states of all variants. */
static CandidateWork work_of(const Eval *e)
{
    const EvalSettings *s = &e->settings;
    size_t longest = 1, tokens = 0, max_hidden = (size_t)s->hidden_mib << 20;
    for (size_t i = 0; i < e->n_documents; i++) {
        longest = e->documents[i]->n > longest ? e->documents[i]->n : longest;
        tokens += e->documents[i]->n;
    }
    size_t group = s->group_tokens && (size_t)s->group_tokens < tokens ? (size_t)s->group_tokens : tokens;
    size_t hidden = e->n_variants * tokens * (size_t)e->candidate.model->config.hidden_size * sizeof(float);
    return (CandidateWork){group > longest ? group : longest, longest,
                           8 * tokens + (max_hidden && max_hidden < hidden ? max_hidden : hidden)};
}

static Err *read_fail_conditions(Eval *e)
{
    const TextList *conditions = &e->settings.fail_if;
    TRY(mem_new(&e->fail_conditions, conditions->count, sizeof *e->fail_conditions));
    for (; e->n_fail_conditions < conditions->count; e->n_fail_conditions++) {
        FailCondition *condition = &e->fail_conditions[e->n_fail_conditions];
        TRY(fail_condition_read(condition, conditions->items[e->n_fail_conditions]));
        if (e->n_variants == 1 && (condition->with_base || strncmp(condition->metric, "kl", 2) == 0))
            return err_new(ERR_USAGE, "fail-if: %s compares an adapter with the base; give --adapter",
                           conditions->items[e->n_fail_conditions]);
    }
    return NULL;
}

/* Every fail condition can hold for at least one file. */
static Err *check_fail_conditions(const Eval *e)
{
    for (size_t g = 0; g < e->n_fail_conditions; g++) {
        const FailCondition *condition = &e->fail_conditions[g];
        size_t f = 0;
        while (f < e->n_files && !fail_condition_applies(condition, e->files[f].kind)) f++;
        if (f == e->n_files)
            return err_new(
                ERR_USAGE,
                "fail-if: no file of --data has the metric %s (loss, perplexity, token_accuracy and kl are of "
                "texts, accuracy of questions with choices, exact_match of questions without)",
                condition->metric);
    }
    return NULL;
}

Err *eval_score_open(Eval *e)
{
    EvalSettings *s = &e->settings;
    DocumentOptions options;
    if (!s->candidate.model || !s->data.count)
        return err_new(ERR_USAGE, "--%s is missing", s->candidate.model ? "data" : "model");
    e->n_variants = s->candidate.adapter.count + 1;
    TRY(read_fail_conditions(e));
    TRY(candidate_open(&e->candidate, &s->candidate));
    TRY(data_settings_read(&options, &s->data_settings, s->candidate.model));
    TRY(mem_new(&e->files, s->data.count, sizeof *e->files));
    for (; e->n_files < s->data.count; e->n_files++) TRY(open_file(e, e->n_files, &options));
    TRY(check_fail_conditions(e));
    CandidateWork work = work_of(e);
    TRY(candidate_fit(&e->candidate, &s->candidate, &work, &s->group_tokens));
    TRY(candidate_add_all(&e->candidate, &s->candidate));
    TRY(mem_new(&e->adapters, e->n_variants, sizeof *e->adapters));
    for (size_t v = 0; v < e->n_variants; v++) e->adapters[v] = candidate_adapter(&e->candidate, v);
    return NULL;
}

/* ---- scores --------------------------------------------------------------------------------------------------- */

size_t eval_score_choice(const EvalRecord *r, const DocumentScore *of, bool per_token)
{
    size_t best = 0;
    double lowest = INFINITY;
    for (size_t i = 0; i < r->n_documents; i++) {
        double nll = of[r->first_document + i].nll / (per_token ? (double)r->question->choices[i].n_loss_tokens : 1);
        if (nll < lowest) {
            lowest = nll;
            best = i;
        }
    }
    return best;
}

static void take_scores(Eval *e, size_t v)
{
    const DocumentScore *of = e->evaluated.variants[v].documents;
    for (size_t i = 0; i < e->n_records; i++) {
        const EvalRecord *r = &e->records[i];
        double *top = e->scores[v][i].top;
        if (r->question && r->n_documents) {
            top[0] = eval_score_choice(r, of, true) == r->question->answer;
            top[1] = eval_score_choice(r, of, false) == r->question->answer;
        } else if (!r->question) {
            const DocumentScore *d = &of[r->first_document];
            memcpy(top, (double[]){d->nll, d->right, d->kl, d->kl_back}, RECORD_METRICS * sizeof *top);
        }
    }
}

static Err *write_answers(Eval *e, size_t f)
{
    const EvalSettings *s = &e->settings;
    const EvalFile *file = &e->files[f];
    ExactMatch exact = {.model = e->candidate.model,
                        .tokenizer = e->candidate.tokenizer,
                        .questions = file->questions,
                        .extract = s->extract,
                        .samples = (size_t)s->samples,
                        .at_once = (size_t)s->at_once,
                        .group_tokens = (size_t)s->group_tokens,
                        .max_new_tokens = (size_t)s->sampling.max_new_tokens,
                        .sampling = sampling_of(&s->sampling)};
    double *hits;
    TRY(mem_new(&hits, file->n, sizeof *hits));
    Err *err = NULL;
    for (size_t v = 0; v < e->n_variants && !err; v++) {
        err = exact_match_run(&exact, e->adapters[v], hits);
        for (size_t i = 0; i < file->n && !err; i++) e->scores[v][file->first + i].top[0] = hits[i];
    }
    free(hits);
    return err;
}

Err *eval_score_run(Eval *e)
{
    const EvalSettings *s = &e->settings;
    EvaluateConfig config = {.group_tokens = (size_t)s->group_tokens, .hidden_bytes = (size_t)s->hidden_mib << 20};
    TRY(mem_new(&e->scores, e->n_variants, sizeof *e->scores));
    for (size_t v = 0; v < e->n_variants; v++) TRY(mem_new(&e->scores[v], e->n_records, sizeof **e->scores));
    if (e->n_documents) {
        TRY(evaluate(&e->evaluated, e->candidate.model, e->n_variants, e->adapters, e->n_documents, e->documents,
                     &config));
        for (size_t v = 0; v < e->n_variants; v++) take_scores(e, v);
    }
    for (size_t f = 0; f < e->n_files; f++)
        if (e->files[f].kind == RECORD_WRITTEN) TRY(err_wrap(write_answers(e, f), "%s", e->files[f].path));
    return NULL;
}

/* ---- subsets and their figures -------------------------------------------------------------------------------- */

bool eval_score_is_in(const EvalSubset *subset, const EvalRecord *r)
{
    return r->file == subset->file && (!subset->domain || (r->domain && strcmp(r->domain, subset->domain) == 0));
}

static Err *add_subset(Eval *e, size_t file, const char *domain)
{
    EvalSubset subset = {.file = file, .domain = domain};
    for (size_t p = 0; p < e->n_subsets; p++)
        if (e->subsets[p].file == file && domain && e->subsets[p].domain && strcmp(e->subsets[p].domain, domain) == 0)
            return NULL;
    TRY(mem_grow(&e->subsets, &e->subsets_capacity, e->n_subsets + 1, sizeof *e->subsets));
    e->subsets[e->n_subsets++] = subset;
    return NULL;
}

/* Copy the denominators and the scores of one variant for the records of a subset. */
static size_t pick(const Eval *e, const EvalSubset *subset, size_t v, double *denominator, RecordScore *picked)
{
    size_t n = 0;
    for (size_t i = 0; i < e->n_records; i++) {
        if (!eval_score_is_in(subset, &e->records[i])) continue;
        denominator[n] = e->records[i].denominator;
        picked[n++] = e->scores[v][i];
    }
    return n;
}

static Err *sum_up_subset(Eval *e, EvalSubset *subset, double *denominator, RecordScore *own, RecordScore *base)
{
    const EvalSettings *s = &e->settings;
    Draws draws = {(size_t)s->bootstrap, s->level, (uint64_t)s->sampling.seed};
    TRY(mem_new(&subset->summaries, e->n_variants, sizeof *subset->summaries));
    subset->n = pick(e, subset, 0, denominator, base);
    for (size_t v = 0; v < e->n_variants; v++) {
        pick(e, subset, v, denominator, own);
        TRY(summarise(&subset->summaries[v], e->files[subset->file].kind, subset->n, denominator, own, v ? base : NULL,
                      &draws));
    }
    return NULL;
}

Err *eval_score_sum_up(Eval *e)
{
    double *denominator = NULL;
    RecordScore *own = NULL, *base = NULL;
    for (size_t f = 0; f < e->n_files; f++) {
        TRY(add_subset(e, f, NULL));
        for (size_t i = e->files[f].first; i < e->files[f].first + e->files[f].n; i++)
            if (e->records[i].domain) TRY(add_subset(e, f, e->records[i].domain));
    }
    Err *err = mem_new(&denominator, e->n_records, sizeof *denominator);
    if (!err) err = mem_new(&own, e->n_records, sizeof *own);
    if (!err) err = mem_new(&base, e->n_records, sizeof *base);
    for (size_t p = 0; p < e->n_subsets && !err; p++) err = sum_up_subset(e, &e->subsets[p], denominator, own, base);
    free(denominator);
    free(own);
    free(base);
    return err;
}

void eval_score_close(Eval *e)
{
    for (size_t p = 0; p < e->n_subsets; p++) free(e->subsets[p].summaries);
    for (size_t v = 0; v < e->n_variants && e->scores; v++) free(e->scores[v]);
    for (size_t f = 0; e->files && f < e->settings.data.count; f++) {
        dataset_close(e->files[f].data);
        questions_close(e->files[f].questions);
    }
    scores_free(&e->evaluated);
    free(e->subsets);
    free(e->scores);
    free(e->adapters);
    free(e->files);
    free(e->records);
    free(e->documents);
    free(e->fail_conditions);
    candidate_close(&e->candidate);
}
