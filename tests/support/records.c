/* The tokenizer is opened once for all tests of a program. */
#include "tests/support/records.h"

#include "tests/support/check.h"

#include <string.h>

Tokenizer *records_tokenizer;
char records_path[PATH_BYTES];

int records_open_tokenizer(void **state)
{
    (void)state;
    assert_ok(tokenizer_open(&records_tokenizer, "examples/tiny-glm5/tokenizer.json"));
    return 0;
}

int records_close_tokenizer(void **state)
{
    (void)state;
    tokenizer_close(records_tokenizer);
    return 0;
}

const char *records_file(void **state, const char *text)
{
    assert_ok(file_write(scratch_path(state, "records.jsonl", records_path), text, strlen(text)));
    return records_path;
}

Err *records_open(Dataset **ds, const char *name, const Tokenizer *with, const ChatOptions *chat, size_t max_length)
{
    return dataset_open_file(ds, with, name, &(DocumentOptions){.chat = *chat, .max_length = max_length});
}
