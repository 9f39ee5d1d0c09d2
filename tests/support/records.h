/* What tests of records share: the bundled tokenizer, messages as JSON, and files of records. */
#ifndef GRAFT_TESTS_SUPPORT_RECORDS_H
#define GRAFT_TESTS_SUPPORT_RECORDS_H

#include "base/file.h"
#include "data/records/dataset.h"

/* Messages of a user and an assistant (R: with its thinking), and a record M of them. */
#define U(text)          "{\"role\":\"user\",\"content\":\"" text "\"}"
#define A(text)          "{\"role\":\"assistant\",\"content\":\"" text "\"}"
#define R(thought, text) "{\"role\":\"assistant\",\"content\":\"" text "\",\"reasoning_content\":\"" thought "\"}"
#define M(list)          "{\"messages\":[" list "]}"

extern Tokenizer *records_tokenizer;

/* Of a test group: open and close the tokenizer, which takes a tenth of a second. */
int records_open_tokenizer(void **state);
int records_close_tokenizer(void **state);

extern char records_path[PATH_BYTES]; /* of the last file_with */

/* A scratch file of these records. */
const char *records_file(void **state, const char *text);

Err *records_open(Dataset **ds, const char *name, const Tokenizer *with, const ChatOptions *chat, size_t max_length);

#endif
