/* One lock of the kernel, over the whole file, and a line of text in it. What always holds:
 *   1. The file is removed while its lock is held. So a process that opened it before may get the lock of a file that
 *      no longer has a name: after locking, the open file must be the one under the name, or it is opened anew.
 *   2. The text only serves messages. Who holds the directory is decided by the kernel's lock alone.
 *   3. A file `lock` with another text is not graft's, and is neither changed nor removed.
 * Source: fcntl(2), "Advisory record locking"; nfs(5), "lock". */
#define _GNU_SOURCE
#include "base/lock_file.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HOLDER_BYTES = 320 };

static const char START[] = "graft train: process ";

/* ---- directories that this process made ------------------------------------------------------------------------- */

static void note_missing(LockFile *lock, const char *directory)
{
    char part[PATH_BYTES];
    size_t n = (size_t)snprintf(part, sizeof part, "%s", directory);
    if (n >= sizeof part) return;
    while (n > 1 && part[n - 1] == '/') part[--n] = 0;
    if (file_exists(part)) return;
    memcpy(lock->made, part, n + 1);
    for (char *slash; (slash = strrchr(part, '/')) && slash > part && !file_exists(part);) *slash = 0;
    lock->kept = file_exists(part) ? strlen(part) : 0;
}

/* Remove them, the innermost first, as long as they are empty. */
static void remove_made(LockFile *lock)
{
    while (strlen(lock->made) > lock->kept && rmdir(lock->made) == 0) {
        char *slash = strrchr(lock->made, '/');
        do *(slash ? slash : lock->made) = 0;
        while (slash && slash > lock->made && *--slash == '/');
    }
    *lock->made = 0;
}

/* ---- the holder -------------------------------------------------------------------------------------------------- */

static Err *write_holder(const LockFile *lock)
{
    char text[HOLDER_BYTES], host[256] = "";
    gethostname(host, sizeof host - 1);
    size_t n = (size_t)snprintf(text, sizeof text, "%s%ld on %s\n", START, (long)getpid(), host);
    if (ftruncate(lock->fd, 0) == 0 && pwrite(lock->fd, text, n, 0) == (ssize_t)n) return NULL;
    Err *err = err_errno("write %s", lock->path);
    unlink(lock->path);
    return err;
}

/* The text of the file, without its newline. */
static Err *read_holder(const LockFile *lock, char text[HOLDER_BYTES])
{
    ssize_t n = pread(lock->fd, text, HOLDER_BYTES - 1, 0);
    if (n < 0) return err_errno("read %s", lock->path);
    text[n] = 0;
    if (n && strncmp(text, START, strlen(START)) != 0)
        return err_new(ERR_USAGE, "%s is not a lock of graft; move it away or choose another directory", lock->path);
    text[strcspn(text, "\n")] = 0;
    return NULL;
}

static Err *refuse(const LockFile *lock)
{
    char text[HOLDER_BYTES], directory[PATH_BYTES];
    TRY(read_holder(lock, text));
    snprintf(directory, sizeof directory, "%.*s", (int)(strlen(lock->path) - strlen("/lock")), lock->path);
    const char *holder = *text ? text + strlen("graft train: ") : "a process that has just started";
    return err_new(
        ERR_USAGE,
        "%s is in use by %s (see %s): two runs would mix their files; wait until it ends, stop it, or choose "
        "another directory",
        directory, holder, lock->path);
}

/* ---- taking and giving up ---------------------------------------------------------------------------------------- */

static Err *lock_open_file(LockFile *lock)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(lock->fd, F_SETLK, &whole) == 0) return NULL;
    if (errno == EACCES || errno == EAGAIN) return refuse(lock);
    if (errno != ENOLCK && errno != ENOSYS && errno != EOPNOTSUPP && errno != EINVAL)
        return err_errno("lock %s", lock->path);
    log_line("  lock      %s: this file system has no locks; see that no other process trains here", lock->path);
    return NULL;
}

/* Whether the open file is the one under the name. */
static bool is_current(const LockFile *lock)
{
    struct stat open_file, named;
    return fstat(lock->fd, &open_file) == 0 && stat(lock->path, &named) == 0 && open_file.st_dev == named.st_dev &&
           open_file.st_ino == named.st_ino;
}

static Err *take(LockFile *lock)
{
    char text[HOLDER_BYTES];
    for (;;) {
        lock->fd = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (lock->fd < 0) return err_errno("open %s", lock->path);
        Err *err = lock_open_file(lock);
        bool current = !err && is_current(lock);
        if (!err && current) err = read_holder(lock, text);
        if (!err && current) err = write_holder(lock);
        if (!err && current) return NULL;
        close(lock->fd);
        if (err) return err;
    }
}

Err *lock_file_take(LockFile *lock, const char *directory)
{
    *lock = (LockFile){.fd = -1};
    TRY(file_join(lock->path, directory, "lock"));
    note_missing(lock, directory);
    Err *err = file_make_directory(directory);
    if (!err) err = take(lock);
    lock->held = !err;
    if (err) remove_made(lock);
    return err;
}

void lock_file_release(LockFile *lock)
{
    if (!lock->held) return;
    unlink(lock->path);
    close(lock->fd);
    remove_made(lock);
    lock->held = false;
}
