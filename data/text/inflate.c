/* Files behind data/text/inflate.h. A file is read in chunks and decompressed here. A signal that interrupts a read
 * does not end it.
 *
 *   - `chunk[at .. end)` has been read and not yet decompressed; n_packed counts everything that was read.
 *   - A compressed file may end only between two gzip members or Zstandard frames (`between`). Bytes behind the last
 *     gzip member that do not begin another one are ignored, as gzip does it.
 *   - What becomes too much larger (inflate_limit) is refused: a file of a megabyte can become a terabyte. */
#define _GNU_SOURCE
#include "data/text/inflate.h"

#include "base/byte_size.h"
#include "base/file.h"
#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

enum { CHUNK_BYTES = 1 << 18, MAGIC_BYTES = 4, FREE_BYTES = 1 << 26 };

typedef enum { PLAIN, GZIP, ZSTD } Compression;

struct Inflater {
    char *path;
    int fd;
    Compression compression;
    char *chunk;
    size_t at, end;
    bool between;
    z_stream gzip;
    ZSTD_DStream *zstd;
    uint64_t n_packed, n_unpacked;
};

static size_t limit = INFLATE_LIMIT;

void inflate_limit(size_t times) { limit = times; }

static Err *open_file(const char *path, int *fd)
{
    if (file_is_directory(path)) return err_new(ERR_IO, "%s is a directory; expected a file", path);
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    return *fd < 0 ? err_errno("open %s", path) : NULL;
}

/* Read what is there, at least one byte; *n is 0 at the end. */
static Err *read_some(int fd, const char *path, char *to, size_t bytes, size_t *n)
{
    ssize_t got;
    do got = read(fd, to, bytes);
    while (got < 0 && errno == EINTR);
    *n = got > 0 ? (size_t)got : 0;
    return got < 0 ? err_errno("read %s", path) : NULL;
}

/* The same until there are `bytes`, or the file ends. */
static Err *read_all(int fd, const char *path, char *to, size_t bytes, size_t *n)
{
    size_t got = 1;
    for (*n = 0; *n < bytes && got; *n += got) TRY(read_some(fd, path, to + *n, bytes - *n, &got));
    return NULL;
}

/* Zstandard starts with a frame or, as some of its tools write, with a skippable frame.
 * Source: RFC 8878, sections 3.1.1 and 3.1.2. */
static Compression compression_of(const char *text, size_t n)
{
    const unsigned char *first = (const unsigned char *)text;
    if (n >= 2 && first[0] == 0x1F && first[1] == 0x8B) return GZIP;
    if (n < MAGIC_BYTES) return PLAIN;
    bool frame = !memcmp(first, "\x28\xB5\x2F\xFD", 4),
         skippable = (first[0] & 0xF0) == 0x50 && !memcmp(first + 1, "\x2A\x4D\x18", 3);
    return frame || skippable ? ZSTD : PLAIN;
}

Err *inflate_is_needed(const char *path, bool *yes)
{
    char first[MAGIC_BYTES];
    size_t n;
    int fd;
    TRY(open_file(path, &fd));
    Err *err = read_all(fd, path, first, sizeof first, &n);
    close(fd);
    *yes = !err && compression_of(first, n) != PLAIN;
    return err;
}

static Err *open_parts(Inflater *inflater, const char *path)
{
    TRY(mem_copy_text(&inflater->path, path));
    TRY(mem_new(&inflater->chunk, CHUNK_BYTES, 1));
    TRY(open_file(path, &inflater->fd));
    TRY(read_all(inflater->fd, path, inflater->chunk, MAGIC_BYTES, &inflater->end));
    inflater->n_packed = inflater->end;
    Compression compression = compression_of(inflater->chunk, inflater->end);
    bool ready = true;
    if (compression == GZIP) ready = inflateInit2(&inflater->gzip, 15 + 16) == Z_OK; /* 16: a gzip header */
    if (compression == ZSTD) ready = (inflater->zstd = ZSTD_createDStream()) != NULL;
    if (!ready) return err_new(ERR_MEMORY, "open %s: out of memory", path);
    inflater->compression = compression;
    return NULL;
}

Err *inflate_open(Inflater **out, const char *path)
{
    Inflater *inflater;
    *out = NULL;
    TRY(mem_new(&inflater, 1, sizeof *inflater));
    inflater->fd = -1;
    Err *err = open_parts(inflater, path);
    if (err)
        inflate_close(inflater);
    else
        *out = inflater;
    return err;
}

