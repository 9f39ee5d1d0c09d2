/* Read text files, plain or compressed (data/text/inflate.h), line by line or as a whole. */
#ifndef GRAFT_DATA_TEXT_LINES_H
#define GRAFT_DATA_TEXT_LINES_H

#include "data/text/text.h"

typedef struct LineReader LineReader;

MUST_USE Err *lines_open(LineReader **reader, const char *path);

/* The next line without its end (newline, or carriage return and newline); *line is NULL after the last line.
 * Owner: the reader, until the next call. Fails: ERR_IO, also when a compressed file is cut short or damaged. */
MUST_USE Err *lines_next(LineReader *reader, const char **line, size_t *bytes);
size_t lines_number(const LineReader *reader); /* the number of the last line that was read, from 1 */
void lines_close(LineReader *reader);

/* Read the whole file. Owner: the caller, until text_free(). */
MUST_USE Err *lines_read_file(Text *text, const char *path);

#endif
