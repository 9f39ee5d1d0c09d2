/* A machine in a few numbers: measured once by `graft doctor` and kept for plans, or described by hand. */
#ifndef GRAFT_BASE_MACHINE_H
#define GRAFT_BASE_MACHINE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum { MACHINE_ROWS = 6 };
extern const size_t machine_rows[MACHINE_ROWS]; /* 4 to 2048 */

typedef struct {
    double cores;
    double gflops;     /* fp32, all cores, of fused multiply-adds: a multiply-add counts 2 */
    double memory_gbs; /* read by all cores, 1e9 bytes per second */
    double disk_gbs;   /* cold, as graft reads */
    double memory_gib;
    double fp32[MACHINE_ROWS],
        bf16[MACHINE_ROWS]; /* GFLOP/s of products with so many rows (tensor/rates); 0: not known, or no such path */
} Machine;

/* GFLOP/s of products with `rows` rows: between what was measured; not measured, 0.6 rows / (rows + 8) of the peak. */
double machine_rate(const Machine *machine, bool bf16, double rows);

/* Peaks of this moment; a busy machine shows less. Takes about a second. */
void machine_measure(Machine *machine);

/* Cold reading of a file at graft's queue depth, for `seconds` at the most; a file of 1 GiB or more says most.
 * direct: whether the file system let it past the page cache. Fails: ERR_IO. */
MUST_USE Err *machine_disk(const char *path, double seconds, double *gbs, bool *direct);

/* What doctor found: $XDG_CACHE_HOME/graft/machine.json, or ~/.cache. *found is false where there is none. */
MUST_USE Err *machine_load(Machine *machine, bool *found);
MUST_USE Err *machine_save(const Machine *machine);

#endif
