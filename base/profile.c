#include "base/profile.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void profile_mark(Profile *p)
{
    if (!p) return;
    p->mark = log_seconds();
    p->cpu_mark = log_cpu_seconds();
}

void profile_note(Profile *p, const char *name, ProfileWay way)
{
    if (!p) return;
    double now = log_seconds(), cpu = log_cpu_seconds();
    size_t i = 0;
    while (i < p->n && strcmp(p->rows[i].name, name) != 0) i++;
    if (i < PROFILE_MOST) {
        if (i == p->n) p->rows[p->n++].name = name;
        p->rows[i].calls[way]++;
        p->rows[i].seconds[way] += now - p->mark;
        p->rows[i].cpu += cpu - p->cpu_mark;
    }
    p->mark = now;
    p->cpu_mark = cpu;
}

static double total(const Profile *p, size_t i) { return p->rows[i].seconds[PROFILE_UP] + p->rows[i].seconds[PROFILE_DOWN]; }

void profile_print(const Profile *p, size_t steps)
{
    size_t order[PROFILE_MOST];
    double sum = 0, cpu = 0, each = 1e3 / (double)steps;
    for (size_t i = 0; i < p->n; i++) {
        size_t at = i;
        for (; at > 0 && total(p, order[at - 1]) < total(p, i); at--) order[at] = order[at - 1];
        order[at] = i;
        sum += total(p, i);
        cpu += p->rows[i].cpu;
    }
    printf("%-14s %9s %9s %9s %6s %9s %7s\n", "", "up ms", "down ms", "both", "share", "CPU ms", "calls");
    for (size_t k = 0; k < p->n; k++) {
        size_t i = order[k];
        printf("%-14s %9.2f %9.2f %9.2f %5.1f%% %9.2f %7.1f\n", p->rows[i].name, p->rows[i].seconds[PROFILE_UP] * each,
               p->rows[i].seconds[PROFILE_DOWN] * each, total(p, i) * each, 100 * total(p, i) / sum,
               p->rows[i].cpu * each, (double)(p->rows[i].calls[PROFILE_UP] + p->rows[i].calls[PROFILE_DOWN]) / (double)steps);
    }
    printf("%-14s %29.2f %16.2f\n", "together", sum * each, cpu * each);
}
