#include "optim/schedule.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const double PI = 3.14159265358979323846;

static const struct {
    const char *name;
    ScheduleKind kind;
} names[] = {
    {"constant", SCHEDULE_CONSTANT}, /* the first of a kind is its own name */
    {"constant_with_warmup", SCHEDULE_CONSTANT}, /* ours warms up whenever warmup_steps says so */
    {"linear", SCHEDULE_LINEAR},
    {"cosine", SCHEDULE_COSINE},
};

enum { N_NAMES = sizeof names / sizeof *names };

const char *schedule_name(ScheduleKind kind)
{
    for (size_t i = 0; i < N_NAMES; i++)
        if (names[i].kind == kind) return names[i].name;
    return "unknown";
}

bool schedule_from_name(ScheduleKind *kind, const char *name)
{
    for (size_t i = 0; i < N_NAMES; i++) {
        if (strcmp(names[i].name, name) != 0) continue;
        *kind = names[i].kind;
        return true;
    }
    return false;
}

double schedule_rate(ScheduleKind kind, double learning_rate, uint64_t step, uint64_t warmup_steps,
                     uint64_t total_steps)
{
    double k = (double)step, W = (double)warmup_steps, T = (double)total_steps;
    if (step < warmup_steps) return learning_rate * (k / fmax(1, W));
    double span = fmax(1, T - W);
    switch (kind) {
    case SCHEDULE_LINEAR: return learning_rate * fmax(0, (T - k) / span);
    case SCHEDULE_COSINE: return learning_rate * fmax(0, 0.5 * (1 + cos(PI * ((k - W) / span))));
    default: return learning_rate;
    }
}

uint64_t schedule_warmup_steps(uint64_t total_steps, double ratio)
{
    return (uint64_t)ceil((double)total_steps * ratio);
}
