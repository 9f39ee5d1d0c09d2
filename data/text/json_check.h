/* Whether a text is JSON (RFC 8259), and in valid UTF-8. */
#ifndef GRAFT_DATA_TEXT_JSON_CHECK_H
#define GRAFT_DATA_TEXT_JSON_CHECK_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/* One value and nothing else, every \u escape part of a character, nested 200 deep at most; where it begins and ends.
 * Fails: ERR_FORMAT, with the place (line and column) and what was expected there. */
MUST_USE Err *json_check(const char *text, size_t bytes, const char **begin, const char **end);

const char *json_check_skip_space(const char *at, const char *end);
int json_check_hex(const char *at, const char *end); /* four digits; -1: there are none */

#endif
