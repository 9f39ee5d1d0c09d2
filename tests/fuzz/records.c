/* Any bytes as a file of records; the first byte chooses the options. What is accepted must train something, and every
 * target must be the token that follows. */
#include "data/dataset.h"
#include "tests/support/fuzz.h"

#include <stdlib.h>

static Tokenizer *tokenizer; /* opened once, for all inputs */

static void close_tokenizer(void) { tokenizer_close(tokenizer); }

static void check(const Document *document)
{
    size_t n_scored = 0;
    for (size_t i = 0; i < document->n; i++) {
        if (document->targets[i] < 0) continue;
        if (i + 1 == document->n || document->targets[i] != document->ids[i + 1]) abort();
        n_scored++;
    }
    if (!n_scored || n_scored != document->n_scored) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    Dataset *dataset;
    if (bytes == 0) return 0;
    if (!tokenizer) {
        Err *failed = tokenizer_open(&tokenizer, "examples/tiny-glm5/tokenizer.json");
        if (failed) abort();
        atexit(close_tokenizer);
    }
    DocumentOptions options = {.chat = {.template = data[0] % CHAT_TEMPLATES,
                                        .clear_thinking = data[0] & 8 ? CHAT_NO : CHAT_UNSET,
                                        .enable_thinking = data[0] & 16 ? CHAT_NO : CHAT_UNSET,
                                        .train_on_reasoning = data[0] & 16 ? CHAT_NO : CHAT_UNSET,
                                        .train_on = data[0] >> 5 & 3 ? CHAT_TRAIN_LAST + (data[0] >> 5 & 1) : CHAT_TRAIN_ASSISTANT},
                               .truncation = data[0] & 128 ? TRUNCATE_LEFT : TRUNCATE_RIGHT,
                               .plain_prompts = data[0] & 4,
                               .max_length = 64};
    Err *err = dataset_open_file(&dataset, tokenizer, fuzz_file(data + 1, bytes - 1), &options);
    if (!err) {
        for (size_t i = 0; i < dataset_count(dataset); i++) check(dataset_document(dataset, i));
        dataset_close(dataset);
    }
    err_free(err);
    return 0;
}

FUZZ_MAIN("records")
