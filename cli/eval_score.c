#include "cli/eval_score.h"

#include "base/memory.h"
#include "infer/exact_match.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- what is asked -------------------------------------------------------------------------------------------- */

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
            return err_new(ERR_DATA, "%s: line %zu: a file asks with choices in every record, or in none", file->path,
                           q->record);
        double bottom = q->n_choices ? 1 : (double)e->settings.samples;
        TRY(add_record(e,
                       (EvalRecord){.file = f, .line = q->record, .domain = q->domain, .question = q, .bottom = bottom},
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
                                    .bottom = (double)d->n_loss_tokens,
                                    .scored = (double)d->n_loss_tokens},
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

/* Documents, and the hidden states of all variants between the layers. */
static CandidateWork work_of(const Eval *e)
{
    const EvalSettings *s = &e->settings;
    size_t longest = 1, tokens = 0, most = (size_t)s->hidden_mib << 20;
    for (size_t i = 0; i < e->n_documents; i++) {
        longest = e->documents[i]->n > longest ? e->documents[i]->n : longest;
        tokens += e->documents[i]->n;
    }
    size_t group = s->group_tokens && (size_t)s->group_tokens < tokens ? (size_t)s->group_tokens : tokens;
    size_t hidden = e->n_variants * tokens * (size_t)e->candidate.model->config.hidden_size * sizeof(float);
    return (CandidateWork){group > longest ? group : longest, longest,
                           8 * tokens + (most && most < hidden ? most : hidden)};
}

static Err *read_gates(Eval *e)
{
    const TextList *conditions = &e->settings.fail_if;
    TRY(mem_new(&e->gates, conditions->count, sizeof *e->gates));
    for (; e->n_gates < conditions->count; e->n_gates++)
        TRY(gate_read(&e->gates[e->n_gates], conditions->items[e->n_gates]));
    return NULL;
}

Err *eval_open(Eval *e)
{
    EvalSettings *s = &e->settings;
    DocumentOptions options;
    if (!s->candidate.model || !s->data.count)
        return err_new(ERR_USAGE, "--%s is missing", s->candidate.model ? "data" : "model");
    e->n_variants = s->candidate.adapter.count + 1;
    TRY(read_gates(e));
    TRY(candidate_open(&e->candidate, &s->candidate));
    TRY(data_settings_read(&options, &s->how, s->candidate.model));
    TRY(mem_new(&e->files, s->data.count, sizeof *e->files));
    for (; e->n_files < s->data.count; e->n_files++) TRY(open_file(e, e->n_files, &options));
    CandidateWork work = work_of(e);
    TRY(candidate_fit(&e->candidate, &s->candidate, &work, &s->group_tokens));
    TRY(candidate_add_all(&e->candidate, &s->candidate));
    TRY(mem_new(&e->adapters, e->n_variants, sizeof *e->adapters));
    for (size_t v = 0; v < e->n_variants; v++) e->adapters[v] = candidate_adapter(&e->candidate, v);
    return NULL;
}

/* ---- scores --------------------------------------------------------------------------------------------------- */

size_t eval_choice(const EvalRecord *r, const DocumentScore *of, bool per_token)
{
    size_t best = 0;
    double least = INFINITY;
    for (size_t i = 0; i < r->n_documents; i++) {
        double nll = of[r->first_document + i].nll / (per_token ? (double)r->question->choices[i].n_loss_tokens : 1);
        if (nll < least) {
            least = nll;
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
            top[0] = eval_choice(r, of, true) == r->question->answer;
            top[1] = eval_choice(r, of, false) == r->question->answer;
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
    Exact exact = {.model = e->candidate.model,
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
        err = exact_match(&exact, e->adapters[v], hits);
        for (size_t i = 0; i < file->n && !err; i++) e->scores[v][file->first + i].top[0] = hits[i];
    }
    free(hits);
    return err;
}

Err *eval_score(Eval *e)
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

/* ---- parts and their figures ---------------------------------------------------------------------------------- */

bool eval_is_in(const EvalPart *part, const EvalRecord *r)
{
    return r->file == part->file && (!part->domain || (r->domain && strcmp(r->domain, part->domain) == 0));
}

static Err *add_part(Eval *e, size_t file, const char *domain)
{
    EvalPart part = {.file = file, .domain = domain};
    for (size_t p = 0; p < e->n_parts; p++)
        if (e->parts[p].file == file && domain && e->parts[p].domain && strcmp(e->parts[p].domain, domain) == 0)
            return NULL;
    TRY(mem_grow(&e->parts, &e->parts_capacity, e->n_parts + 1, sizeof *e->parts));
    e->parts[e->n_parts++] = part;
    return NULL;
}

/* The part's records of one variant, side by side. */
static size_t pick(const Eval *e, const EvalPart *part, size_t v, double *bottom, RecordScore *picked)
{
    size_t n = 0;
    for (size_t i = 0; i < e->n_records; i++) {
        if (!eval_is_in(part, &e->records[i])) continue;
        bottom[n] = e->records[i].bottom;
        picked[n++] = e->scores[v][i];
    }
    return n;
}

static Err *sum_up_part(Eval *e, EvalPart *part, double *bottom, RecordScore *own, RecordScore *base)
{
    const EvalSettings *s = &e->settings;
    Draws draws = {(size_t)s->bootstrap, s->level, (uint64_t)s->sampling.seed};
    TRY(mem_new(&part->summaries, e->n_variants, sizeof *part->summaries));
    part->n = pick(e, part, 0, bottom, base);
    for (size_t v = 0; v < e->n_variants; v++) {
        pick(e, part, v, bottom, own);
        TRY(summarise(&part->summaries[v], e->files[part->file].kind, part->n, bottom, own, v ? base : NULL, &draws));
    }
    return NULL;
}

Err *eval_sum_up(Eval *e)
{
    double *bottom = NULL;
    RecordScore *own = NULL, *base = NULL;
    for (size_t f = 0; f < e->n_files; f++) {
        TRY(add_part(e, f, NULL));
        for (size_t i = e->files[f].first; i < e->files[f].first + e->files[f].n; i++)
            if (e->records[i].domain) TRY(add_part(e, f, e->records[i].domain));
    }
    Err *err = mem_new(&bottom, e->n_records, sizeof *bottom);
    if (!err) err = mem_new(&own, e->n_records, sizeof *own);
    if (!err) err = mem_new(&base, e->n_records, sizeof *base);
    for (size_t p = 0; p < e->n_parts && !err; p++) err = sum_up_part(e, &e->parts[p], bottom, own, base);
    free(bottom);
    free(own);
    free(base);
    return err;
}

void eval_close(Eval *e)
{
    for (size_t p = 0; p < e->n_parts; p++) free(e->parts[p].summaries);
    for (size_t v = 0; v < e->n_variants && e->scores; v++) free(e->scores[v]);
    for (size_t f = 0; e->files && f < e->settings.data.count; f++) {
        dataset_close(e->files[f].data);
        questions_close(e->files[f].questions);
    }
    scores_free(&e->evaluated);
    free(e->parts);
    free(e->scores);
    free((void *)(size_t)e->adapters);
    free(e->files);
    free(e->records);
    free((void *)(size_t)e->documents);
    free(e->gates);
    candidate_close(&e->candidate);
}
