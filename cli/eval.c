/* graft eval --model DIR --data FILE,... [--adapter PATH,...]: base and adapters side by side. */
#include "base/log.h"
#include "base/memory.h"
#include "cli/sampling.h"
#include "cli/verbs.h"
#include "data/questions.h"
#include "data/settings.h"
#include "infer/adapters.h"
#include "infer/evaluate.h"
#include "infer/exact.h"
#include "infer/summary.h"
#include "tensor/matmul.h"
#include "train/budget.h"

#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GATE_FAILED = 10 }; /* exit code: apart from those of errors */

typedef struct {
    bool help, json, routing;
    char *model, *records, *extract, *compute, *memory_limit;
    DataSettings how;
    TextList data, adapter, fail_if;
    int64_t group_tokens, hidden_mib, bootstrap, samples, at_once;
    double level;
    SamplingSettings sampling;
} EvalSettings;

#define AT(field) offsetof(EvalSettings, field)

static const Option eval_table[] = {
    {"model", OPT_TEXT, AT(model), .help = "a Hugging Face directory"},
    {"data", OPT_LIST, AT(data), .help = "JSON Lines: messages, or question with answer (and choices); several files with commas"},
    {"adapter", OPT_LIST, AT(adapter), .help = "PEFT directories or runs, with commas; none: the base alone"},
    {.help = "Data"},
    DATA_OPTIONS(AT(how)),
    {.help = "Reading"},
    {"group_tokens", OPT_INT, AT(group_tokens), .preset = "8192", .min = 0, .max = 1e9, .help = "tokens run through a layer together; never changes a bit"},
    {"hidden_mib", OPT_INT, AT(hidden_mib), .preset = "4096", .min = 0, .max = 1e9, .help = "for hidden states of all documents and adapters; beyond it the weights are read again; 0: no limit"},
    {"compute", OPT_TEXT, AT(compute), .preset = "auto", .choices = MATMUL_CHOICES, .help = "arithmetic of the frozen products"},
    {"memory_limit", OPT_TEXT, AT(memory_limit), .help = "for everything: 8GiB; what is free less a tenth when not given. Never changes a bit"},
    {.help = "Figures"},
    {"bootstrap", OPT_INT, AT(bootstrap), .preset = "2000", .min = 0, .max = 1e7, .help = "draws of records for the intervals of differences"},
    {"level", OPT_NUMBER, AT(level), .preset = "0.95", .min = 0.01, .max = 0.9999, .help = "of those intervals"},
    {"routing", OPT_FLAG, AT(routing), .help = "routing of every layer in the table; --json always has it"},
    {"records", OPT_TEXT, AT(records), .help = "a file for one line of JSON per record and adapter"},
    {"json", OPT_FLAG, AT(json), .help = "one JSON object instead of a table"},
    {"fail-if", OPT_LIST, AT(fail_if), .help = "'loss > base', 'kl > 0.5', 'accuracy < base - 0.01': exit with 10 when it holds for an adapter on a file"},
    {.help = "Answers that are written (records with answer and no choices)"},
    {"extract", OPT_TEXT, AT(extract), .preset = "(?<=#### )-?[0-9][0-9.,]*", .help = "regular expression of the answer in a text; its last match counts"},
    {"samples", OPT_INT, AT(samples), .preset = "1", .min = 1, .max = 1e6, .help = "texts per question"},
    {"at_once", OPT_INT, AT(at_once), .preset = "32", .min = 1, .max = 1e6, .help = "texts that are written together; never changes one"},
    SAMPLING_OPTIONS(EvalSettings, sampling),
    {"help", OPT_FLAG, AT(help), .help = "this list"},
    {0}};

/* One file: documents with a loss, or questions. */
typedef struct {
    const char *path;
    RecordKind kind;
    Dataset *data;
    Questions *questions;
    size_t first, n; /* records */
} File;

typedef struct {
    size_t file, line;
    const char *domain;             /* NULL: none */
    const Question *question;       /* NULL: a document with a loss */
    size_t first_document, n_documents;
    double bottom;                  /* what its scores are divided by: scored tokens, 1, or samples */
    double scored;
} Scored;