void inflate_close(Inflater *inflater)
{
    if (!inflater) return;
    if (inflater->compression == GZIP) inflateEnd(&inflater->gzip);
    ZSTD_freeDStream(inflater->zstd);
    if (inflater->fd >= 0) close(inflater->fd);
    free(inflater->chunk);
    free(inflater->path);
    free(inflater);
}

/* Read the next chunk when the last one is used up. *empty: the file has ended. */
static Err *refill(Inflater *inflater, bool *empty)
{
    if (inflater->at == inflater->end) {
        inflater->at = 0;
        TRY(read_some(inflater->fd, inflater->path, inflater->chunk, CHUNK_BYTES, &inflater->end));
        inflater->n_packed += inflater->end;
    }
    *empty = inflater->end == 0;
    return NULL;
}

static Err *cut_short(const Inflater *inflater)
{
    return err_new(ERR_IO, "read %s: unexpected end of file", inflater->path);
}

static Err *read_plain(Inflater *inflater, char *to, size_t capacity, size_t *n)
{
    size_t left = inflater->end - inflater->at;
    if (left == 0) return read_some(inflater->fd, inflater->path, to, capacity, n);
    *n = left < capacity ? left : capacity;
    memcpy(to, inflater->chunk + inflater->at, *n);
    inflater->at += *n;
    return NULL;
}

static Err *read_gzip(Inflater *inflater, char *to, size_t capacity, size_t *n)
{
    z_stream *z = &inflater->gzip;
    bool empty;
    for (*n = 0; *n == 0;) {
        TRY(refill(inflater, &empty));
        if (inflater->between && (empty || inflater->chunk[inflater->at] != 0x1F)) return NULL;
        if (empty) return cut_short(inflater);
        if (inflater->between) inflateReset(z);
        z->next_in = (Bytef *)inflater->chunk + inflater->at;
        z->avail_in = (uInt)(inflater->end - inflater->at);
        z->next_out = (Bytef *)to;
        z->avail_out = (uInt)capacity;
        int code = inflate(z, Z_NO_FLUSH);
        inflater->at = inflater->end - z->avail_in;
        *n = capacity - z->avail_out;
        inflater->between = code == Z_STREAM_END;
        if (code == Z_MEM_ERROR) return err_new(ERR_MEMORY, "read %s: out of memory", inflater->path);
        if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
            return err_new(ERR_IO, "read %s: %s", inflater->path, z->msg ? z->msg : zError(code));
    }
    return NULL;
}

static Err *read_zstd(Inflater *inflater, char *to, size_t capacity, size_t *n)
{
    ZSTD_outBuffer out = {to, capacity, 0};
    bool empty;
    while (out.pos == 0) {
        TRY(refill(inflater, &empty));
        if (empty && inflater->between) break;
        ZSTD_inBuffer in = {inflater->chunk, inflater->end, inflater->at};
        size_t left = ZSTD_decompressStream(inflater->zstd, &out, &in);
        inflater->at = in.pos;
        if (ZSTD_isError(left)) return err_new(ERR_IO, "read %s: %s", inflater->path, ZSTD_getErrorName(left));
        inflater->between = left == 0;
        if (empty && out.pos == 0 && left) return cut_short(inflater); /* it also held nothing back */
    }
    *n = out.pos;
    return NULL;
}

static Err *check_limit(const Inflater *inflater)
{
    if (!limit || inflater->n_unpacked <= FREE_BYTES || inflater->n_unpacked / limit <= inflater->n_packed) return NULL;
    return err_new(
        ERR_DATA,
        "read %s: %s of it became %s, more than %zu times as much, as in a file that is made to fill memory or "
        "disk; if it is meant, set unpack_limit to 0",
        inflater->path, BYTES(inflater->n_packed), BYTES(inflater->n_unpacked), limit);
}

Err *inflate_read(Inflater *inflater, char *to, size_t capacity, size_t *n)
{
    static Err *(*const read_as[])(Inflater *, char *, size_t, size_t *) = {read_plain, read_gzip, read_zstd};
    *n = 0;
    if (capacity > 1 << 30) capacity = 1 << 30;
    TRY(read_as[inflater->compression](inflater, to, capacity, n));
    inflater->n_unpacked += *n;
    return inflater->compression == PLAIN ? NULL : check_limit(inflater);
}
