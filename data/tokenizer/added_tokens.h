/* Added tokens: texts that are found before anything else looks at the text, leftmost first, longest first. */
#ifndef GRAFT_DATA_TOKENIZER_ADDED_TOKENS_H
#define GRAFT_DATA_TOKENIZER_ADDED_TOKENS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    int32_t id;
    bool special;        /* left out when decoding asks for it */
    bool single_word;    /* only where no letter stands beside it */
    bool lstrip, rstrip; /* takes the white space on that side with it */
} AddedToken;

/* A set of them as a trie over bytes. Zeroed, it is empty and valid. */
typedef struct {
    AddedToken *tokens;
    struct AddedNode *nodes;
    size_t n_tokens, token_capacity, n_nodes, node_capacity;
    uint32_t first[256]; /* the node of each first byte; 0: none */
} AddedTokens;

/* Of two with the same text the first one counts. */
MUST_USE Err *added_tokens_put(AddedTokens *set, AddedToken token, const char *text, size_t n);
void added_tokens_free(AddedTokens *set);

/* The next one in text[*from .. n): its span in *begin, *end, white space taken along included; NULL when there is no
 * more. *from is where the search goes on; it starts as 0, and *begin .. *end of one call are given to the next. */
const AddedToken *added_tokens_next(const AddedTokens *set, const char *text, size_t n, size_t *from, size_t *begin,
                                    size_t *end);

#endif
