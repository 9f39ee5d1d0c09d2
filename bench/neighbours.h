/* Processor time of other programs while something is measured. Half a core of it costs two threads that wait for
 * each other more than half of their speed, so such measurements get a warning. */
#ifndef GRAFT_BENCH_NEIGHBOURS_H
#define GRAFT_BENCH_NEIGHBOURS_H

typedef struct {
    double seconds, own, all; /* wall time; processor time of this process; of all processes */
} Neighbours;

Neighbours neighbours_begin(void);

/* Cores that other programs have used since then, on average; NaN where there is no /proc/stat. */
double neighbours_end(const Neighbours *begin);

/* Print a warning on stderr when that is more than 0.1 cores. */
void neighbours_report(double cores);

#endif
