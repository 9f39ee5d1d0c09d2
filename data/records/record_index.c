#define _GNU_SOURCE
#include "data/records/record_index.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/rng.h"
#include "data/text/inflate.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK_BYTES = 1 << 22, LANES = 4 };

static const char magic[8] = "graftof1";

typedef struct { /* 64 bytes, as they stand in the file; only the machine that wrote it reads it */
    char magic[8];
    uint64_t bytes, seconds, nanoseconds; /* of the data file, as it is on disk */
    uint64_t text_bytes, count;
    uint64_t digest[2];
} Header;

struct RecordIndex {
    char *path;
    char text_path[PATH_BYTES], index_path[PATH_BYTES]; /* text_path: the data file, or what it was unpacked to */
    bool packed, started, waited;
    int fd; /* of text_path */
    Header header;
    FileMap map;
    pthread_t thread;
    atomic_bool stop;
    Err *err;
};

/* ---- going through the text ---- */

typedef struct {
    FILE *out;
    uint64_t at, line_begin, lanes[LANES];
    uint64_t count;
    bool blank; /* so far */
} Scan;

/* Eight bytes at a time in four chains, so that the multiplications overlap. */
static void add_to_digest(uint64_t lanes[LANES], const char *bytes, size_t n)
{
    uint64_t words[LANES] = {0};
    for (; n >= sizeof words; n -= sizeof words, bytes += sizeof words) {
        memcpy(words, bytes, sizeof words);
        for (size_t i = 0; i < LANES; i++) {
            lanes[i] = (lanes[i] ^ words[i]) * 0x9E3779B97F4A7C15u;
            lanes[i] ^= lanes[i] >> 29;
        }
    }
    memset(words, 0, sizeof words);
    memcpy(words, bytes, n);
    for (size_t i = 0; i < LANES; i++) lanes[i] = rng_mix(lanes[i] ^ words[i]) + n;
}

static void scan_chunk(Scan *scan, const char *chunk, size_t n)
{
    const char *at = chunk, *end = chunk + n;
    add_to_digest(scan->lanes, chunk, n);
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at)), *to = newline ? newline : end;
        if (scan->blank && !json_line_is_blank(at, (size_t)(to - at))) {
            scan->blank = false;
            scan->count++;
            fwrite(&scan->line_begin, sizeof scan->line_begin, 1, scan->out);
        }
        if (!newline) break;
        at = newline + 1;
        scan->line_begin = scan->at + (uint64_t)(at - chunk);
        scan->blank = true;
    }
    scan->at += n;
}

static Err *read_chunk(int fd, char *chunk, uint64_t at, size_t *n)
{
    *n = 0;
    while (*n < CHUNK_BYTES) { /* chunks have one size, and so the digest one value */
        ssize_t got = pread(fd, chunk + *n, CHUNK_BYTES - *n, (off_t)(at + *n));
        if (got < 0) return err_errno("read");
        if (got == 0) break;
        *n += (size_t)got;
    }
    return NULL;
}

