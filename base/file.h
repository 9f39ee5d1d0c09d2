/* Files: read whole, mapped read-only, or replaced whole.
 *
 * Writing goes to a draft beside the target (`name.draft.KEY`, KEY of 16 hexadecimal digits), which is synced and
 * renamed: readers see the old file or the new one, never half of it. Only regular files are replaced (FileWriter). */
#ifndef GRAFT_BASE_FILE_H
#define GRAFT_BASE_FILE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdio.h>

enum { PATH_BYTES = 4096 };

/* Bytes of a file, mapped read-only and shared. An empty file has data == NULL, bytes == 0. */
typedef struct {
    const unsigned char *data; /* [bytes] */
    size_t bytes;
    void *mapping; /* the same address, to unmap it */
} FileMap;

MUST_USE Err *file_map(FileMap *map, const char *path);
void file_unmap(FileMap *map);

/* Handle SIGBUS, which is raised when a page of a mapped file can no longer be read: the file was cut short, or its
 * disk failed. The program then names the file and exits with ERR_IO. Files that were replaced before that are
 * complete. */
void file_watch_maps(void);

/* Read the whole file. The text ends with a zero that *bytes does not count. Owner: the caller, until free(). */
MUST_USE Err *file_read(char **text, size_t *bytes, const char *path);

bool file_exists(const char *path);
bool file_is_directory(const char *path);

/* Write `directory/name` into path. Fails: ERR_IO when it does not fit. */
MUST_USE Err *file_join(char path[PATH_BYTES], const char *directory, const char *name);

/* Make a directory and its parents. Nothing happens when it exists. */
MUST_USE Err *file_make_directory(const char *path);

/* A new name for a draft of a target, which no other thread, process or host gets; or such a draft, made and open to be
 * written. It is never a file that was there before. Fails: ERR_IO; then draft is empty and *stream NULL. */
MUST_USE Err *file_draft_name(char draft[PATH_BYTES], const char *path);
MUST_USE Err *file_draft_open(FILE **stream, char draft[PATH_BYTES], const char *path);

/* Whether a name is that of a draft of `target`, of this graft or an older one, whose keys were decimal numbers. */
bool file_is_draft_of(const char *name, const char *target);

/* Replace the target: sync the draft, rename it over the target, sync the folder. On failure the draft is removed. */
MUST_USE Err *file_replace(const char *draft, const char *path);

/* What is being written to a path. The path decides where it goes:
 *   - `-`, or what is standard output or standard error already (/dev/stdout): there, after what was printed before;
 *   - nothing there yet, or a regular file: a draft beside it, which replaces it on closing and keeps its mode;
 *   - anything else (a device, a FIFO): it is written to.
 * Symbolic links are followed: what they lead to is replaced, the links stay.
 *
 *     FileWriter out;
 *     TRY(file_writer_open(&out, path));
 *     fprintf(out.stream, ...);       // a failure shows in file_writer_close
 *     return file_writer_close(&out); // or file_writer_discard: what was there before stays */
typedef struct {
    FILE *stream;
    const char *name;                           /* for errors; the caller's path, or "standard output" */
    char target[PATH_BYTES], draft[PATH_BYTES]; /* draft empty: written to directly */
} FileWriter;

MUST_USE Err *file_writer_open(FileWriter *writer, const char *path);
MUST_USE Err *file_writer_close(FileWriter *writer);
void file_writer_discard(FileWriter *writer);

/* Write `bytes` bytes of data to a path, with a FileWriter. */
MUST_USE Err *file_write(const char *path, const void *data, size_t bytes);

/* Do both paths lead to one file on disk, by whatever names? */
bool file_is_same(const char *path, const char *other);

/* Hand what was written to the disk: after it, a power failure does not lose it. */
MUST_USE Err *file_sync(FILE *stream, const char *path);

/* fclose that also reports errors of earlier buffered writes, such as a full disk. Sets *stream to NULL. */
MUST_USE Err *file_close(FILE **stream, const char *path);

#endif