/* Records that are summed up together: a file, or a domain of it. */
typedef struct {
    size_t file;
    const char *domain; /* NULL: the whole file */
    size_t n;
    Summary *summaries; /* [n_variants] */
} Part;

typedef struct {
    EvalSettings settings;
    Model *model;
    Tokenizer *tokenizer;
    size_t n_variants;          /* the base and the adapters */
    const Adapter **adapters;   /* [n_variants] first NULL */
    size_t n_files;
    File *files;
    size_t n_records, records_capacity, n_documents, documents_capacity;
    Scored *records;
    const Document **documents;
    RecordScore **scores;       /* [n_variants] of [n_records] */
    Scores evaluated;
    size_t n_parts, parts_capacity;
    Part *parts;
    size_t n_gates, n_struck;
    Gate *gates;
} Eval;

static const char *name_of(const Eval *e, size_t v) { return v ? e->settings.adapter.items[v - 1] : "base"; }

/* ---- what is asked -------------------------------------------------------------------------------------------- */

static Err *add_document(Eval *e, const Document *document)
{
    TRY(mem_grow(&e->documents, &e->documents_capacity, e->n_documents + 1, sizeof *e->documents));
    e->documents[e->n_documents++] = document;
    return NULL;
}

static Err *add_record(Eval *e, Scored record, size_t n, const Document *documents)
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
    File *file = &e->files[f];
    size_t n = questions_count(file->questions);
    file->kind = questions_get(file->questions, 0)->n_choices ? RECORD_CHOICE : RECORD_WRITTEN;
    for (size_t i = 0; i < n; i++) {
        const Question *q = questions_get(file->questions, i);
        if ((q->n_choices > 0) != (file->kind == RECORD_CHOICE))
            return err_new(ERR_DATA, "%s: line %zu: a file asks with choices in every record, or in none", file->path, q->record);
        double bottom = q->n_choices ? 1 : (double)e->settings.samples;
        TRY(add_record(e, (Scored){.file = f, .line = q->record, .domain = q->domain, .question = q, .bottom = bottom}, q->n_choices, q->choices));
    }
    return NULL;
}

static Err *add_documents(Eval *e, size_t f)
{
    File *file = &e->files[f];
    for (size_t i = 0; i < dataset_count(file->data); i++) {
        const Document *d = dataset_document(file->data, i);
        const char *domain = d->domain ? dataset_domain(file->data, d->domain) : NULL;
        TRY(add_record(e, (Scored){.file = f, .line = d->record, .domain = domain, .bottom = (double)d->n_scored, .scored = (double)d->n_scored}, 1, d));
    }
    return NULL;
}

static Err *open_file(Eval *e, size_t f, const DocumentOptions *options)
{
    File *file = &e->files[f];
    bool asks;
    file->path = e->settings.data.items[f];
    file->first = e->n_records;
    TRY(questions_recognise(&asks, file->path));
    if (asks) {
        ChatOptions asking = options->chat;
        asking.end_of_text = true;
        asking.enable_thinking = e->settings.sampling.thinking ? CHAT_YES : CHAT_NO;
        TRY(questions_open(&file->questions, file->path, e->tokenizer, &asking, options->max_length));
        TRY(add_questions(e, f));
    } else {
        TRY(dataset_open_file(&file->data, e->tokenizer, file->path, options));
        TRY(add_documents(e, f));
    }
    file->n = e->n_records - file->first;
    return NULL;
}

