/* Memory of this process and of its host, as the kernel reports it. */
#ifndef GRAFT_BASE_PROC_MEMORY_H
#define GRAFT_BASE_PROC_MEMORY_H

#include <stddef.h>

/* Bytes that this process may still take: the smaller of what is free on the host and what is left in its cgroup (v1
 * or v2); SIZE_MAX when neither is known. */
size_t proc_memory_available(void);

/* Bytes on a line of a /proc file that counts in KiB, such as "VmHWM:"; 0 where there is no such line. */
size_t proc_memory_bytes(const char *path, const char *name);

/* Peak resident memory of this process in bytes, file pages included. */
size_t proc_memory_peak(void);

#endif
