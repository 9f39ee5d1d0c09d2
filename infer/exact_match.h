/* Exact match: the model writes, a regular expression finds the answer in what it wrote, and it is right or wrong. */
#ifndef GRAFT_INFER_EXACT_MATCH_H
#define GRAFT_INFER_EXACT_MATCH_H

#include "data/tokenizer/regex.h"
#include "data/records/questions.h"
#include "infer/generate.h"

typedef struct {
    Model *model;
    const Tokenizer *tokenizer;
    const Questions *questions;
    const char *extract; /* of its matches in a text the last one is the answer */
    size_t samples, max_new_tokens, at_once, group_tokens;
    Sampling sampling; /* every text has a seed of its own, by (seed, question, sample) */
} Exact;

/* hits [questions] out: how many of a question's samples are right. adapter NULL: the base. */
MUST_USE Err *exact_match(const Exact *exact, const Adapter *adapter, double *hits);

/* The answer in a text: what follows `</think>` is searched; blanks, thousands' commas and a last point are dropped.
 * found is emptied first, and stays so when there is no match. */
MUST_USE Err *exact_extract(const Regex *pattern, RegexMatcher *matcher, const char *text, size_t bytes, Text *found);

#endif
