/* Bytes that grow. Adding never fails at the call: a text that could not grow keeps what it had and says so in
 * text_error, so that rendering reads straight. */
#ifndef GRAFT_DATA_TEXT_TEXT_H
#define GRAFT_DATA_TEXT_TEXT_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    char *data; /* ended by a zero that is not counted; NULL when nothing was ever added */
    size_t n, capacity;
    bool failed;
} Text;

void text_add(Text *text, const char *bytes, size_t n);
void text_put(Text *text, const char *words); /* up to the zero */
void text_clear(Text *text);                  /* keeps the memory */
MUST_USE Err *text_error(const Text *text);   /* ERR_MEMORY when an addition was lost */
void text_free(Text *text);

#endif
