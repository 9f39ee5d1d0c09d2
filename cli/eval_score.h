/* An evaluation at work: files become records, records get scores from the base and every adapter, and parts of them
 * are summed up.
 *
 *     eval_open(&eval);     // what settings ask for
 *     eval_score(&eval);    // one reading of the weights, and what is written
 *     eval_sum_up(&eval);   // every file and every domain of it */
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
    DataSettings how;
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
    double bottom; /* what its scores are divided by: scored tokens, 1, or samples */
    double scored;
} EvalRecord;

/* Records that are summed up together: a file, or a domain of it. */
typedef struct {
    size_t file;
    const char *domain; /* NULL: the whole file */
    size_t n;
    Summary *summaries; /* [n_variants] */
} EvalPart;

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
    size_t n_parts, parts_capacity;
    EvalPart *parts;
    size_t n_gates, n_struck;
    Gate *gates;
} Eval;

MUST_USE Err *eval_open(Eval *eval);
MUST_USE Err *eval_score(Eval *eval);
MUST_USE Err *eval_sum_up(Eval *eval);
void eval_close(Eval *eval); /* settings stay */

/* Which choice is likeliest: by its log-likelihood per token, or by the sum. */
size_t eval_choice(const EvalRecord *record, const DocumentScore *of, bool per_token);

bool eval_is_in(const EvalPart *part, const EvalRecord *record);

#endif
