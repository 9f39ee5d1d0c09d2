/* UTF-8, the few character classes that tokenizers and templates ask for, and NFC. The only door to utf8proc. */
#ifndef GRAFT_DATA_TEXT_UNICODE_H
#define GRAFT_DATA_TEXT_UNICODE_H

#include "data/text/text.h"

#include <stdint.h>

enum { UNICODE_BROKEN = 0x110000, UNICODE_CUT }; /* above every character */

/* The length of the character that text (n > 0 bytes) starts with, and its number in *code. Where the bytes are no
 * UTF-8: the length of the longest part that could have begun a character (at least 1), and UNICODE_BROKEN; or
 * UNICODE_CUT when the text ends inside what may still become one. */
size_t unicode_next(const char *text, size_t n, uint32_t *code);

/* How many bytes, from the start, are whole characters. */
size_t unicode_valid(const char *text, size_t n);

/* Add bytes to `out` with U+FFFD for each broken part, as Rust's from_utf8_lossy. A character cut at the end is left
 * alone unless `last`. Returns the bytes used. */
size_t unicode_lossy(Text *out, const char *bytes, size_t n, bool last);

bool unicode_is_space(uint32_t code); /* Unicode's White_Space */
bool unicode_is_word(uint32_t code);  /* \w of Rust's regex: Alphabetic, marks, decimal digits, Pc, join controls */

/* The text without white space at both ends, as Python's str.strip: White_Space and U+001C to U+001F. */
void unicode_strip(const char **text, size_t *n);

/* Put the NFC form of text (valid UTF-8), as Hugging Face's library makes it, into the empty `out`; or leave `out`
 * empty and set *same when it is the text itself. */
MUST_USE Err *unicode_nfc(Text *out, const char *text, size_t n, bool *same);

#endif
