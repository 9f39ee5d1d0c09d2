/* Timing of operations: wall and processor seconds by name, layer and pass. Processor seconds are summed over all
 * threads; next to other programs they are the better measure, provided that waiting threads sleep
 * (OMP_WAIT_POLICY=passive).
 *
 *     timing_layer(timing, 3);                         // the notes that follow belong to layer 3
 *     timing_mark(timing);                            // the clocks start
 *     ...
 *     timing_note(timing, "experts", TIMING_FORWARD);   // the time since the mark, for this name; then marks
 *
 * With timing NULL these three do nothing. Only one thread may call them. */
#ifndef GRAFT_BASE_TIMING_H
#define GRAFT_BASE_TIMING_H

#include "base/json.h"

#include <stddef.h>

typedef enum { TIMING_FORWARD, TIMING_BACKWARD, TIMING_PASSES } TimingPass;

enum { TIMING_OUTSIDE = -1 }; /* a layer number: outside of every layer (embedding, head, optimizer) */

typedef struct {
    const char *name; /* borrowed */
    long layer;
    size_t calls[TIMING_PASSES];
    double seconds[TIMING_PASSES], cpu; /* wall time; processor time of both passes */
} TimingRow;

/* An empty (all zero) Timing is valid; its layer is 0. Owner: the caller, until timing_free. */
typedef struct {
    size_t n, capacity;
    TimingRow *rows; /* [n] one for each name and layer; without memory for a row its time is lost */
    size_t next;     /* the row that the next note most likely belongs to */
    long layer;
    double mark, cpu_mark;
} Timing;

void timing_layer(Timing *timing, long layer);
void timing_mark(Timing *timing);
void timing_note(Timing *timing, const char *name, TimingPass pass);

/* Remove all rows, keep the memory. */
void timing_clear(Timing *timing);
void timing_free(Timing *timing);

/* Seconds of both passes, summed over rows with this name and layer. name NULL: any; layer TIMING_ALL: any. */
enum { TIMING_ALL = -2 };
double timing_seconds(const Timing *timing, const char *name, long layer);

/* Print two tables, by operation (the longest first) and by layer, of times per step in milliseconds.
 *   whole_seconds  wall time of all steps by the caller's clock; the part without a row is printed, too */
void timing_print(const Timing *timing, size_t steps, double whole_seconds);

/* [{"operation", "layer", "up_ms", "down_ms", "cpu_ms", "calls"}, ...] per step, in the order in which rows were
 * first noted. "up_ms" is the forward pass, "down_ms" the backward pass; "layer" is null outside of layers. Owner:
 * the caller. */
Json *timing_json(const Timing *timing, size_t steps);

#endif
