#include "data/reader.h"

#include "base/file.h"
#include "base/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { CHUNK_BYTES = 1 << 18 };

struct Reader {
    gzFile file; /* gzread hands a file that is no gzip through as it is */
    char *path;
    char *chunk;
    size_t at, end; /* what is left of the chunk */
    Text line;      /* gathers a line that crosses chunks */
    size_t number;
    bool ended;
};

Err *reader_open(Reader **out, const char *path)
{
    Reader *reader;
    *out = NULL;
    if (file_is_directory(path)) return err_new(ERR_IO, "%s is a directory; expected a file", path);
    TRY(mem_new(&reader, 1, sizeof *reader));
    Err *err = NULL;
    if ((err = mem_copy_text(&reader->path, path))) goto done;
    if ((err = mem_new(&reader->chunk, CHUNK_BYTES, 1))) goto done;
    errno = 0;
    reader->file = gzopen(path, "rbe");
    if (!reader->file) err = errno ? err_errno("open %s", path) : err_new(ERR_MEMORY, "open %s: out of memory", path);
    else gzbuffer(reader->file, CHUNK_BYTES);
done:
    if (err) reader_close(reader);
    else *out = reader;
    return err;
}

void reader_close(Reader *reader)
{
    if (!reader) return;
    if (reader->file) gzclose(reader->file);
    text_free(&reader->line);
    free(reader->chunk);
    free(reader->path);
    free(reader);
}

static Err *fill(Reader *reader)
{
    int n = gzread(reader->file, reader->chunk, CHUNK_BYTES), code = Z_OK;
    const char *message = gzerror(reader->file, &code);
    if (n < 0 || (n == 0 && code != Z_OK && code != Z_STREAM_END)) {
        if (code == Z_ERRNO) return err_errno("read %s", reader->path);
        return err_new(ERR_IO, "read %s: %s", reader->path, message);
    }
    reader->at = 0;
    reader->end = (size_t)n;
    reader->ended = n == 0;
    return NULL;
}

Err *reader_line(Reader *reader, const char **line, size_t *bytes)
{
    *line = NULL;
    *bytes = 0;
    text_clear(&reader->line);
    for (;;) {
        if (reader->at == reader->end && !reader->ended) TRY(fill(reader));
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

size_t reader_line_number(const Reader *reader) { return reader->number; }

Err *reader_whole(Text *text, const char *path)
{
    Reader *reader;
    *text = (Text){0};
    TRY(reader_open(&reader, path));
    Err *err = NULL;
    text_add(text, "", 0);
    while (!err && !(err = fill(reader)) && !reader->ended) {
        text_add(text, reader->chunk, reader->end);
        err = text_error(text);
    }
    reader_close(reader);
    if (err) text_free(text);
    return err;
}
