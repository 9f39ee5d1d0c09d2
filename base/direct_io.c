/* Reads with O_DIRECT, so that the page cache of the host stays as it is. open(2) describes the alignment that O_DIRECT
 * asks for.
 *
 * A file system may refuse O_DIRECT when the file is opened or only when it is read. `direct` then becomes false for
 * the rest of the file's life: reads go through the page cache, and their pages are dropped afterwards. Before each
 * read the size and the time of the last change are compared with those at opening.
 *
 * Several threads may find out at once that direct reads are refused:
 *   1. The descriptor stays the same. Each of them takes O_DIRECT from it, which makes no difference the second time.
 *   2. `direct` becomes false only after that, so who finds it false reads through the page cache.
 *   3. A read that began while `direct` was true is made again, whatever the others have done since. */
#define _GNU_SOURCE
#include "base/direct_io.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

Err *direct_open(DirectFile *file, const char *path)
{
    struct stat st;
    *file = (DirectFile){.path = path, .direct = true};
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (file->fd < 0 && errno == EINVAL) {
        file->direct = false;
        file->fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (file->fd < 0) {
        *file = (DirectFile){0};
        return err_errno("open %s", path);
    }
    if (fstat(file->fd, &st)) {
        Err *err = err_errno("stat %s", path);
        direct_close(file);
        return err;
    }
    file->bytes = (size_t)st.st_size;
    file->changed_s = st.st_mtim.tv_sec;
    file->changed_ns = st.st_mtim.tv_nsec;
    return NULL;
}

void direct_close(DirectFile *file)
{
    if (file->path) close(file->fd);
    *file = (DirectFile){0};
}

static Err *check_unchanged(const DirectFile *file)
{
    struct stat st;
    if (fstat(file->fd, &st)) return err_errno("stat %s", file->path);
    if ((size_t)st.st_size != file->bytes)
        return err_new(ERR_IO, "%s has %lld bytes now; it had %zu when the run began", file->path,
                       (long long)st.st_size, file->bytes);
    if (st.st_mtim.tv_sec != file->changed_s || st.st_mtim.tv_nsec != file->changed_ns)
        return err_new(ERR_IO, "%s was written to since the run began", file->path);
    return NULL;
}

/* Was the read refused because it was direct? Then the next one is not. */
static bool give_up_direct(DirectFile *file, bool was_direct)
{
    if (!was_direct || errno != EINVAL) return false;
    int flags = fcntl(file->fd, F_GETFL);
    if (flags < 0 || fcntl(file->fd, F_SETFL, flags & ~O_DIRECT)) return false;
    file->direct = false;
    return true;
}

Err *direct_read(DirectFile *file, size_t at, size_t bytes, void *to)
{
    size_t end = at + bytes < file->bytes ? at + bytes : file->bytes, done = at;
    TRY(check_unchanged(file));
    while (done < end) {
        /* A direct read ends at a block or at the end of the file, so the rest stays aligned. */
        bool was_direct = file->direct;
        ssize_t n = pread(file->fd, (char *)to + (done - at), at + bytes - done, (off_t)done);
        if (n < 0 && (errno == EINTR || give_up_direct(file, was_direct))) continue;
        if (n < 0) return err_errno("read %s at %zu", file->path, done);
        if (n == 0)
            return err_new(ERR_IO, "%s ends at %zu; it had %zu bytes when the run began", file->path, done,
                           file->bytes);
        done += (size_t)n;
    }
    if (!file->direct) posix_fadvise(file->fd, (off_t)at, (off_t)bytes, POSIX_FADV_DONTNEED);
    return NULL;
}
