/* Any bytes as lines of records; the first byte chooses the options. What is accepted must train something, and every
 * target must be the token that follows. */
#include "data/records/document.h"
#include "tests/support/fuzz.h"

#include <stdlib.h>
#include <string.h>

static Tokenizer *tokenizer;           /* opened once, for all inputs */
static DocumentBuilder *builders[256]; /* one for each value of the first byte */

static void close_all(void)
{
    for (size_t i = 0; i < 256; i++) document_builder_free(builders[i]);
    tokenizer_close(tokenizer);
}

static DocumentBuilder *builder_of(uint8_t how)
{
    DocumentOptions options = {.chat = {.template = how % CHAT_TEMPLATES,
                                        .clear_thinking = how & 8 ? CHAT_NO : CHAT_UNSET,
                                        .enable_thinking = how & 16 ? CHAT_NO : CHAT_UNSET,
                                        .train_on_reasoning = how & 16 ? CHAT_NO : CHAT_UNSET,
                                        .train_on = how >> 5 & 3 ? CHAT_TRAIN_LAST + (how >> 5 & 1)
                                                                 : CHAT_TRAIN_ASSISTANT},
                               .truncation = how & 128 ? TRUNCATE_LEFT : TRUNCATE_RIGHT,
                               .plain_prompts = how & 4,
                               .max_length = 64};
    if (!tokenizer) {
        if (tokenizer_open(&tokenizer, "examples/tiny-glm5/tokenizer.json")) abort();
        atexit(close_all);
    }
    if (!builders[how] && document_builder_new(&builders[how], tokenizer, &options)) abort();
    return builders[how];
}

static void check(const BuiltDocument *built)
{
    const Document *document = &built->document;
    size_t n_loss_tokens = 0;
    if (document->n > 64 || built->truncated != (built->whole > 64)) abort();
    for (size_t i = 0; i < document->n; i++) {
        if (document->targets[i] < 0) continue;
        if (i + 1 == document->n || document->targets[i] != document->ids[i + 1]) abort();
        n_loss_tokens++;
    }
    if (!n_loss_tokens || n_loss_tokens != document->n_loss_tokens) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0) return 0;
    DocumentBuilder *builder = builder_of(data[0]);
    const char *at = (const char *)data + 1, *end = (const char *)data + bytes;
    while (at < end) {
        BuiltDocument built;
        const char *newline = memchr(at, '\n', (size_t)(end - at)), *to = newline ? newline : end;
        Err *err = document_builder_read(builder, at, (size_t)(to - at), &built);
        if (!err) check(&built);
        err_free(err);
        at = to + 1;
    }
    return 0;
}

FUZZ_MAIN("records")
