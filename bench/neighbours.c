/* Processor time of all programs comes from /proc/stat, of this process from its CPU clock; the difference is the
 * others' time. */
#include "bench/neighbours.h"

#include "base/log.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

/* The first line of /proc/stat: ticks of user, nice, system, idle, iowait, irq, softirq, all processors together. */
static double all_cpu_seconds(void)
{
    double user, nice, sys, idle, wait, irq, soft;
    FILE *stream = fopen("/proc/stat", "re");
    if (!stream) return NAN;
    int n = fscanf(stream, "cpu %lf %lf %lf %lf %lf %lf %lf", &user, &nice, &sys, &idle, &wait, &irq, &soft);
    fclose(stream);
    return n == 7 ? (user + nice + sys + irq + soft) / (double)sysconf(_SC_CLK_TCK) : NAN;
}

Neighbours neighbours_begin(void) { return (Neighbours){log_seconds(), log_cpu_seconds(), all_cpu_seconds()}; }

double neighbours_end(const Neighbours *begin)
{
    Neighbours now = neighbours_begin();
    return fmax(0, (now.all - begin->all - (now.own - begin->own)) / (now.seconds - begin->seconds));
}

void neighbours_report(double cores)
{
    if (cores > 0.1)
        log_line("  warning   other programs used %.1f cores meanwhile: without them the figures would be higher",
                 cores);
}
