/* A machine in a few numbers. `graft doctor` measures them once and keeps them in a file, which plans read; or the
 * user states them. */
#ifndef GRAFT_BASE_MACHINE_H
#define GRAFT_BASE_MACHINE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/* Numbers of rows at which products are measured: 4 to 2048. */
enum { MACHINE_ROWS = 6 };
extern const size_t machine_rows[MACHINE_ROWS];

typedef struct {
    double cores;
    double gflops;     /* fp32 peak of all cores; a multiply-add counts 2 */
    double memory_gbs; /* memory reads of all cores, 1e9 bytes per second */
    double disk_gbs;   /* reads of a file that is not in the page cache */
    double memory_gib;
    double fp32[MACHINE_ROWS],
        bf16[MACHINE_ROWS]; /* GFLOP/s at machine_rows (tensor/rates); 0: not known, or no such path */
} Machine;

/* GFLOP/s of products with `rows` rows, interpolated between measured ones; without those, 0.6 rows / (rows + 8) of
 * the peak. */
double machine_rate(const Machine *machine, bool bf16, double rows);

/* The name of the CPU as the kernel reports it; "unknown" where it reports none. */
enum { MACHINE_NAME_BYTES = 128 };
void machine_cpu_name(char name[MACHINE_NAME_BYTES]);

/* Measure cores, gflops, memory_gbs and memory_gib; other programs lower the numbers. Takes about a second. */
void machine_measure(Machine *machine);

/* Measure reads of a file, past the page cache and with as many requests at once as a training run makes.
 *   seconds  the time limit; the file should have 1 GiB or more
 *   direct   out: whether the file system allows direct reads
 * Fails: ERR_IO. */
MUST_USE Err *machine_disk(const char *path, double seconds, double *gbs, bool *direct);

/* The file with the numbers: $XDG_CACHE_HOME/graft/machine.json, or ~/.cache/graft/machine.json. *found is false
 * when there is none. */
MUST_USE Err *machine_load(Machine *machine, bool *found);
MUST_USE Err *machine_save(const Machine *machine);

#endif
