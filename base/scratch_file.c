/* A nameless file (O_TMPFILE, or one that is unlinked after it is made), with all of its space allocated at once, so
 * that a full disk is found when the file is opened. It is read and written with O_DIRECT; where the file system
 * refuses that, `direct` becomes false and pages are dropped from the cache after each call (they must be written to
 * the disk first). */
#define _GNU_SOURCE
#include "base/scratch_file.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Some file systems have no nameless files: make one with a name and remove the name. */
static int open_nameless(const char *directory)
{
    char path[PATH_BYTES];
    int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return fd;
    snprintf(path, sizeof path, "%.4000s/graft.scratch.XXXXXX", directory);
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0) unlink(path);
    return fd;
}

Err *scratch_file_open(ScratchFile *file, const char *directory, size_t bytes)
{
    *file = (ScratchFile){.directory = directory, .bytes = bytes};
    file->fd = open_nameless(directory);
    if (file->fd < 0) return err_errno("make a scratch file in %s", directory);
    file->open = true;
    int failed = posix_fallocate(file->fd, 0, (off_t)bytes);
    if (failed && failed != EOPNOTSUPP && failed != EINVAL) {
        errno = failed;
        Err *err = err_errno("take %zu bytes for a scratch file in %s", bytes, directory);
        scratch_file_close(file);
        return err;
    }
    file->direct = fcntl(file->fd, F_SETFL, O_DIRECT) == 0;
    return NULL;
}

void scratch_file_close(ScratchFile *file)
{
    if (file->open) close(file->fd);
    *file = (ScratchFile){0};
}

/* Did the call transfer bytes, or should it be made again? */
static bool continues(ScratchFile *file, ssize_t n)
{
    if (n > 0) return true;
    if (n < 0 && errno == EINTR) return true;
    if (n == 0 || errno != EINVAL || !file->direct) return false;
    file->direct = false;
    return fcntl(file->fd, F_SETFL, 0) == 0;
}

Err *scratch_file_write(ScratchFile *file, size_t at, size_t bytes, const void *from)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(file->fd, (const char *)from + done, bytes - done, (off_t)(at + done));
        if (!continues(file, n))
            return err_errno("write the scratch file in %s at %zu of %zu", file->directory, at + done, file->bytes);
        if (n > 0) done += (size_t)n;
    }
    if (file->direct) return NULL;
    if (fdatasync(file->fd))
        return err_errno("write the scratch file in %s", file->directory); /* only clean pages can be dropped */
    posix_fadvise(file->fd, (off_t)at, (off_t)bytes, POSIX_FADV_DONTNEED);
    return NULL;
}

Err *scratch_file_read(ScratchFile *file, size_t at, size_t bytes, void *to)
{
    for (size_t done = 0; done < bytes;) {
        errno = EIO; /* what is reported when the file ends too early */
        ssize_t n = pread(file->fd, (char *)to + done, bytes - done, (off_t)(at + done));
        if (!continues(file, n))
            return err_errno("read the scratch file in %s at %zu of %zu", file->directory, at + done, file->bytes);
        if (n > 0) done += (size_t)n;
    }
    if (!file->direct) posix_fadvise(file->fd, (off_t)at, (off_t)bytes, POSIX_FADV_DONTNEED);
    return NULL;
}
