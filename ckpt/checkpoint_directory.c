/* The checkpoints of a run: which files in its directory are checkpoints, which is the newest, and which are removed. A
 * file is known by its name alone: checkpoint-DIGITS.h5, or checkpoint-DIGITS.h5.draft.KEY for a draft (base/file.h)
 * that a killed run left behind. Files with other names are never removed. */
#include "ckpt/checkpoint.h"

#include "base/memory.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

Err *checkpoint_path(char path[PATH_BYTES], const char *directory, uint64_t step)
{
    char name[64];
    snprintf(name, sizeof name, "checkpoint-%06" PRIu64 ".h5", step);
    return file_join(path, directory, name);
}

/* Is the name checkpoint-DIGITS.h5, or that of a draft of it? */
static bool parse_name(const char *name, uint64_t *step, bool *draft)
{
    static const char HEAD[] = "checkpoint-", TAIL[] = ".h5";
    char target[NAME_MAX + 1];
    if (strncmp(name, HEAD, strlen(HEAD)) != 0 || !isdigit((unsigned char)name[strlen(HEAD)])) return false;
    char *end;
    errno = 0;
    *step = strtoull(name + strlen(HEAD), &end, 10);
    if (errno || strncmp(end, TAIL, strlen(TAIL)) != 0) return false;
    size_t n = (size_t)(end - name) + strlen(TAIL);
    if (n >= sizeof target) return false;
    memcpy(target, name, n);
    target[n] = 0;
    *draft = file_is_draft_of(name, target);
    return *draft || name[n] == 0;
}

/* A checkpoint or a draft in a directory. Sorted, the newest checkpoint comes first and drafts come last. */
typedef struct {
    uint64_t step;
    bool draft;
    char name[128];
} CheckpointFile;

static int newest_first(const void *a, const void *b)
{
    const CheckpointFile *x = a, *y = b;
    if (x->draft != y->draft) return x->draft - y->draft;
    return (x->step < y->step) - (x->step > y->step);
}

static Err *list_directory(const char *directory, CheckpointFile **list, size_t *n)
{
    Err *err = NULL;
    size_t capacity = 0;
    *list = NULL;
    *n = 0;
    DIR *stream = opendir(directory);
    if (!stream) return errno == ENOENT ? NULL : err_errno("list %s", directory);
    for (struct dirent *entry; !err && (entry = readdir(stream));) {
        CheckpointFile found;
        if (!parse_name(entry->d_name, &found.step, &found.draft)) continue;
        if (snprintf(found.name, sizeof found.name, "%s", entry->d_name) >= (int)sizeof found.name) continue;
        if (!(err = mem_grow(list, &capacity, *n + 1, sizeof **list))) (*list)[(*n)++] = found;
    }
    closedir(stream);
    if (*n) qsort(*list, *n, sizeof **list, newest_first);
    return err;
}

uint64_t checkpoint_step(const char *path)
{
    const char *slash = strrchr(path, '/');
    uint64_t step;
    bool draft;
    return parse_name(slash ? slash + 1 : path, &step, &draft) ? step : 0;
}

Err *checkpoint_newest(const char *directory, char path[PATH_BYTES], bool *found)
{
    CheckpointFile *list;
    size_t n;
    Err *err = list_directory(directory, &list, &n);
    *found = !err && n && !list[0].draft;
    if (*found) err = file_join(path, directory, list[0].name);
    free(list);
    return err;
}

/* Remove drafts, and checkpoints for which `keeps` is false. */
static Err *remove_files(const char *directory, bool (*keeps)(const CheckpointFile *file, size_t i, uint64_t limit),
                         uint64_t limit)
{
    CheckpointFile *list;
    size_t n;
    char path[PATH_BYTES];
    Err *err = list_directory(directory, &list, &n);
    for (size_t i = 0; !err && i < n; i++) {
        if (!list[i].draft && keeps(&list[i], i, limit)) continue;
        err = file_join(path, directory, list[i].name);
        if (!err && unlink(path) && errno != ENOENT) err = err_errno("remove %s", path);
    }
    free(list);
    return err;
}

static bool is_new(const CheckpointFile *file, size_t i, uint64_t keep)
{
    (void)file;
    return keep == 0 || i < keep;
}

static bool is_before(const CheckpointFile *file, size_t i, uint64_t end)
{
    (void)i;
    return file->step < end;
}

Err *checkpoint_rotate(const char *directory, size_t keep) { return remove_files(directory, is_new, keep); }

Err *checkpoint_remove_from(const char *directory, uint64_t step) { return remove_files(directory, is_before, step); }
