/* Files of text, plain or packed (data/text/inflate.h): whole, or line by line. */
#ifndef GRAFT_DATA_TEXT_LINES_H
#define GRAFT_DATA_TEXT_LINES_H

#include "data/text/text.h"

typedef struct Reader Reader;

MUST_USE Err *reader_open(Reader **reader, const char *path);

/* The next line without its end; *line is NULL after the last one. Owner: the reader, until the next call.
 * Fails: ERR_IO; a packed file that is cut short or damaged. */
MUST_USE Err *reader_line(Reader *reader, const char **line, size_t *bytes);
size_t reader_line_number(const Reader *reader); /* of the last line given, from 1 */
void reader_close(Reader *reader);

/* The whole file. Owner: the caller, until text_free(). */
MUST_USE Err *reader_whole(Text *text, const char *path);

#endif
