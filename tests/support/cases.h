/* Files of cases, run one by one: failures are printed to stdout, and the caller gets the counts. */
#ifndef GRAFT_TESTS_SUPPORT_CASES_H
#define GRAFT_TESTS_SUPPORT_CASES_H

#include "base/err.h"

#include <stddef.h>

typedef struct {
    size_t passed, failed;
} Count;

/* tests/fixtures/tokenizer/README.md describes the files. Encoding is checked for its ids, and for ends that are in
 * order and reach the end of the text; decoding with and without special tokens, whole and as a stream.
 * Fails: ERR_IO, ERR_FORMAT when a file cannot be read; a case that fails is counted. */
MUST_USE Err *cases_tokenizer(const char *tokenizer_path, const char *encode_path, const char *decode_path,
                              Count *count);

/* Renderings of conversations; tests/fixtures/chat_template/README.md describes the files. Fails: as above. */
MUST_USE Err *cases_chat(const char *path, Count *count);

#endif