static Err *fit_memory(Eval *e)
{
    EvalSettings *s = &e->settings;
    size_t longest = 1, tokens = 0, group;
    Budget budget;
    for (size_t i = 0; i < e->n_documents; i++) {
        longest = e->documents[i]->n > longest ? e->documents[i]->n : longest;
        tokens += e->documents[i]->n;
    }
    group = s->group_tokens && (size_t)s->group_tokens < tokens ? (size_t)s->group_tokens : tokens;
    size_t hidden = e->n_variants * tokens * (size_t)e->model->config.hidden_size * sizeof(float), most = (size_t)s->hidden_mib << 20;
    Work work = {.ranks = 1, .local_ranks = 1, .threads = (size_t)omp_get_max_threads(), .step_tokens = group > longest ? group : longest, .longest = longest,
                 .micro_batch_tokens = 1, .group_tokens = (size_t)s->group_tokens, .data_bytes = 8 * tokens + (most && most < hidden ? most : hidden)};
    TRY(budget_apply(&budget, e->model, NULL, &work, s->memory_limit));
    s->group_tokens = (int64_t)budget.group_tokens;
    return NULL;
}

static Err *open_parts(Eval *e)
{
    const EvalSettings *s = &e->settings;
    char path[PATH_BYTES];
    DocumentOptions options;
    if (!s->model || !s->data.count) return err_new(ERR_USAGE, "--%s is missing", s->model ? "data" : "model");
    e->n_variants = s->adapter.count + 1;
    TRY(mem_new(&e->gates, s->fail_if.count, sizeof *e->gates));
    for (; e->n_gates < s->fail_if.count; e->n_gates++) TRY(gate_read(&e->gates[e->n_gates], s->fail_if.items[e->n_gates]));
    if (!matmul_init(s->compute)) return err_new(ERR_USAGE, "compute %s: this CPU cannot do that", s->compute);
    TRY(model_open(&e->model, s->model));
    TRY(file_join(path, s->model, "tokenizer.json"));
    TRY(tokenizer_open(&e->tokenizer, path));
    TRY(data_settings_read(&options, &s->how, s->model));
    TRY(mem_new(&e->files, s->data.count, sizeof *e->files));
    for (; e->n_files < s->data.count; e->n_files++) TRY(open_file(e, e->n_files, &options));
    TRY(fit_memory(e));
    TRY(mem_new(&e->adapters, e->n_variants, sizeof *e->adapters));
    for (size_t v = 1; v < e->n_variants; v++) TRY(adapter_open((Adapter **)(size_t)&e->adapters[v], e->model, s->adapter.items[v - 1]));
    return NULL;
}

/* ---- scores --------------------------------------------------------------------------------------------------- */

/* Which choice is likeliest: by its log-likelihood per token, or by the sum. */
static size_t choose(const Scored *r, const DocumentScore *of, bool per_token)
{
    size_t best = 0;
    double least = INFINITY;
    for (size_t i = 0; i < r->n_documents; i++) {
        double nll = of[r->first_document + i].nll / (per_token ? (double)r->question->choices[i].n_scored : 1);
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
        const Scored *r = &e->records[i];
        double *top = e->scores[v][i].top;
        if (r->question && r->n_documents) {
            top[0] = choose(r, of, true) == r->question->answer;
            top[1] = choose(r, of, false) == r->question->answer;
        } else if (!r->question) {
            const DocumentScore *d = &of[r->first_document];
            memcpy(top, (double[]){d->nll, d->right, d->kl, d->kl_back}, RECORD_METRICS * sizeof *top);
        }
    }
}

