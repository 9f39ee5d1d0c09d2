/* How much of the machine other programs took while something was measured: half a core beside two threads that wait for each
 * other costs more than half of their speed. */
#ifndef GRAFT_BENCH_NEIGHBOURS_H
#define GRAFT_BENCH_NEIGHBOURS_H

typedef struct {
    double seconds, own, all; /* of a clock; processor time of this process, and of everybody */
} Neighbours;

Neighbours neighbours_begin(void);

/* Cores that others kept busy since then, on average; NaN where /proc/stat does not say. */
double neighbours_end(const Neighbours *begin);

/* A line of warning on stderr when that was more than a tenth of a core. */
void neighbours_report(double cores);

#endif
