/* Lines that a person types, with editing and a history where there is a terminal. The only wrapper of libedit. */
#ifndef GRAFT_CLI_LINE_EDITOR_H
#define GRAFT_CLI_LINE_EDITOR_H

#include <stdbool.h>

/* Call before the first line: from then on Ctrl-C only sets a flag. */
void line_editor_open(void);

/* The next line without its end, in UTF-8 (U+FFFD for bytes that are not). NULL at the end of input; Ctrl-C gives an
 * empty line. Owner: the caller, until free(). */
char *line_editor_read(const char *prompt);

/* Whether Ctrl-C was pressed since line_editor_clear_interrupt. May be called at any time. */
bool line_editor_interrupted(void);
void line_editor_clear_interrupt(void);

#endif
