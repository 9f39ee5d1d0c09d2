/* UTF-8, the character classes that tokenizers and templates need, and NFC. The only wrapper of utf8proc. */
#ifndef GRAFT_DATA_TEXT_UNICODE_H
#define GRAFT_DATA_TEXT_UNICODE_H

#include "data/text/text.h"

#include <stdint.h>

enum { UNICODE_BROKEN = 0x110000, UNICODE_CUT }; /* above every character */

/* Decode the character that text (n > 0 bytes) starts with: returns its length, and its code point in *code.
 * When the bytes are not UTF-8, *code is UNICODE_BROKEN and the length is that of the longest part that could begin a
 * character (at least 1). When the text ends inside what may still become a character, *code is UNICODE_CUT. */
size_t unicode_next(const char *text, size_t n, uint32_t *code);

/* The number of bytes at the start that form whole characters. */
size_t unicode_valid(const char *text, size_t n);

/* Add bytes to `out` with U+FFFD for each broken part, as Rust's from_utf8_lossy does. A character that is cut at the
 * end is not added unless `last` is set. Returns the number of bytes that were used. */
size_t unicode_lossy(Text *out, const char *bytes, size_t n, bool last);

bool unicode_is_space(uint32_t code); /* Unicode's White_Space */
bool unicode_is_word(uint32_t code);  /* \w of Rust's regex: Alphabetic, marks, decimal digits, Pc, join controls */

/* Remove white space at both ends, as Python's str.strip does: White_Space and U+001C to U+001F. */
void unicode_strip(const char **text, size_t *n);

/* Write the NFC form of text (valid UTF-8), as Hugging Face's library makes it, to the empty `out`. When the text
 * already is in that form, `out` stays empty and *same is set. */
MUST_USE Err *unicode_nfc(Text *out, const char *text, size_t n, bool *same);

#endif
