/* Read and check a tokenizer.json: everything that encoding and decoding need. What is not supported is refused by
 * name. */
#ifndef GRAFT_DATA_TOKENIZER_TOKENIZER_JSON_H
#define GRAFT_DATA_TOKENIZER_TOKENIZER_JSON_H

#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/regex.h"
#include "data/tokenizer/vocabulary.h"

typedef struct {
    Regex *regex;
    bool removes_matches, removes_gaps;
} Split;

enum { MAX_SPLITS = 16 };
enum { ADDED_NOT, ADDED_PLAIN, ADDED_SPECIAL };

typedef struct {
    Vocabulary vocabulary;
    AddedTokens plain, normalized; /* searched in the text itself; in its normalized form */
    uint8_t *added;                /* [n_added] by id */
    size_t n_added;
    Split splits[MAX_SPLITS];
    size_t n_splits;
    bool nfc, ignore_merges;
} TokenizerSpec;

/* Fails: ERR_FORMAT, naming the section; *spec then owns nothing. */
MUST_USE Err *tokenizer_json_read(TokenizerSpec *spec, JsonView file);
void tokenizer_json_free(TokenizerSpec *spec);

#endif