static Err *scan_all(RecordIndex *o, Scan *scan)
{
    char *chunk;
    TRY(mem_new(&chunk, CHUNK_BYTES, 1));
    Err *err = NULL;
    size_t n = 1;
    posix_fadvise(o->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    while (!err && !o->stop && n) {
        err = read_chunk(o->fd, chunk, scan->at, &n);
        if (!err) scan_chunk(scan, chunk, n);
    }
    free(chunk);
    if (!err && o->stop) err = err_new(ERR_STOPPED, "closed before the end");
    return err;
}

/* ---- the files ---- */

static Err *unpack(RecordIndex *o, const char *to)
{
    char draft[PATH_BYTES], *chunk = NULL;
    Inflater *packed = NULL;
    FILE *out = NULL;
    size_t n = 1;
    TRY(file_draft_name(draft, to));
    Err *err = mem_new(&chunk, CHUNK_BYTES, 1);
    if (!err) err = inflate_open(&packed, o->path);
    if (!err && !(out = fopen(draft, "wbe"))) err = err_errno("create %s", draft);
    while (!err && n) {
        err = o->stop ? err_new(ERR_STOPPED, "closed before the end") : inflate_read(packed, chunk, CHUNK_BYTES, &n);
        if (!err && fwrite(chunk, 1, n, out) != n) err = err_errno("write %s", draft);
    }
    if (out) err = err_first(err, file_close(&out, draft));
    inflate_close(packed);
    free(chunk);
    if (!err) return file_replace(draft, to);
    unlink(draft);
    return err;
}

static Err *open_text(RecordIndex *o)
{
    o->fd = open(o->text_path, O_RDONLY | O_CLOEXEC);
    return o->fd < 0 ? err_errno("open %s", o->text_path) : NULL;
}

static Err *write_index(RecordIndex *o)
{
    char draft[PATH_BYTES];
    Scan scan = {.blank = true, .lanes = {1, 2, 3, 4}};
    TRY(file_draft_name(draft, o->index_path));
    scan.out = fopen(draft, "wbe");
    if (!scan.out) return err_errno("create %s", draft);
    fwrite(&o->header, sizeof o->header, 1, scan.out); /* its place; what is missing comes below */
    Err *err = scan_all(o, &scan);
    if (!err) {
        memcpy(o->header.magic, magic, sizeof magic);
        o->header.text_bytes = scan.at;
        o->header.count = scan.count;
        o->header.digest[0] = rng_key(scan.lanes[0], scan.lanes[1]) ^ scan.at;
        o->header.digest[1] = rng_key(scan.lanes[2], scan.lanes[3]) ^ scan.count;
        fwrite(&scan.at, sizeof scan.at, 1, scan.out);
        rewind(scan.out);
        if (fwrite(&o->header, sizeof o->header, 1, scan.out) != 1 || ferror(scan.out))
            err = err_errno("write %s", draft);
    }
    err = err_first(err, file_close(&scan.out, draft));
    if (!err) return file_replace(draft, o->index_path);
    unlink(draft);
    return err;
}

/* Whether the kept index belongs to the data file as it is now; then it is mapped. */
static bool is_kept(RecordIndex *o)
{
    Header found;
    struct stat text;
    if (!file_exists(o->index_path)) return false;
    Err *err = file_map(&o->map, o->index_path);
    bool good = !err && o->map.bytes >= sizeof found;
    if (good) {
        memcpy(&found, o->map.data, sizeof found);
        good = !memcmp(found.magic, magic, sizeof magic) && found.bytes == o->header.bytes &&
               found.seconds == o->header.seconds && found.nanoseconds == o->header.nanoseconds &&
               found.count < o->map.bytes && o->map.bytes == sizeof found + (found.count + 1) * sizeof(uint64_t) &&
               stat(o->text_path, &text) == 0 && (uint64_t)text.st_size == found.text_bytes;
    }
    if (good)
        o->header = found;
    else
        file_unmap(&o->map);
    err_free(err);
    return good;
}

static Err *build(RecordIndex *o)
{
    if (is_kept(o)) return open_text(o);
    if (o->packed) TRY(unpack(o, o->text_path));
    TRY(open_text(o));
    TRY(write_index(o));
    return file_map(&o->map, o->index_path);
}

static void *run(void *offsets)
{
    RecordIndex *o = offsets;
    o->err = err_wrap(build(o), "%s", o->path);
    return NULL;
}

/* ---- life ---- */

static Err *name_files(RecordIndex *o, const char *directory)
{
    char name[80], *real = realpath(o->path, NULL);
    struct stat status;
    if (!real || stat(real, &status)) {
        free(real);
        return err_errno("open %s", o->path);
    }
    o->header.bytes = (uint64_t)status.st_size;
    o->header.seconds = (uint64_t)status.st_mtim.tv_sec;
    o->header.nanoseconds = (uint64_t)status.st_mtim.tv_nsec;
    unsigned long long key = rng_name(0, real);
    free(real);
    snprintf(name, sizeof name, "offsets-%016llx.bin", key);
    TRY(file_join(o->index_path, directory, name));
    snprintf(name, sizeof name, "unpacked-%016llx.jsonl", key);
    if (o->packed) return file_join(o->text_path, directory, name);
    snprintf(o->text_path, sizeof o->text_path, "%s", o->path);
    return NULL;
}

Err *record_index_open(RecordIndex **out, const char *path, const char *directory)
{
    RecordIndex *o;
    *out = NULL;
    TRY(file_make_directory(directory));
    TRY(mem_new(&o, 1, sizeof *o));
    o->fd = -1;
    Err *err = mem_copy_text(&o->path, path);
    if (!err) err = inflate_is_needed(path, &o->packed);
    if (!err) err = name_files(o, directory);
    if (!err && pthread_create(&o->thread, NULL, run, o)) err = err_new(ERR_MEMORY, "%s: no thread to be had", path);
    if (!err) {
        o->started = true;
        *out = o;
        return NULL;
    }
    record_index_close(o);
    return err;
}

static void join(RecordIndex *o)
{
    if (o->started && !o->waited) pthread_join(o->thread, NULL);
    o->waited = true;
}

Err *record_index_wait(RecordIndex *o)
{
    join(o);
    return o->err ? err_new(err_kind(o->err), "%s", err_message(o->err)) : NULL;
}

void record_index_close(RecordIndex *o)
{
    if (!o) return;
    o->stop = true;
    join(o);
    err_free(o->err);
    file_unmap(&o->map);
    if (o->fd >= 0) close(o->fd);
    free(o->path);
    free(o);
}

/* ---- use ---- */

size_t record_index_count(const RecordIndex *o) { return (size_t)o->header.count; }

void record_index_digest(const RecordIndex *o, uint64_t sum[2])
{
    memcpy(sum, o->header.digest, sizeof o->header.digest);
}

static uint64_t place(const RecordIndex *o, size_t i)
{
    uint64_t at;
    memcpy(&at, o->map.data + sizeof(Header) + i * sizeof at, sizeof at);
    return at;
}

Err *record_index_read(const RecordIndex *o, size_t i, Text *line)
{
    ASSERT(i < o->header.count, "record %zu of %llu", i, (unsigned long long)o->header.count);
    uint64_t from = place(o, i), to = place(o, i + 1);
    size_t n = (size_t)(to - from);
    if (to < from || to > o->header.text_bytes) return err_new(ERR_FORMAT, "%s is damaged; remove it", o->index_path);
    text_clear(line);
    TRY(mem_grow(&line->data, &line->capacity, n + 1, 1));
    while (line->n < n) {
        ssize_t got = pread(o->fd, line->data + line->n, n - line->n, (off_t)(from + line->n));
        if (got < 0) return err_errno("read %s", o->text_path);
        if (got == 0) return err_new(ERR_IO, "read %s: the file has become shorter", o->text_path);
        line->n += (size_t)got;
    }
    while (n && (line->data[n - 1] == '\n' || json_line_is_blank(line->data + n - 1, 1)))
        n--; /* and blank lines after it */
    const char *inner = memchr(line->data, '\n', n);
    if (inner) return err_new(ERR_IO, "%s has changed while it was read", o->text_path);
    line->n = n;
    line->data[n] = 0;
    return NULL;
}

Err *record_index_line_number(const RecordIndex *o, size_t i, size_t *number)
{
    uint64_t to = place(o, i), at = 0;
    char *chunk;
    size_t n = 1;
    Err *err = NULL;
    *number = 1;
    TRY(mem_new(&chunk, CHUNK_BYTES, 1));
    while (at < to && n && !(err = read_chunk(o->fd, chunk, at, &n))) {
        size_t here = to - at < n ? (size_t)(to - at) : n;
        for (const char *c = chunk; (c = memchr(c, '\n', (size_t)(chunk + here - c))); c++) ++*number;
        at += n;
    }
    free(chunk);
    return err;
}
