/* Check that a text is JSON (RFC 8259) in valid UTF-8, without building anything. */
#ifndef GRAFT_DATA_TEXT_JSON_CHECK_H
#define GRAFT_DATA_TEXT_JSON_CHECK_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/* Check that the text is one value and nothing else, that every \u escape is part of a character, and that nesting is
 * at most 200 levels deep. *begin and *end: where the value begins and ends.
 * Fails: ERR_FORMAT, with line, column and what was expected there. */
MUST_USE Err *json_check(const char *text, size_t bytes, const char **begin, const char **end);

const char *json_check_skip_space(const char *at, const char *end);
int json_check_hex(const char *at, const char *end); /* the value of four hexadecimal digits; -1: there are no four */

#endif
