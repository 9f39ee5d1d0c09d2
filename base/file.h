/* Files: read whole, mapped read-only, or replaced whole.
 *
 * Writing goes to a draft beside the target (`name.draft.PID`), which is synced and renamed: readers see the old
 * file or the new one, never half of it. */
#ifndef GRAFT_BASE_FILE_H
#define GRAFT_BASE_FILE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdio.h>

enum { PATH_BYTES = 4096 };

/* Bytes of a file, mapped read-only and shared. An empty file has data == NULL, bytes == 0. */
typedef struct {
    const unsigned char *data;
    size_t bytes;
} FileMap;

MUST_USE Err *file_map(FileMap *map, const char *path);
void file_unmap(FileMap *map);

/* A mapped file that shrinks, or a disk that fails under it, raises SIGBUS at the next touch. From here on the program then
 * says which file it was and ends with ERR_IO's code; what was written and renamed before stays whole. */
void file_watch_maps(void);

/* The whole file as text, ended by a zero that is not counted. Owner: the caller, until free(). */
MUST_USE Err *file_read(char **text, size_t *bytes, const char *path);

bool file_exists(const char *path);
bool file_is_directory(const char *path);

/* Write `directory/name` into path. Fails when it does not fit. */
MUST_USE Err *file_join(char path[PATH_BYTES], const char *directory, const char *name);

/* Make a directory and those above it; one that exists is fine. */
MUST_USE Err *file_make_directory(const char *path);

/* The draft of a target, and its end: sync the draft and its folder, rename it over the target.
 * On failure the draft is removed. */
MUST_USE Err *file_draft_name(char draft[PATH_BYTES], const char *path);
MUST_USE Err *file_replace(const char *draft, const char *path);

/* Replace a file by `bytes` bytes of data. */
MUST_USE Err *file_write(const char *path, const void *data, size_t bytes);

/* fclose that reports what a buffered write may have hidden (a full disk). Sets *stream to NULL. */
MUST_USE Err *file_close(FILE **stream, const char *path);

#endif
