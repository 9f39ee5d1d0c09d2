/* Lines from a person, edited with libedit where there is a terminal. The only door to libedit. */
#ifndef GRAFT_CLI_LINE_EDITOR_H
#define GRAFT_CLI_LINE_EDITOR_H

#include <stdbool.h>

/* Before the first line: take over Ctrl-C, which from now on only sets a flag. */
void line_open(void);

/* The next line without its end, in UTF-8 (U+FFFD where it was none); NULL at the end of input. Ctrl-C gives an empty
 * line. Owner: the caller, until free(). */
char *line_read(const char *prompt);

/* Whether Ctrl-C was pressed since the last call of line_forget. Safe at any time. */
bool line_interrupted(void);
void line_forget(void);

#endif
