/* Encode one word (a piece that pre-tokenization leaves) to ids by byte pair merges. Short words are cached. */
#ifndef GRAFT_DATA_TOKENIZER_BPE_H
#define GRAFT_DATA_TOKENIZER_BPE_H

#include "data/tokenizer/vocabulary.h"

typedef struct {
    int32_t id;
    uint32_t end; /* position in the text behind the token's bytes */
} Token;

typedef struct {
    Token *items;
    size_t n, capacity;
} Tokens;

MUST_USE Err *tokens_add(Tokens *tokens, int32_t id, size_t end);
void tokens_free(Tokens *tokens);

/* What one thread needs: the cache and the workspace of one word. */
typedef struct Bpe Bpe;

/* ignore_merges: a word that is an entry of the vocabulary becomes that entry, whatever its merges would give. */
MUST_USE Err *bpe_new(Bpe **bpe, const Vocabulary *vocabulary, bool ignore_merges);
void bpe_free(Bpe *bpe);

/* Add the tokens of a word of n > 0 bytes; its first byte is byte `begin` of the text. A byte that the vocabulary lacks
 * gives no token, as in Hugging Face's library. Time: n log n. */
MUST_USE Err *bpe_word(Bpe *bpe, const char *word, size_t n, size_t begin, Tokens *out);

#endif
