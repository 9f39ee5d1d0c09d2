/* The thread opens a stored index that is still valid, or scans the file and writes a new one.
 *
 *   - Index and decompressed copy are written as drafts and renamed, so a file under its name is complete. Indexes of
 *     the same file, of other threads, ranks or runs, each write drafts of their own; all of them have the same bytes.
 *   - The thread alone writes the struct until record_index_wait has joined it; afterwards nothing changes. */
#define _GNU_SOURCE
#include "data/records/record_index.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/rng.h"
#include "data/text/inflate.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK_BYTES = 1 << 22, LANES = 4 };

static const char magic[8] = "graftof1";

typedef struct { /* 64 bytes, as in the file, which only the machine that wrote it reads */
    char magic[8];
    uint64_t bytes, seconds, nanoseconds; /* of the data file, also when it is compressed */
    uint64_t text_bytes, count;
    uint64_t digest[2];
} IndexHeader;

struct RecordIndex {
    char *path;
    char text_path[PATH_BYTES], index_path[PATH_BYTES]; /* text_path: the data file, or its decompressed copy */
    bool compressed, started, waited;
    int fd; /* of text_path */
    IndexHeader header;
    FileMap map;
    pthread_t thread;
    atomic_bool stop;
    Err *err;
};

/* ---- scanning the text ---- */

typedef struct {
    FILE *out;
    uint64_t at, line_begin, lanes[LANES];
    uint64_t count;
    bool blank; /* the current line, so far */
} IndexScan;

/* Four chains of eight bytes each, so that their multiplications overlap. */
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

static void scan_chunk(IndexScan *scan, const char *chunk, size_t n)
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
    while (*n < CHUNK_BYTES) { /* full chunks, because the digest depends on where chunks end */
        ssize_t got = pread(fd, chunk + *n, CHUNK_BYTES - *n, (off_t)(at + *n));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return err_errno("read");
        if (got == 0) break;
        *n += (size_t)got;
    }
    return NULL;
}

