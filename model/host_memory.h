/* Memory that the ranks of a host share. */
#ifndef GRAFT_MODEL_HOST_MEMORY_H
#define GRAFT_MODEL_HOST_MEMORY_H

#include "base/err.h"

#include <stddef.h>

/* This process among those of its host. The leader makes the memory, the others open it by the leader's process and
 * descriptor. */
typedef struct {
    int rank, size; /* leader: rank 0 */
    int leader, fd; /* of the leader: process id, descriptor of its memory; out for the leader, in for others */
} HostRanks;

/* Map `bytes` of zeros that all ranks of the host see; of one process alone they are private, in huge pages. The leader
 * calls first. Fails: ERR_IO, ERR_MEMORY. Owner: the caller, host_memory_unmap. */
MUST_USE Err *host_memory_map(HostRanks *host, size_t bytes, void **memory);
void host_memory_unmap(const HostRanks *host, void *memory, size_t bytes);

#endif