static Err *write_answers(Eval *e, size_t f)
{
    const EvalSettings *s = &e->settings;
    const File *file = &e->files[f];
    Exact exact = {.model = e->model, .tokenizer = e->tokenizer, .questions = file->questions, .extract = s->extract, .samples = (size_t)s->samples,
                   .at_once = (size_t)s->at_once, .group_tokens = (size_t)s->group_tokens, .max_new_tokens = (size_t)s->sampling.max_new_tokens,
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

static Err *score(Eval *e)
{
    const EvalSettings *s = &e->settings;
    EvaluateConfig config = {.group_tokens = (size_t)s->group_tokens, .hidden_bytes = (size_t)s->hidden_mib << 20};
    TRY(mem_new(&e->scores, e->n_variants, sizeof *e->scores));
    for (size_t v = 0; v < e->n_variants; v++) TRY(mem_new(&e->scores[v], e->n_records, sizeof **e->scores));
    if (e->n_documents) {
        TRY(evaluate(&e->evaluated, e->model, e->n_variants, e->adapters, e->n_documents, e->documents, &config));
        for (size_t v = 0; v < e->n_variants; v++) take_scores(e, v);
    }
    for (size_t f = 0; f < e->n_files; f++)
        if (e->files[f].kind == RECORD_WRITTEN) TRY(err_wrap(write_answers(e, f), "%s", e->files[f].path));
    return NULL;
}

/* ---- parts and their figures ---------------------------------------------------------------------------------- */

static bool is_in(const Part *part, const Scored *r)
{
    return r->file == part->file && (!part->domain || (r->domain && strcmp(r->domain, part->domain) == 0));
}

static Err *add_part(Eval *e, size_t file, const char *domain)
{
    Part part = {.file = file, .domain = domain};
    for (size_t p = 0; p < e->n_parts; p++)
        if (e->parts[p].file == file && domain && e->parts[p].domain && strcmp(e->parts[p].domain, domain) == 0) return NULL;
    TRY(mem_grow(&e->parts, &e->parts_capacity, e->n_parts + 1, sizeof *e->parts));
    e->parts[e->n_parts++] = part;
    return NULL;
}

/* The part's records of one variant, side by side. */
static size_t pick(const Eval *e, const Part *part, size_t v, double *bottom, RecordScore *picked)
{
    size_t n = 0;
    for (size_t i = 0; i < e->n_records; i++) {
        if (!is_in(part, &e->records[i])) continue;
        bottom[n] = e->records[i].bottom;
        picked[n++] = e->scores[v][i];
    }
    return n;
}

static Err *sum_up_part(Eval *e, Part *part, double *bottom, RecordScore *own, RecordScore *base)
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

static Err *sum_up(Eval *e)
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

/* ---- for people ----------------------------------------------------------------------------------------------- */

static bool is_share(const char *metric) { return strstr(metric, "accuracy") || strstr(metric, "match"); }

static void print_metric(const Metric *m)
{
    double by = is_share(m->name) ? 100 : 1;
    const char *unit = is_share(m->name) ? "%" : "";
    char text[96];
    if (m->compared && strncmp(m->name, "kl", 2) != 0)
        snprintf(text, sizeof text, "%.*f%s (%+.*f: %+.*f to %+.*f)", by == 100 ? 1 : 4, by * m->value, unit, by == 100 ? 1 : 4, by * m->difference.value,
                 by == 100 ? 1 : 4, by * m->difference.low, by == 100 ? 1 : 4, by * m->difference.high);
    else
        snprintf(text, sizeof text, "%.*f%s", by == 100 ? 1 : 4, by * m->value, unit);
    printf("    %-15s %s\n", m->name, text);
}

static void print_part(const Eval *e, const Part *part)
{
    const File *file = &e->files[part->file];
    double bottom = 0;
    for (size_t i = 0; i < e->n_records; i++) bottom += is_in(part, &e->records[i]) ? e->records[i].bottom : 0;
    printf("%s%s%s: %zu records", file->path, part->domain ? ", " : "", part->domain ? part->domain : "", part->n);
    if (file->kind == RECORD_LOSS) printf(", %.0f scored tokens", bottom);
    printf("\n");
    for (size_t v = 0; v < e->n_variants; v++) {
        printf("  %s\n", name_of(e, v));
        for (size_t m = 0; m < part->summaries[v].n; m++) print_metric(&part->summaries[v].metrics[m]);
    }
}

static void print_routing(const Eval *e)
{
    printf("routing: share of tokens whose experts changed; entropy of the load (1: even); busiest expert over the mean\n");
    for (size_t v = 0; v < e->n_variants; v++)
        for (size_t l = 0; l < e->evaluated.n_layers; l++) {
            if (e->model->layers[l].dense) continue;
            RoutingShift shift = scores_routing(&e->evaluated, v, l);
            if (e->settings.routing) printf("  layer %-3zu %6.1f%%  %6.3f  %6.2f  %s\n", l, 100 * shift.changed, shift.entropy, shift.max_over_mean, name_of(e, v));
        }
    for (size_t v = 1; v < e->n_variants && !e->settings.routing; v++) {
        double sum = 0, most = 0, n = 0;
        for (size_t l = 0; l < e->evaluated.n_layers; l++) {
            if (e->model->layers[l].dense) continue;
            double changed = scores_routing(&e->evaluated, v, l).changed;
            sum += changed;
            most = fmax(most, changed);
            n++;
        }
        printf("  %5.1f%% on average, %.1f%% in the layer that moved most  %s\n", 100 * sum / n, 100 * most, name_of(e, v));
    }
}

static void print_table(const Eval *e)
{
    for (size_t p = 0; p < e->n_parts; p++) print_part(e, &e->parts[p]);
    if (e->n_documents && e->model->router.E && (e->n_variants > 1 || e->settings.routing)) print_routing(e);
    if (e->n_variants > 1) printf("in brackets: the difference to the base and its %.0f %% interval (%zu bootstrap draws of records)\n", 100 * e->settings.level, (size_t)e->settings.bootstrap);
    if (e->evaluated.readings > 1) printf("the weights were read %zu times; more --hidden_mib would read them once\n", e->evaluated.readings);
}

/* ---- for programs --------------------------------------------------------------------------------------------- */

static Json *json_of_summary(const char *name, const Summary *summary)
{
    Json *row = json_new_object();
    json_add_string(row, "name", name);
    for (size_t i = 0; i < summary->n; i++) {
        const Metric *m = &summary->metrics[i];
        char key[48];
        json_add_number(row, m->name, m->value);
        if (!m->compared || strncmp(m->name, "kl", 2) == 0) continue;
        Json *difference = json_new_object();
        json_add_number(difference, "value", m->difference.value);
        json_add_number(difference, "low", m->difference.low);
        json_add_number(difference, "high", m->difference.high);
        snprintf(key, sizeof key, "%s_difference", m->name);
        json_add(row, key, difference);
    }
    return row;
}

static Json *json_of_part(const Eval *e, const Part *part)
{
    Json *object = json_new_object(), *results = json_new_array();
    double bottom = 0;
    for (size_t i = 0; i < e->n_records; i++) bottom += is_in(part, &e->records[i]) ? e->records[i].scored : 0;
    json_add_string(object, "file", e->files[part->file].path);
    if (part->domain) json_add_string(object, "domain", part->domain);
    json_add_string(object, "kind", record_kind_name(e->files[part->file].kind));
    json_add_number(object, "records", (double)part->n);
    if (bottom > 0) json_add_number(object, "scored", bottom);
    for (size_t v = 0; v < e->n_variants; v++) json_add(results, NULL, json_of_summary(name_of(e, v), &part->summaries[v]));
    json_add(object, "results", results);
    return object;
}

static Json *json_of_routing(const Eval *e, size_t v)
{
    Json *object = json_new_object(), *layers = json_new_array();
    json_add_string(object, "name", name_of(e, v));
    for (size_t l = 0; l < e->evaluated.n_layers; l++) {
        if (e->model->layers[l].dense) continue;
        RoutingShift shift = scores_routing(&e->evaluated, v, l);
        Json *layer = json_new_object();
        json_add_number(layer, "layer", (double)l);
        json_add_number(layer, "changed", shift.changed);
        json_add_number(layer, "entropy", shift.entropy);
        json_add_number(layer, "max_over_mean", shift.max_over_mean);
        json_add(layers, NULL, layer);
    }
    json_add(object, "layers", layers);
    return object;
}

static Err *print_json(const Eval *e)
{
    Json *object = json_new_object(), *parts = json_new_array(), *routing = json_new_array();
    char *text;
    json_add_string(object, "model", e->settings.model);
    json_add_number(object, "readings", (double)e->evaluated.readings);
    for (size_t p = 0; p < e->n_parts; p++) json_add(parts, NULL, json_of_part(e, &e->parts[p]));
    json_add(object, "parts", parts);
    for (size_t v = 0; v < e->n_variants && e->n_documents; v++) json_add(routing, NULL, json_of_routing(e, v));
    json_add(object, "routing", routing);
    Err *err = json_print(object, true, &text);
    json_free(object);
    if (err) return err;
    puts(text);
    free(text);
    return NULL;
}

/* One line: {"file", "line", "name", and every metric of this record alone}. */
static Err *write_record(const Eval *e, FILE *stream, size_t i, size_t v)
{
    const Scored *r = &e->records[i];
    RecordKind kind = e->files[r->file].kind;
    Json *line = json_new_object();
    char *text;
    json_add_string(line, "file", e->files[r->file].path);
    json_add_number(line, "line", (double)r->line);
    if (r->domain) json_add_string(line, "domain", r->domain);
    json_add_string(line, "name", name_of(e, v));
    if (r->scored > 0) json_add_number(line, "scored", r->scored);
    for (size_t m = 0; record_metric(kind, m); m++)
        if (v || strncmp(record_metric(kind, m), "kl", 2) != 0) json_add_number(line, record_metric(kind, m), e->scores[v][i].top[m] / r->bottom);
    if (kind == RECORD_CHOICE) json_add_number(line, "choice", (double)choose(r, e->evaluated.variants[v].documents, true));
    Err *err = json_print(line, false, &text);
    json_free(line);
    if (err) return err;
    fprintf(stream, "%s\n", text);
    free(text);
    return NULL;
}

static Err *write_records(const Eval *e)
{
    const char *path = e->settings.records;
    if (!path) return NULL;
    FILE *stream = fopen(path, "w");
    if (!stream) return err_errno("open %s", path);
    Err *err = NULL;
    for (size_t i = 0; i < e->n_records && !err; i++)
        for (size_t v = 0; v < e->n_variants && !err; v++) err = write_record(e, stream, i, v);
    return err_first(err, file_close(&stream, path));
}

/* ---- gates ---------------------------------------------------------------------------------------------------- */

/* Every gate against every adapter on every whole file (against the base, when it stands alone). */
static void check_gates(Eval *e)
{
    for (size_t g = 0; g < e->n_gates; g++)
        for (size_t p = 0; p < e->n_parts; p++)
            for (size_t v = e->n_variants > 1; v < e->n_variants && !e->parts[p].domain; v++) {
                const Part *part = &e->parts[p];
                if (!gate_strikes(&e->gates[g], &part->summaries[v], &part->summaries[0])) continue;
                log_line("graft eval: %s holds for %s on %s", e->settings.fail_if.items[g], name_of(e, v), e->files[part->file].path);
                e->n_struck++;
            }
}

static Err *eval(Eval *e, int argc, char **argv)
{
    TRY(sampling_arguments(&e->settings, eval_table, argc, argv, AT(model)));
    if (e->settings.help) {
        printf("graft eval --model DIR --data FILE,... [--adapter DIR,DIR,...]\n");
        options_help(stdout, eval_table);
        return NULL;
    }
    TRY(open_parts(e));
    TRY(score(e));
    TRY(sum_up(e));
    TRY(write_records(e));
    if (e->settings.json) TRY(print_json(e));
    else print_table(e);
    check_gates(e);
    return NULL;
}

static void close_all(Eval *e)
{
    for (size_t p = 0; p < e->n_parts; p++) free(e->parts[p].summaries);
    for (size_t v = 0; v < e->n_variants; v++) {
        if (e->scores) free(e->scores[v]);
        if (e->adapters) adapter_free((Adapter *)(size_t)e->adapters[v]);
    }
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
    tokenizer_close(e->tokenizer);
    model_close(e->model);
    options_free(&e->settings, eval_table);
}

int verb_eval(int argc, char **argv)
{
    Eval e = {0};
    int code = err_report("eval", eval(&e, argc, argv));
    if (!code && e.n_struck) code = GATE_FAILED;
    close_all(&e);
    return code;
}
