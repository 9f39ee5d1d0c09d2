/* A machine in a few numbers: measured once by `graft doctor` and kept for plans, or described by hand. */
#ifndef GRAFT_BASE_MACHINE_H
#define GRAFT_BASE_MACHINE_H

#include "base/err.h"

#include <stdbool.h>

typedef struct {
    double cores;
    double gflops;      /* fp32, all cores, of fused multiply-adds: a multiply-add counts 2 */
    double memory_gbs;  /* read by all cores, 1e9 bytes per second */
    double disk_gbs;    /* cold, as graft reads */
    double memory_gib;
} Machine;

/* Peaks of this moment; a busy machine shows less. Takes about a second. */
void machine_measure(Machine *machine);

/* Cold reading of a file at graft's queue depth, for `seconds` at the most; a file of 1 GiB or more says most.
 * direct: whether the file system let it past the page cache. Fails: ERR_IO. */
MUST_USE Err *machine_disk(const char *path, double seconds, double *gbs, bool *direct);

/* What doctor found: $XDG_CACHE_HOME/graft/machine.json, or ~/.cache. *found is false where there is none. */
MUST_USE Err *machine_load(Machine *machine, bool *found);
MUST_USE Err *machine_save(const Machine *machine);

#endif
