/* The learning rate of a step.
 *
 *     k steps done, W steps of warm-up, T steps in all
 *     k < W       rate k / max(1, W)                          the first step of a warm-up has rate 0
 *     constant    rate
 *     linear      rate max(0, (T - k) / max(1, T - W))
 *     cosine      rate max(0, (1 + cos(pi p)) / 2),           p = (k - W) / max(1, T - W)
 *
 * Source: Hugging Face transformers, optimization.py (get_*_schedule_with_warmup, num_cycles 0.5). */
#ifndef GRAFT_OPTIM_SCHEDULE_H
#define GRAFT_OPTIM_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_COUNT } ScheduleKind;

/* What options may say, for a table's `choices`. */
#define SCHEDULE_CHOICES "constant constant_with_warmup linear cosine"

const char *schedule_name(ScheduleKind kind);
bool schedule_from_name(ScheduleKind *kind, const char *name); /* false: no schedule of ours */

/* The rate of the update that follows `step` finished ones. */
double schedule_rate(ScheduleKind kind, double learning_rate, uint64_t step, uint64_t warmup_steps,
                     uint64_t total_steps);

/* Steps of warm-up as a share of all: ceil(total_steps * ratio). */
uint64_t schedule_warmup_steps(uint64_t total_steps, double ratio);

#endif
