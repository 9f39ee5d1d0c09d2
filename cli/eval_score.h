/* An evaluation: files become records, records get scores from the base and every adapter, and subsets of the records
 * are summed up. A variant is the base (0) or an adapter (1, 2, ...).
 *
 *     eval_score_open(&eval);     // open model, files and adapters
 *     eval_score_run(&eval);      // score every record: read the weights once, generate answers
 *     eval_score_sum_up(&eval);   // sum up every file and every domain of it */
#ifndef GRAFT_CLI_EVAL_SCORE_H
#define GRAFT_CLI_EVAL_SCORE_H

#include "cli/sampling.h"
#include "cli/candidate.h"
#include "data/records/questions.h"
#include "data/records/settings.h"
#include "infer/evaluate.h"
#include "infer/summary.h"

typedef struct {
    bool help, json, routing;
    CandidateSettings candidate;
    char *records, *extract;
    DataSettings data_settings;
    TextList data, fail_if;
    int64_t group_tokens, hidden_mib, bootstrap, samples, at_once;
    double level;
    SamplingSettings sampling;
} EvalSettings;

/* One file: documents with a loss, or questions. */
typedef struct {
    const char *path;
    RecordKind kind;
    Dataset *data;
    Questions *questions;
    size_t first, n; /* records */
} EvalFile;

typedef struct {
    size_t file, line;
    const char *domain;       /* NULL: none */
    const Question *question; /* NULL: a document with a loss */
    size_t first_document, n_documents;
    double denominator; /* divides the scores: tokens in the loss, 1, or samples */
    double n_loss_tokens;
} EvalRecord;

/* Records that are summed up together: a file, or one of its domains. */
typedef struct {
    size_t file;
    const char *domain; /* NULL: the whole file */
    size_t n;
    Summary *summaries; /* [n_variants] */
} EvalSubset;

typedef struct {
    EvalSettings settings;
    Candidate candidate;
    size_t n_variants;        /* the base and the adapters */
    const Adapter **adapters; /* [n_variants] first NULL */
    size_t n_files;
    EvalFile *files;
    size_t n_records, records_capacity, n_documents, documents_capacity;
    EvalRecord *records;
    const Document **documents;
    RecordScore **scores; /* [n_variants] of [n_records] */
    Scores evaluated;
    size_t n_subsets, subsets_capacity;
    EvalSubset *subsets;
    size_t n_fail_conditions, n_failed;
    FailCondition *fail_conditions;
} Eval;

MUST_USE Err *eval_score_open(Eval *eval);
MUST_USE Err *eval_score_run(Eval *eval);
MUST_USE Err *eval_score_sum_up(Eval *eval);
void eval_score_close(Eval *eval); /* does not free the settings */

/* The choice with the largest log-likelihood: per token, or as a sum. */
size_t eval_score_choice(const EvalRecord *record, const DocumentScore *of, bool per_token);

bool eval_score_is_in(const EvalSubset *subset, const EvalRecord *record);

#endif
