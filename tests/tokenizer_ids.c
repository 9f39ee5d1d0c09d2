/* tokenizer_ids TOKENIZER_JSON: ids of every string that comes in, for comparison with other implementations.
 * In: a length (4 bytes, little-endian), then so many bytes; out: a number of ids, then the ids, 4 bytes each. */
#include "base/err.h"
#include "data/tokenizer/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>

static Err *answer(Encoder *encoder, const char *text, uint32_t bytes, Tokens *tokens)
{
    tokens->n = 0;
    TRY(tokenizer_encode(encoder, text, bytes, tokens));
    uint32_t n = (uint32_t)tokens->n;
    fwrite(&n, sizeof n, 1, stdout);
    for (size_t i = 0; i < tokens->n; i++) fwrite(&tokens->items[i].id, sizeof tokens->items[i].id, 1, stdout);
    return fflush(stdout) ? err_errno("write") : NULL;
}

static Err *serve(const char *path)
{
    Tokenizer *tokenizer = NULL;
    Encoder *encoder = NULL;
    Tokens tokens = {0};
    uint32_t bytes;
    Err *err = tokenizer_open(&tokenizer, path);
    if (!err) err = encoder_new(&encoder, tokenizer);
    while (!err && fread(&bytes, sizeof bytes, 1, stdin) == 1) {
        char *text = malloc(bytes + 1u);
        if (!text || fread(text, 1, bytes, stdin) != bytes)
            err = err_new(ERR_IO, "the input is cut short");
        else
            err = answer(encoder, text, bytes, &tokens);
        free(text);
    }
    tokens_free(&tokens);
    encoder_free(encoder);
    tokenizer_close(tokenizer);
    return err;
}

int main(int argc, char **argv)
{
    if (argc == 2) return err_report("tokenizer_ids", serve(argv[1]));
    fputs("usage: tokenizer_ids TOKENIZER_JSON\n", stderr);
    return 1;
}
