/* Files behind data/text/inflate.h. zlib reads plain files and gzip through one interface (gzopen); libzstd has no such
 * interface, so a Zstandard file is read in chunks and decompressed here.
 *
 *   - Exactly one of `gzip` and `file` is open.
 *   - A Zstandard file that ends within a frame is an error; several frames may follow one another. */
#include "data/text/inflate.h"

#include "base/file.h"
#include "base/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

enum { CHUNK_BYTES = 1 << 18 };

typedef enum { PLAIN, GZIP, ZSTD } Compression;

struct Inflater {
    char *path;
    gzFile gzip; /* also for plain files, which gzread returns as they are */
    FILE *file;  /* only for Zstandard */
    ZSTD_DStream *zstd;
    char *chunk;
    ZSTD_inBuffer in;
    size_t frame_left; /* 0: between frames, where a file may end */
};

/* Zstandard starts with a frame or, as some of its tools write, with a skippable frame.
 * Source: RFC 8878, sections 3.1.1 and 3.1.2. */
static Err *compression_of(const char *path, Compression *compression)
{
    unsigned char first[4] = {0};
    *compression = PLAIN;
    if (file_is_directory(path)) return err_new(ERR_IO, "%s is a directory; expected a file", path);
    FILE *file = fopen(path, "rbe");
    if (!file) return err_errno("open %s", path);
    size_t n = fread(first, 1, sizeof first, file);
    fclose(file);
    if (n >= 2 && first[0] == 0x1F && first[1] == 0x8B) *compression = GZIP;
    if (n == 4 &&
        (!memcmp(first, "\x28\xB5\x2F\xFD", 4) || ((first[0] & 0xF0) == 0x50 && !memcmp(first + 1, "\x2A\x4D\x18", 3))))
        *compression = ZSTD;
    return NULL;
}

Err *inflate_is_needed(const char *path, bool *yes)
{
    Compression compression;
    TRY(compression_of(path, &compression));
    *yes = compression != PLAIN;
    return NULL;
}

static Err *open_zstd(Inflater *inflater)
{
    TRY(mem_new(&inflater->chunk, CHUNK_BYTES, 1));
    inflater->file = fopen(inflater->path, "rbe");
    if (!inflater->file) return err_errno("open %s", inflater->path);
    inflater->zstd = ZSTD_createDStream();
    inflater->in.src = inflater->chunk;
    return inflater->zstd ? NULL : err_new(ERR_MEMORY, "open %s: out of memory", inflater->path);
}

static Err *open_gzip(Inflater *inflater)
{
    errno = 0;
    inflater->gzip = gzopen(inflater->path, "rbe");
    if (!inflater->gzip)
        return errno ? err_errno("open %s", inflater->path)
                     : err_new(ERR_MEMORY, "open %s: out of memory", inflater->path);
    gzbuffer(inflater->gzip, CHUNK_BYTES);
    return NULL;
}

Err *inflate_open(Inflater **out, const char *path)
{
    Inflater *inflater;
    Compression compression;
    *out = NULL;
    TRY(compression_of(path, &compression));
    TRY(mem_new(&inflater, 1, sizeof *inflater));
    Err *err = mem_copy_text(&inflater->path, path);
    if (!err) err = compression == ZSTD ? open_zstd(inflater) : open_gzip(inflater);
    if (err)
        inflate_close(inflater);
    else
        *out = inflater;
    return err;
}

void inflate_close(Inflater *inflater)
{
    if (!inflater) return;
    if (inflater->gzip) gzclose(inflater->gzip);
    if (inflater->file) fclose(inflater->file);
    ZSTD_freeDStream(inflater->zstd);
    free(inflater->chunk);
    free(inflater->path);
    free(inflater);
}

static Err *read_gzip(Inflater *inflater, char *to, size_t capacity, size_t *n)
{
    int got = gzread(inflater->gzip, to, (unsigned)(capacity < 1 << 30 ? capacity : 1 << 30)), code = Z_OK;
    const char *message = gzerror(inflater->gzip, &code);
    if (got < 0 || (got == 0 && code != Z_OK && code != Z_STREAM_END)) {
        if (code == Z_ERRNO) return err_errno("read %s", inflater->path);
        return err_new(ERR_IO, "read %s: %s", inflater->path, message);
    }
    *n = (size_t)got;
    return NULL;
}

static Err *read_zstd(Inflater *inflater, char *to, size_t capacity, size_t *n)
{
    ZSTD_outBuffer out = {to, capacity, 0};
    while (out.pos == 0) {
        if (inflater->in.pos == inflater->in.size) {
            inflater->in.pos = 0;
            inflater->in.size = fread(inflater->chunk, 1, CHUNK_BYTES, inflater->file);
            if (ferror(inflater->file)) return err_errno("read %s", inflater->path);
            if (inflater->in.size == 0 && inflater->frame_left)
                return err_new(ERR_IO, "read %s: unexpected end of file", inflater->path);
            if (inflater->in.size == 0) break;
        }
        inflater->frame_left = ZSTD_decompressStream(inflater->zstd, &out, &inflater->in);
        if (ZSTD_isError(inflater->frame_left))
            return err_new(ERR_IO, "read %s: %s", inflater->path, ZSTD_getErrorName(inflater->frame_left));
    }
    *n = out.pos;
    return NULL;
}

Err *inflate_read(Inflater *inflater, char *to, size_t capacity, size_t *n)
{
    *n = 0;
    return inflater->gzip ? read_gzip(inflater, to, capacity, n) : read_zstd(inflater, to, capacity, n);
}
