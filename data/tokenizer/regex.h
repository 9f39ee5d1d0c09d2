/* Regular expressions as Hugging Face's tokenizers library reads them (Oniguruma's Ruby syntax, Unicode), matched by
 * PCRE2. The only door to PCRE2.
 *
 * Where the two differ, the pattern is rewritten (\s and \w mean Oniguruma's classes) or refused by name: escapes,
 * groups and set operations that would mean something else. A compiled Pattern is read-only and may be shared; each
 * thread brings a Matcher. */
#ifndef GRAFT_DATA_TOKENIZER_REGEX_H
#define GRAFT_DATA_TOKENIZER_REGEX_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct Pattern Pattern;
typedef struct Matcher Matcher;

/* Compile a regular expression, or (literal) the text itself.
 * Fails: ERR_FORMAT, with the pattern, the place and the reason. */
MUST_USE Err *pattern_open(Pattern **pattern, const char *regex, bool literal);
void pattern_close(Pattern *pattern);

MUST_USE Err *matcher_new(Matcher **matcher);
void matcher_free(Matcher *matcher);

/* Find the first match that is not empty in text[from .. bytes), which must be valid UTF-8: *begin and *end, or both
 * `bytes` when there is none. What lies before `from` can be looked back at.
 * Fails: ERR_DATA, when the match takes more steps or memory than PCRE2 allows. */
MUST_USE Err *pattern_find(const Pattern *pattern, Matcher *matcher, const char *text, size_t bytes, size_t from,
                           size_t *begin, size_t *end);

#endif
