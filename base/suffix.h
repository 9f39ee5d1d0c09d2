/* The end of a text. */
#ifndef GRAFT_BASE_SUFFIX_H
#define GRAFT_BASE_SUFFIX_H

#include <stdbool.h>
#include <string.h>

static inline bool has_suffix(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && strcmp(text + n - m, suffix) == 0;
}

#endif
