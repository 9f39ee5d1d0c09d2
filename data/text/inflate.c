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

typedef enum { PLAIN, GZIP, ZSTD } Packing;

struct Inflater {
    char *path;
    gzFile gzip; /* plain files too: gzread hands them through */
    FILE *file;  /* of Zstandard */
    ZSTD_DStream *zstd;
    char *chunk;
    ZSTD_inBuffer in;
    size_t frame_left; /* 0: between frames, where a file may end */
};

/* A frame, or a skippable one, as zstd's tools may write first.   Source: RFC 8878, sections 3.1.1 and 3.1.2. */
static Err *packing_of(const char *path, Packing *packing)
{
    unsigned char first[4] = {0};
    *packing = PLAIN;
    if (file_is_directory(path)) return err_new(ERR_IO, "%s is a directory; expected a file", path);
    FILE *file = fopen(path, "rbe");
    if (!file) return err_errno("open %s", path);
    size_t n = fread(first, 1, sizeof first, file);
    fclose(file);
    if (n >= 2 && first[0] == 0x1F && first[1] == 0x8B) *packing = GZIP;
    if (n == 4 &&
        (!memcmp(first, "\x28\xB5\x2F\xFD", 4) || ((first[0] & 0xF0) == 0x50 && !memcmp(first + 1, "\x2A\x4D\x18", 3))))
        *packing = ZSTD;
    return NULL;
}

Err *inflate_is_needed(const char *path, bool *yes)
{
    Packing packing;
    TRY(packing_of(path, &packing));
    *yes = packing != PLAIN;
    return NULL;
}

static Err *open_zstd(Inflater *packed)
{
    TRY(mem_new(&packed->chunk, CHUNK_BYTES, 1));
    packed->file = fopen(packed->path, "rbe");
    if (!packed->file) return err_errno("open %s", packed->path);
    packed->zstd = ZSTD_createDStream();
    packed->in.src = packed->chunk;
    return packed->zstd ? NULL : err_new(ERR_MEMORY, "open %s: out of memory", packed->path);
}

static Err *open_gzip(Inflater *packed)
{
    errno = 0;
    packed->gzip = gzopen(packed->path, "rbe");
    if (!packed->gzip)
        return errno ? err_errno("open %s", packed->path) : err_new(ERR_MEMORY, "open %s: out of memory", packed->path);
    gzbuffer(packed->gzip, CHUNK_BYTES);
    return NULL;
}

Err *inflate_open(Inflater **out, const char *path)
{
    Inflater *packed;
    Packing packing;
    *out = NULL;
    TRY(packing_of(path, &packing));
    TRY(mem_new(&packed, 1, sizeof *packed));
    Err *err = mem_copy_text(&packed->path, path);
    if (!err) err = packing == ZSTD ? open_zstd(packed) : open_gzip(packed);
    if (err)
        inflate_close(packed);
    else
        *out = packed;
    return err;
}

void inflate_close(Inflater *packed)
{
    if (!packed) return;
    if (packed->gzip) gzclose(packed->gzip);
    if (packed->file) fclose(packed->file);
    ZSTD_freeDStream(packed->zstd);
    free(packed->chunk);
    free(packed->path);
    free(packed);
}

static Err *read_gzip(Inflater *packed, char *to, size_t most, size_t *n)
{
    int got = gzread(packed->gzip, to, (unsigned)(most < 1 << 30 ? most : 1 << 30)), code = Z_OK;
    const char *message = gzerror(packed->gzip, &code);
    if (got < 0 || (got == 0 && code != Z_OK && code != Z_STREAM_END)) {
        if (code == Z_ERRNO) return err_errno("read %s", packed->path);
        return err_new(ERR_IO, "read %s: %s", packed->path, message);
    }
    *n = (size_t)got;
    return NULL;
}

static Err *read_zstd(Inflater *packed, char *to, size_t most, size_t *n)
{
    ZSTD_outBuffer out = {to, most, 0};
    while (out.pos == 0) {
        if (packed->in.pos == packed->in.size) {
            packed->in.pos = 0;
            packed->in.size = fread(packed->chunk, 1, CHUNK_BYTES, packed->file);
            if (ferror(packed->file)) return err_errno("read %s", packed->path);
            if (packed->in.size == 0 && packed->frame_left)
                return err_new(ERR_IO, "read %s: unexpected end of file", packed->path);
            if (packed->in.size == 0) break;
        }
        packed->frame_left = ZSTD_decompressStream(packed->zstd, &out, &packed->in);
        if (ZSTD_isError(packed->frame_left))
            return err_new(ERR_IO, "read %s: %s", packed->path, ZSTD_getErrorName(packed->frame_left));
    }
    *n = out.pos;
    return NULL;
}

Err *inflate_read(Inflater *packed, char *to, size_t most, size_t *n)
{
    *n = 0;
    return packed->gzip ? read_gzip(packed, to, most, n) : read_zstd(packed, to, most, n);
}
