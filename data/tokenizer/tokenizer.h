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
 * model BPE; decoder ByteLevel. Everything else the file may ask for is refused by its name. The post-processor is not
 * applied: no token is added to what the text says. */
#ifndef GRAFT_DATA_TOKENIZER_TOKENIZER_H
#define GRAFT_DATA_TOKENIZER_TOKENIZER_H

#include "data/tokenizer/bpe.h"
#include "data/text/text.h"

typedef struct Tokenizer Tokenizer;
typedef struct Encoder Encoder;

/* The file may be compressed with gzip. Fails: ERR_IO; ERR_FORMAT, naming the section. */
MUST_USE Err *tokenizer_open(Tokenizer **tokenizer, const char *path);
void tokenizer_close(Tokenizer *tokenizer);

MUST_USE Err *encoder_new(Encoder **encoder, const Tokenizer *tokenizer);
void encoder_free(Encoder *encoder);

/* Add the tokens of text to `out`. Added tokens in it, special ones too, are recognised. Each token's `end` is the
 * place in `text` where it ends; within a stretch that NFC changed it is near, and right at the stretch's end. Bytes
 * that are no UTF-8 are words of their own. Less than 4 GB.
 * Fails: ERR_DATA, when a pattern's limits are met; ERR_MEMORY. `out` then holds a part. */
MUST_USE Err *tokenizer_encode(Encoder *encoder, const char *text, size_t bytes, Tokens *out);

/* Add the text of n ids to `out`, broken UTF-8 as U+FFFD. Ids that nobody has are passed over. */
MUST_USE Err *tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, size_t n, bool skip_special, Text *out);

/* The same, id by id: what can be shown now is added to `out`; half a character waits for the next id.
 *     TokenStream stream = {.tokenizer = tokenizer, .skip_special = true};
 * All that is added, token_stream_end included, is what tokenizer_decode gives. */
typedef struct {
    const Tokenizer *tokenizer;
    bool skip_special;
    char pending[4];
    size_t n_pending;
} TokenStream;

MUST_USE Err *token_stream_put(TokenStream *stream, int32_t id, Text *out);
MUST_USE Err *token_stream_end(TokenStream *stream, Text *out);

size_t tokenizer_size(const Tokenizer *tokenizer);                      /* one more than the largest id */
int32_t tokenizer_id_of(const Tokenizer *tokenizer, const char *token); /* as the file spells it; -1: none */
const char *tokenizer_token(const Tokenizer *tokenizer, int32_t id);    /* the same way back; NULL: none */
bool tokenizer_is_added(const Tokenizer *tokenizer, int32_t id);   /* <think>, say: one whole, found before all else */
bool tokenizer_is_special(const Tokenizer *tokenizer, int32_t id); /* added, and left out where decoding skips those */

#endif
