/* A directory that one process at a time may write into. Its holder keeps DIRECTORY/lock open under a lock of the
 * kernel (fcntl), and writes its process id and its host into the file.
 *
 *     process alive    file and kernel's lock are there: everybody else is refused
 *     ended            the file is removed
 *     killed           the file remains, the kernel's lock is gone: the next process takes it over
 *
 * The lock is advisory: only who asks for it is refused. Over NFS it works between hosts where the server's lock
 * service runs. Where a file system has no locks at all, a line says so and nobody is refused. A process can hold
 * several directories, but must not open their lock files otherwise: closing one would give up the lock. */
#ifndef GRAFT_BASE_LOCK_FILE_H
#define GRAFT_BASE_LOCK_FILE_H

#include "base/file.h"

typedef struct {
    bool held;
    int fd;
    char path[PATH_BYTES];
    char made[PATH_BYTES]; /* the directory, if this process made it; else "" */
    size_t kept;           /* length of the part of `made` that was there before */
} LockFile;

/* Make the directory, if it is not there, and lock it.
 * Fails: ERR_USAGE, naming the process and the host that hold it, or that `lock` is a file of another program;
 * ERR_IO. */
MUST_USE Err *lock_file_take(LockFile *lock, const char *directory);

/* Remove the lock file, give up the lock, and remove directories that lock_file_take made if they are empty. Does
 * nothing when nothing is held. */
void lock_file_release(LockFile *lock);

#endif
