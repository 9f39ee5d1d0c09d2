/* Files of text, plain or packed (data/text/inflate.h): whole, or line by line. */
#ifndef GRAFT_DATA_TEXT_LINES_H
#define GRAFT_DATA_TEXT_LINES_H

#include "data/text/text.h"

typedef struct LineReader LineReader;

MUST_USE Err *lines_open(LineReader **reader, const char *path);

/* The next line without its end; *line is NULL after the last one. Owner: the reader, until the next call.
 * Fails: ERR_IO; a packed file that is cut short or damaged. */
MUST_USE Err *lines_next(LineReader *reader, const char **line, size_t *bytes);
size_t lines_number(const LineReader *reader); /* of the last line given, from 1 */
void lines_close(LineReader *reader);

/* The whole file. Owner: the caller, until text_free(). */
MUST_USE Err *lines_read_file(Text *text, const char *path);

#endif
