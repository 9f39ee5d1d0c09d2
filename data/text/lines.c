/* Lines are found in chunks of the decompressed file. A line that lies within one chunk is returned without a copy;
 * a line that crosses chunks is collected in `line`. The last line needs no newline. */
#include "data/text/lines.h"

#include "base/memory.h"
#include "data/text/inflate.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK_BYTES = 1 << 18 };

struct LineReader {
    Inflater *file;
    char *path;
    char *chunk;
    size_t at, end; /* chunk[at .. end) has not been read yet */
    Text line;      /* collects a line that crosses chunks */
    size_t number;
    bool ended;
};

Err *lines_open(LineReader **out, const char *path)
{
    LineReader *reader;
    *out = NULL;
    TRY(mem_new(&reader, 1, sizeof *reader));
    Err *err = mem_copy_text(&reader->path, path);
    if (!err) err = mem_new(&reader->chunk, CHUNK_BYTES, 1);
    if (!err) err = inflate_open(&reader->file, path);
    if (err)
        lines_close(reader);
    else
        *out = reader;
    return err;
}

void lines_close(LineReader *reader)
{
    if (!reader) return;
    inflate_close(reader->file);
    text_free(&reader->line);
    free(reader->chunk);
    free(reader->path);
    free(reader);
}

static Err *fill_chunk(LineReader *reader)
{
    reader->at = reader->end = 0;
    TRY(inflate_read(reader->file, reader->chunk, CHUNK_BYTES, &reader->end));
    reader->ended = reader->end == 0;
    return NULL;
}

Err *lines_next(LineReader *reader, const char **line, size_t *bytes)
{
    *line = NULL;
    *bytes = 0;
    text_clear(&reader->line);
    for (;;) {
        if (reader->at == reader->end && !reader->ended) TRY(fill_chunk(reader));
        if (reader->ended && reader->line.n == 0) return NULL;
        const char *from = reader->chunk + reader->at;
        size_t left = reader->end - reader->at;
        const char *newline = left ? memchr(from, '\n', left) : NULL;
        size_t n = newline ? (size_t)(newline - from) : left;
        reader->at += n + (newline != NULL);
        if (newline && reader->line.n == 0) { /* the usual case copies nothing */
            *line = from;
            *bytes = n;
        } else {
            text_add(&reader->line, from, n);
            TRY(err_wrap(text_error(&reader->line), "read %s", reader->path));
            if (!newline && !reader->ended) continue;
            *line = reader->line.data;
            *bytes = reader->line.n;
        }
        if (*bytes && (*line)[*bytes - 1] == '\r') --*bytes;
        reader->number++;
        return NULL;
    }
}

size_t lines_number(const LineReader *reader) { return reader->number; }

Err *lines_read_file(Text *text, const char *path)
{
    LineReader *reader;
    *text = (Text){0};
    TRY(lines_open(&reader, path));
    Err *err = NULL;
    text_add(text, "", 0);
    while (!err && !(err = fill_chunk(reader)) && !reader->ended) {
        text_add(text, reader->chunk, reader->end);
        err = text_error(text);
    }
    lines_close(reader);
    if (err) text_free(text);
    return err;
}