static Err *scan_all(RecordIndex *index, IndexScan *scan)
{
    char *chunk;
    TRY(mem_new(&chunk, CHUNK_BYTES, 1));
    Err *err = NULL;
    size_t n = 1;
    posix_fadvise(index->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    while (!err && !index->stop && n) {
        err = read_chunk(index->fd, chunk, scan->at, &n);
        if (!err) scan_chunk(scan, chunk, n);
    }
    free(chunk);
    if (!err && index->stop) err = err_new(ERR_STOPPED, "closed before the end");
    return err;
}

/* ---- the files ---- */

static Err *decompress(RecordIndex *index, const char *to)
{
    char draft[PATH_BYTES] = "", *chunk = NULL;
    Inflater *inflater = NULL;
    FILE *out = NULL;
    size_t n = 1;
    Err *err = mem_new(&chunk, CHUNK_BYTES, 1);
    if (!err) err = inflate_open(&inflater, index->path);
    if (!err) err = file_draft_open(&out, draft, to);
    while (!err && n) {
        err = index->stop ? err_new(ERR_STOPPED, "closed before the end")
                          : inflate_read(inflater, chunk, CHUNK_BYTES, &n);
        if (!err && fwrite(chunk, 1, n, out) != n) err = err_errno("write %s", draft);
    }
    err = err_first(err, file_close(&out, draft));
    inflate_close(inflater);
    free(chunk);
    if (!err) return file_replace(draft, to);
    unlink(draft);
    return err;
}

static Err *open_text_file(RecordIndex *index)
{
    index->fd = open(index->text_path, O_RDONLY | O_CLOEXEC);
    return index->fd < 0 ? err_errno("open %s", index->text_path) : NULL;
}

static Err *write_index(RecordIndex *index)
{
    char draft[PATH_BYTES];
    IndexScan scan = {.blank = true, .lanes = {1, 2, 3, 4}};
    TRY(file_draft_open(&scan.out, draft, index->index_path));
    fwrite(&index->header, sizeof index->header, 1, scan.out); /* written again when it is complete */
    Err *err = scan_all(index, &scan);
    if (!err) {
        memcpy(index->header.magic, magic, sizeof magic);
        index->header.text_bytes = scan.at;
        index->header.count = scan.count;
        index->header.digest[0] = rng_key(scan.lanes[0], scan.lanes[1]) ^ scan.at;
        index->header.digest[1] = rng_key(scan.lanes[2], scan.lanes[3]) ^ scan.count;
        fwrite(&scan.at, sizeof scan.at, 1, scan.out);
        rewind(scan.out);
        if (fwrite(&index->header, sizeof index->header, 1, scan.out) != 1 || ferror(scan.out))
            err = err_errno("write %s", draft);
    }
    err = err_first(err, file_close(&scan.out, draft));
    if (!err) return file_replace(draft, index->index_path);
    unlink(draft);
    return err;
}

/* Map the stored index, when it belongs to the data file as it is now. */
static bool reuse_index(RecordIndex *index)
{
    IndexHeader found;
    struct stat text;
    if (!file_exists(index->index_path)) return false;
    Err *err = file_map(&index->map, index->index_path);
    bool good = !err && index->map.bytes >= sizeof found;
    if (good) {
        memcpy(&found, index->map.data, sizeof found);
        good = !memcmp(found.magic, magic, sizeof magic) && found.bytes == index->header.bytes &&
               found.seconds == index->header.seconds && found.nanoseconds == index->header.nanoseconds &&
               found.count < index->map.bytes &&
               index->map.bytes == sizeof found + (found.count + 1) * sizeof(uint64_t) &&
               stat(index->text_path, &text) == 0 && (uint64_t)text.st_size == found.text_bytes;
    }
    if (good)
        index->header = found;
    else
        file_unmap(&index->map);
    err_free(err);
    return good;
}

static Err *build_index(RecordIndex *index)
{
    if (reuse_index(index)) return open_text_file(index);
    if (index->compressed) TRY(decompress(index, index->text_path));
    TRY(open_text_file(index));
    TRY(write_index(index));
    return file_map(&index->map, index->index_path);
}

static void *index_thread(void *context)
{
    RecordIndex *index = context;
    index->err = err_wrap(build_index(index), "%s", index->path);
    return NULL;
}

/* ---- opening and closing ---- */

static Err *name_files(RecordIndex *index, const char *directory)
{
    char name[80], *real = realpath(index->path, NULL);
    struct stat status;
    if (!real || stat(real, &status)) {
        free(real);
        return err_errno("open %s", index->path);
    }
    index->header.bytes = (uint64_t)status.st_size;
    index->header.seconds = (uint64_t)status.st_mtim.tv_sec;
    index->header.nanoseconds = (uint64_t)status.st_mtim.tv_nsec;
    unsigned long long key = rng_name(0, real);
    free(real);
    snprintf(name, sizeof name, "offsets-%016llx.bin", key);
    TRY(file_join(index->index_path, directory, name));
    snprintf(name, sizeof name, "unpacked-%016llx.jsonl", key);
    if (index->compressed) return file_join(index->text_path, directory, name);
    snprintf(index->text_path, sizeof index->text_path, "%s", index->path);
    return NULL;
}

Err *record_index_open(RecordIndex **out, const char *path, const char *directory)
{
    RecordIndex *index;
    *out = NULL;
    TRY(file_make_directory(directory));
    TRY(mem_new(&index, 1, sizeof *index));
    index->fd = -1;
    Err *err = mem_copy_text(&index->path, path);
    if (!err) err = inflate_is_needed(path, &index->compressed);
    if (!err) err = name_files(index, directory);
    if (!err && pthread_create(&index->thread, NULL, index_thread, index))
        err = err_new(ERR_MEMORY, "%s: cannot start a thread", path);
    if (!err) {
        index->started = true;
        *out = index;
        return NULL;
    }
    record_index_close(index);
    return err;
}

static void join_thread(RecordIndex *index)
{
    if (index->started && !index->waited) pthread_join(index->thread, NULL);
    index->waited = true;
}

Err *record_index_wait(RecordIndex *index)
{
    join_thread(index);
    return index->err ? err_new(err_kind(index->err), "%s", err_message(index->err)) : NULL;
}

void record_index_close(RecordIndex *index)
{
    if (!index) return;
    index->stop = true;
    join_thread(index);
    err_free(index->err);
    file_unmap(&index->map);
    if (index->fd >= 0) close(index->fd);
    free(index->path);
    free(index);
}

/* ---- access ---- */

size_t record_index_count(const RecordIndex *index) { return (size_t)index->header.count; }

void record_index_digest(const RecordIndex *index, uint64_t sum[2])
{
    memcpy(sum, index->header.digest, sizeof index->header.digest);
}

static uint64_t record_begin(const RecordIndex *index, size_t i)
{
    uint64_t at;
    memcpy(&at, index->map.data + sizeof(IndexHeader) + i * sizeof at, sizeof at);
    return at;
}

Err *record_index_read(const RecordIndex *index, size_t i, Text *line)
{
    ASSERT(i < index->header.count, "record %zu of %llu", i, (unsigned long long)index->header.count);
    uint64_t from = record_begin(index, i), to = record_begin(index, i + 1);
    size_t n = (size_t)(to - from);
    if (to < from || to > index->header.text_bytes)
        return err_new(ERR_FORMAT, "%s is damaged; remove it", index->index_path);
    text_clear(line);
    TRY(mem_grow(&line->data, &line->capacity, n + 1, 1));
    while (line->n < n) {
        ssize_t got = pread(index->fd, line->data + line->n, n - line->n, (off_t)(from + line->n));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return err_errno("read %s", index->text_path);
        if (got == 0) return err_new(ERR_IO, "read %s: the file has become shorter", index->text_path);
        line->n += (size_t)got;
    }
    while (n && (line->data[n - 1] == '\n' || json_line_is_blank(line->data + n - 1, 1)))
        n--; /* and blank lines after it */
    const char *inner = memchr(line->data, '\n', n);
    if (inner) return err_new(ERR_IO, "%s has changed while it was read", index->text_path);
    line->n = n;
    line->data[n] = 0;
    return NULL;
}

Err *record_index_line_number(const RecordIndex *index, size_t i, size_t *number)
{
    uint64_t to = record_begin(index, i), at = 0;
    char *chunk;
    size_t n = 1;
    Err *err = NULL;
    *number = 1;
    TRY(mem_new(&chunk, CHUNK_BYTES, 1));
    while (at < to && n && !(err = read_chunk(index->fd, chunk, at, &n))) {
        size_t here = to - at < n ? (size_t)(to - at) : n;
        for (const char *c = chunk; (c = memchr(c, '\n', (size_t)(chunk + here - c))); c++) ++*number;
        at += n;
    }
    free(chunk);
    return err;
}
