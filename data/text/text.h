/* A growing array of bytes. Adding to it returns no error: a text that could not grow keeps its contents and text_error
 * reports the failure later. This keeps rendering code free of error checks. */
#ifndef GRAFT_DATA_TEXT_TEXT_H
#define GRAFT_DATA_TEXT_TEXT_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    char *data; /* ends with a zero byte that n does not count; NULL before the first addition */
    size_t n, capacity;
    bool failed;
} Text;

void text_add(Text *text, const char *bytes, size_t n);
void text_put(Text *text, const char *string); /* adds all bytes before the zero */
void text_clear(Text *text);                   /* keeps the memory, clears the failure */
MUST_USE Err *text_error(const Text *text);    /* ERR_MEMORY when an addition failed */
void text_free(Text *text);

#endif
