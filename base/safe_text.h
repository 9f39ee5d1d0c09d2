/* Text from outside (a file's name, a record's domain, a member of a configuration) on a terminal. */
#ifndef GRAFT_BASE_SAFE_TEXT_H
#define GRAFT_BASE_SAFE_TEXT_H

#include <stdbool.h>
#include <stdio.h>

/* Print text whose bytes must not steer the terminal: control characters of C0, and of C1 in UTF-8, are printed as
 * \x1b.
 *   lines  newlines pass; otherwise they are escaped as well, so that the text cannot look like another line */
void safe_print(FILE *stream, const char *text, bool lines);

#endif
