/* Assertions about Err, and scratch directories: one for each test, in TMPDIR or /tmp. */
#define _GNU_SOURCE
#include "tests/support/check.h"

#include <dirent.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void check_ok(Err *err, const char *file, int line)
{
    if (!err) return;
    print_error("%s\n", err_message(err));
    err_free(err);
    _fail(file, line);
}

void check_fails(Err *err, ErrKind kind, const char *part, const char *file, int line)
{
    if (!err) {
        print_error("success; expected an error about \"%s\"\n", part);
        _fail(file, line);
    } else {
        bool right = err_kind(err) == kind && strstr(err_message(err), part);
        if (!right)
            print_error("error of kind %d: %s\nexpected kind %d: ...%s...\n", (int)err_kind(err), err_message(err),
                        (int)kind, part);
        err_free(err);
        if (!right) _fail(file, line);
    }
}

int scratch_open(void **state)
{
    const char *parent = getenv("TMPDIR");
    char *path = malloc(PATH_BYTES);
    if (!path) return -1;
    snprintf(path, PATH_BYTES, "%s/graft-test-XXXXXX", parent ? parent : "/tmp");
    *state = mkdtemp(path);
    return *state ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st, (void)type, (void)where;
    return remove(path);
}

int scratch_close(void **state)
{
    int failed = nftw(*state, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return failed;
}

const char *scratch_path(void **state, const char *name, char path[PATH_BYTES])
{
    assert_ok(file_join(path, *state, name));
    return path;
}

size_t count_entries(const char *directory)
{
    size_t n = 0;
    DIR *stream = opendir(directory);
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream));) n += entry->d_name[0] != '.';
    closedir(stream);
    return n;
}
