/* Any bytes as a tokenizer.json. A tokenizer that opens must encode and decode a fixed text. */
#include "data/tokenizer/tokenizer.h"
#include "tests/support/fuzz.h"

#include <stdlib.h>

static void use(const Tokenizer *tokenizer)
{
    static const char text[] = "ab <x>  abc\xC3\xA9 1234 <x>\n don't e\xCC\x81 \xE2\x82";
    Encoder *encoder = NULL;
    Tokens tokens = {0};
    Text back = {0};
    Err *err = encoder_new(&encoder, tokenizer);
    if (!err) err = tokenizer_encode(encoder, text, sizeof text - 1, &tokens);
    for (size_t i = 0; i < tokens.n; i++) {
        if (!tokenizer_token(tokenizer, tokens.items[i].id) || tokens.items[i].end > sizeof text) abort();
        err = err_first(err, tokenizer_decode(tokenizer, &tokens.items[i].id, 1, true, &back));
    }
    err_free(err);
    text_free(&back);
    tokens_free(&tokens);
    encoder_free(encoder);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    Tokenizer *tokenizer;
    Err *err = tokenizer_open(&tokenizer, fuzz_file(data, bytes));
    if (!err) {
        use(tokenizer);
        tokenizer_close(tokenizer);
    }
    err_free(err);
    return 0;
}

FUZZ_MAIN("tokenizer")
