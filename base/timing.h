/* Where time goes: seconds by name and layer, for those who look. CPU seconds are of all threads; on a busy machine they
 * tell more, provided that waiting threads sleep (OMP_WAIT_POLICY=passive).
 *
 *     timing_layer(profile, 3);                      // what follows belongs to layer 3
 *     timing_mark(profile);                          // the clock starts
 *     ...
 *     timing_note(profile, "experts", TIMING_FORWARD);   // what has passed belongs to this name; the clock starts again
 *
 * These three take NULL and do nothing then. One thread notes. */
#ifndef GRAFT_BASE_TIMING_H
#define GRAFT_BASE_TIMING_H

#include "base/json.h"

#include <stddef.h>

typedef enum { TIMING_FORWARD, TIMING_BACKWARD, TIMING_PASSES } TimingPass;

enum { TIMING_OUTSIDE = -1 }; /* of every layer: embedding, head, the optimizer */

typedef struct {
    const char *name; /* borrowed */
    long layer;
    size_t calls[TIMING_PASSES];
    double seconds[TIMING_PASSES], cpu;
} TimingRow;

/* An empty (all zero) Profile is valid; its layer is 0. Owner: the caller, until timing_free. */
typedef struct {
    size_t n, capacity;
    TimingRow *rows; /* each name and layer once; one that finds no memory is not kept */
    size_t next;     /* where the next note most likely belongs: steps repeat themselves */
    long layer;
    double mark, cpu_mark;
} Timing;

void timing_layer(Timing *timing, long layer);
void timing_mark(Timing *timing);
void timing_note(Timing *timing, const char *name, TimingPass way);

/* Forget what was noted, keep the memory. */
void timing_clear(Timing *timing);
void timing_free(Timing *timing);

/* Seconds both ways of every row that `name` and `layer` leave: NULL any name, TIMING_ALL any layer. */
enum { TIMING_ALL = -2 };
double timing_seconds(const Timing *timing, const char *name, long layer);

/* Two tables on stdout, by operation (the longest first) and by layer, every number divided by `steps`. whole_seconds: of
 * all steps by the caller's clock; what no name accounts for is shown. */
void timing_print(const Timing *timing, size_t steps, double whole_seconds);

/* [{"operation", "layer" (null outside), "up_ms", "down_ms", "cpu_ms", "calls"}, ...] per step, in the order they were
 * first noted. Owner: the caller. */
Json *timing_json(const Timing *timing, size_t steps);

#endif
