#include "bench/neighbours.h"

#include "base/log.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

/* The first line of /proc/stat: ticks of user, nice, system, idle, iowait, irq, softirq, all processors together. */
static double busy_seconds(void)
{
    double user, nice, sys, idle, wait, irq, soft;
    FILE *stream = fopen("/proc/stat", "re");
    if (!stream) return NAN;
    int n = fscanf(stream, "cpu %lf %lf %lf %lf %lf %lf %lf", &user, &nice, &sys, &idle, &wait, &irq, &soft);
    fclose(stream);
    return n == 7 ? (user + nice + sys + irq + soft) / (double)sysconf(_SC_CLK_TCK) : NAN;
}

Neighbours neighbours_begin(void) { return (Neighbours){log_seconds(), log_cpu_seconds(), busy_seconds()}; }

double neighbours_end(const Neighbours *begin)
{
    Neighbours now = neighbours_begin();
    return fmax(0, (now.all - begin->all - (now.own - begin->own)) / (now.seconds - begin->seconds));
}

void neighbours_report(double cores)
{
    if (cores > 0.1)
        log_line(
            "  beware    other programs kept %.1f cores busy meanwhile: these figures are lower than the machine's",
            cores);
}
