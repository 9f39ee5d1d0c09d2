/* ExactMatch match: the model generates an answer to every question, a regular expression finds the final result in it,
 * and the result equals the expected one or not. */
#ifndef GRAFT_INFER_EXACT_MATCH_H
#define GRAFT_INFER_EXACT_MATCH_H

#include "data/tokenizer/regex.h"
#include "data/records/questions.h"
#include "infer/generate.h"

typedef struct {
    Model *model;
    const Tokenizer *tokenizer;
    const Questions *questions;
    const char *extract; /* the last of its matches in a generated text is the answer */
    size_t samples, max_new_tokens, at_once, group_tokens;
    Sampling sampling; /* every sequence has its own seed, made of (seed, question, sample) */
} ExactMatch;

/* hits [questions] out: how many of a question's samples are right. adapter NULL: the base. */
MUST_USE Err *exact_match_run(const ExactMatch *exact, const Adapter *adapter, double *hits);

/* Find the answer in a text. Only what follows `</think>` is searched; blanks, thousands' commas and a final point are
 * dropped. *found becomes empty when there is no match. */
MUST_USE Err *exact_match_extract(const Regex *pattern, RegexMatcher *matcher, const char *text, size_t bytes,
                                  Text *found);

#endif
