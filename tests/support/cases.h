/* Fixture files of cases, run one by one: failures go to stdout, counts to the caller. */
#ifndef GRAFT_TESTS_SUPPORT_CASES_H
#define GRAFT_TESTS_SUPPORT_CASES_H

#include "base/err.h"

#include <stddef.h>

typedef struct {
    size_t passed, failed;
} Count;

/* tests/fixtures/tokenizer/README.md says what the files hold. Encoding is checked for its ids and that the ends go
 * up to the text's end; decoding with and without special tokens, whole and as a stream. */
MUST_USE Err *cases_tokenizer(const char *tokenizer_path, const char *encode_path, const char *decode_path,
                              Count *count);

/* tests/fixtures/chat_template/README.md. */
MUST_USE Err *cases_chat(const char *path, Count *count);

#endif
