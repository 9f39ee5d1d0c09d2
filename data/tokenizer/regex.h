/* Regular expressions as Hugging Face's tokenizers library reads them (Oniguruma's Ruby syntax, Unicode), matched by
 * PCRE2. The only wrapper of PCRE2.
 *
 * Where the two differ, the pattern is rewritten (\s and \w mean Oniguruma's classes). Escapes, groups and set
 * operations that would mean something else in PCRE2 are refused by name. A compiled Regex is read-only and may be
 * shared; each thread needs its own RegexMatcher. */
#ifndef GRAFT_DATA_TOKENIZER_REGEX_H
#define GRAFT_DATA_TOKENIZER_REGEX_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct Regex Regex;
typedef struct RegexMatcher RegexMatcher;

/* Compile a regular expression; with `literal`, a pattern that matches the text itself.
 * Fails: ERR_FORMAT, with the pattern, the position and the reason. */
MUST_USE Err *regex_open(Regex **regex, const char *pattern, bool literal);
void regex_close(Regex *regex);

MUST_USE Err *regex_matcher_new(RegexMatcher **matcher);
void regex_matcher_free(RegexMatcher *matcher);

/* Find the first match that is not empty in text[from .. bytes), which must be valid UTF-8: *begin and *end, or both
 * `bytes` when there is none. Lookbehind may see text before `from`.
 * Fails: ERR_DATA, when the match takes more steps or memory than PCRE2 allows. */
MUST_USE Err *regex_find(const Regex *regex, RegexMatcher *matcher, const char *text, size_t bytes, size_t from,
                         size_t *begin, size_t *end);

#endif
