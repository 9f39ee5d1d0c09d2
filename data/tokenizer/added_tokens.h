/* Added tokens: strings that are searched in a text before it is normalized or split. The leftmost match counts, and of
 * several matches at one position the longest. */
#ifndef GRAFT_DATA_TOKENIZER_ADDED_TOKENS_H
#define GRAFT_DATA_TOKENIZER_ADDED_TOKENS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    int32_t id;
    bool special;        /* left out of decoded text on request */
    bool single_word;    /* matches only where no word character is beside it */
    bool lstrip, rstrip; /* the match includes the white space on that side */
} AddedToken;

/* A set of added tokens: a trie over bytes. A zeroed struct is an empty set. */
typedef struct {
    AddedToken *tokens;
    struct AddedNode *nodes;
    size_t n_tokens, token_capacity, n_nodes, node_capacity;
    uint32_t first[256]; /* the node of each first byte; 0: none */
} AddedTokens;

/* Add a token. Of two tokens with the same text the first one counts. */
MUST_USE Err *added_tokens_put(AddedTokens *set, AddedToken token, const char *text, size_t n);
void added_tokens_free(AddedTokens *set);

/* Find the next added token in text[*from .. n); NULL when there is none. *begin, *end: the bytes it covers, with the
 * white space that it includes. *from starts as 0 and is then the position where the search continues; *begin and *end
 * of one call must be unchanged at the next. */
const AddedToken *added_tokens_next(const AddedTokens *set, const char *text, size_t n, size_t *from, size_t *begin,
                                    size_t *end);

#endif
