#define _GNU_SOURCE
#include "base/scratch_file.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Some file systems have no nameless files: make one and take its name away. */
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

Err *spill_open(Spill *spill, const char *directory, size_t bytes)
{
    *spill = (Spill){.directory = directory, .bytes = bytes};
    spill->fd = open_nameless(directory);
    if (spill->fd < 0) return err_errno("make a scratch file in %s", directory);
    spill->open = true;
    int failed = posix_fallocate(spill->fd, 0, (off_t)bytes);
    if (failed && failed != EOPNOTSUPP && failed != EINVAL) {
        errno = failed;
        Err *err = err_errno("take %zu bytes for a scratch file in %s", bytes, directory);
        spill_close(spill);
        return err;
    }
    spill->direct = fcntl(spill->fd, F_SETFL, O_DIRECT) == 0;
    return NULL;
}

void spill_close(Spill *spill)
{
    if (spill->open) close(spill->fd);
    *spill = (Spill){0};
}

static bool go_on(Spill *spill, ssize_t n)
{
    if (n > 0) return true;
    if (n < 0 && errno == EINTR) return true;
    if (n == 0 || errno != EINVAL || !spill->direct) return false;
    spill->direct = false;
    return fcntl(spill->fd, F_SETFL, 0) == 0;
}

Err *spill_write(Spill *spill, size_t at, size_t bytes, const void *from)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(spill->fd, (const char *)from + done, bytes - done, (off_t)(at + done));
        if (!go_on(spill, n))
            return err_errno("write the scratch file in %s at %zu of %zu", spill->directory, at + done, spill->bytes);
        if (n > 0) done += (size_t)n;
    }
    if (spill->direct) return NULL;
    if (fdatasync(spill->fd))
        return err_errno("write the scratch file in %s", spill->directory); /* only clean pages can be dropped */
    posix_fadvise(spill->fd, (off_t)at, (off_t)bytes, POSIX_FADV_DONTNEED);
    return NULL;
}

Err *spill_read(Spill *spill, size_t at, size_t bytes, void *to)
{
    for (size_t done = 0; done < bytes;) {
        errno = EIO; /* of an end that comes too early */
        ssize_t n = pread(spill->fd, (char *)to + done, bytes - done, (off_t)(at + done));
        if (!go_on(spill, n))
            return err_errno("read the scratch file in %s at %zu of %zu", spill->directory, at + done, spill->bytes);
        if (n > 0) done += (size_t)n;
    }
    if (!spill->direct) posix_fadvise(spill->fd, (off_t)at, (off_t)bytes, POSIX_FADV_DONTNEED);
    return NULL;
}
