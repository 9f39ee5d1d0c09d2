/* A Hugging Face tokenizer.json with byte-level BPE: text -> ids -> text, the same ids as the `tokenizers` library.
 *
 *     Tokenizer *tokenizer;
 *     Encoder *encoder;                                   // one per thread; the Tokenizer itself is read-only
 *     Tokens tokens = {0};
 *     TRY(tokenizer_open(&tokenizer, "model/tokenizer.json"));
 *     TRY(encoder_new(&encoder, tokenizer));
 *     TRY(tokenizer_encode(encoder, text, bytes, &tokens));
 *
 * Supported: normalizer none or NFC; pre-tokenizer a sequence of Splits (Isolated, Removed) that ends with ByteLevel;
 * model BPE; decoder ByteLevel. Everything else that the file may ask for is refused by name. The post-processor is not
 * applied: no tokens are added to those of the text. */
#ifndef GRAFT_DATA_TOKENIZER_TOKENIZER_H
#define GRAFT_DATA_TOKENIZER_TOKENIZER_H

#include "data/tokenizer/bpe.h"
#include "data/text/text.h"

typedef struct Tokenizer Tokenizer;
typedef struct Encoder Encoder;

/* The file may be compressed (data/text/inflate.h). Fails: ERR_IO; ERR_FORMAT, naming the section. */
MUST_USE Err *tokenizer_open(Tokenizer **tokenizer, const char *path);
void tokenizer_close(Tokenizer *tokenizer);

MUST_USE Err *encoder_new(Encoder **encoder, const Tokenizer *tokenizer);
void encoder_free(Encoder *encoder);

/* Add the tokens of text (less than 4 GB) to `out`. Added tokens in it, also special ones, are recognised. Each token's
 * `end` is the position in `text` where it ends; inside a piece that NFC has changed it is approximate, and exact at
 * the end of the piece. Bytes that are not UTF-8 are words of their own.
 * Fails: ERR_DATA, when a pattern exceeds PCRE2's limits; ERR_MEMORY. `out` then holds a part of the tokens. */
MUST_USE Err *tokenizer_encode(Encoder *encoder, const char *text, size_t bytes, Tokens *out);

/* Add the text of n ids to `out`, broken UTF-8 as U+FFFD. Unknown ids are skipped. */
MUST_USE Err *tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, size_t n, bool skip_special, Text *out);

/* The same, id by id: complete characters are added to `out`; an incomplete one waits for the next id.
 *     TokenStream stream = {.tokenizer = tokenizer, .skip_special = true};
 * All additions together, with those of token_stream_end, equal the result of tokenizer_decode. */
typedef struct {
    const Tokenizer *tokenizer;
    bool skip_special;
    char pending[4];
    size_t n_pending;
} TokenStream;

MUST_USE Err *token_stream_put(TokenStream *stream, int32_t id, Text *out);
MUST_USE Err *token_stream_end(TokenStream *stream, Text *out);

/* Fails: ERR_FORMAT, when the tokenizer of this file has ids beyond a model's vocabulary. */
MUST_USE Err *tokenizer_check_size(const Tokenizer *tokenizer, const char *path, size_t vocab_size);

size_t tokenizer_size(const Tokenizer *tokenizer);                      /* the largest id plus one */
int32_t tokenizer_id_of(const Tokenizer *tokenizer, const char *token); /* spelled as in the file; -1: none */
const char *tokenizer_token(const Tokenizer *tokenizer, int32_t id);    /* its spelling in the file; NULL: none */
bool tokenizer_is_added(const Tokenizer *tokenizer, int32_t id);        /* such as <think>: matched first and whole */
bool tokenizer_is_special(const Tokenizer *tokenizer, int32_t id);      /* added, and left out with skip_special */

#endif
