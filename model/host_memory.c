/* The leader's memory is a file without a name (memfd). Others reach it through /proc, so nothing is left behind when
 * processes end, however they do. */
#define _GNU_SOURCE
#include "model/host_memory.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

Err *host_memory_map(HostRanks *host, size_t bytes, void **memory)
{
    bool leader = host->rank == 0, alone = host->size == 1;
    char path[64];
    int fd = -1;
    if (!alone && leader) {
        fd = host->fd = memfd_create("graft", MFD_CLOEXEC);
        host->leader = (int)getpid();
        if (fd < 0 || ftruncate(fd, (off_t)bytes))
            return err_errno("share %zu bytes among the ranks of this host", bytes);
    } else if (!alone) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", host->leader, host->fd);
        fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0) return err_errno("open the memory of this host's first rank, %s", path);
    }
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    alone ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED, fd, 0);
    Err *err = at == MAP_FAILED ? err_errno("reserve %zu bytes for weights", bytes) : NULL;
    if (!alone && (err || !leader)) close(fd);
    if (err) return err;
    if (alone) madvise(at, bytes, MADV_HUGEPAGE);
    *memory = at;
    return NULL;
}

void host_memory_unmap(const HostRanks *host, void *memory, size_t bytes)
{
    munmap(memory, bytes);
    if (host->size > 1 && host->rank == 0 && host->fd > 0) close(host->fd);
}
