/* The learning rate of a step.
 *
 *     k finished steps, W steps of warm-up, T steps in total, D steps of decay at the end, m the lowest rate / rate
 *     k < W                   rate k / max(1, W)                      the first step of a warm-up has the rate 0
 *     constant                rate
 *     linear                  rate max(0, (T - k) / max(1, T - W))
 *     cosine                  rate c(p), p = (k - W) / max(1, T - W), c(p) = (1 + cos(pi p)) / 2
 *     cosine_with_min_lr      rate (m + (1 - m) c(p))
 *     warmup_stable_decay     rate (m + (1 - m) k / max(1, W)), then rate, then rate (m + (1 - m) d(q)), then rate m
 *                             q = (k - (T - D)) / max(1, D); d(q) is c(q), 1 - q or 1 - sqrt(q)
 *
 * Source: Hugging Face transformers 5.23.0, optimization.py (get_*_schedule_with_warmup, get_wsd_schedule). */
#ifndef GRAFT_OPTIM_SCHEDULE_H
#define GRAFT_OPTIM_SCHEDULE_H

#include "base/json.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_COSINE_MIN, SCHEDULE_WSD } ScheduleKind;
typedef enum { DECAY_COSINE, DECAY_LINEAR, DECAY_SQRT } DecayKind;

typedef struct {
    ScheduleKind kind;
    DecayKind decay;
    uint64_t warmup_steps, total_steps, decay_steps;
    double min_share; /* the lowest rate, as a share of learning_rate */
} Schedule;

/* All names, for the `choices` of an option. */
#define SCHEDULE_CHOICES "constant constant_with_warmup linear cosine cosine_with_min_lr warmup_stable_decay"

/* Make a schedule.
 *   kwargs         Hugging Face's lr_scheduler_kwargs: min_lr or min_lr_rate; num_decay_steps, decay_type,
 *                  min_lr_ratio; NULL: none
 *   learning_rate  min_lr is divided by it
 * Fails: ERR_USAGE, naming a key that the schedule does not have, that is missing or that is out of range. */
MUST_USE Err *schedule_init(Schedule *schedule, const char *name, const Json *kwargs, double learning_rate,
                            uint64_t warmup_steps, uint64_t total_steps);

/* The rate of the update that follows `step` finished ones. */
double schedule_rate(const Schedule *schedule, double learning_rate, uint64_t step);

/* Steps of warm-up from their share of all steps: ceil(total_steps * ratio). */
uint64_t schedule_warmup_steps(uint64_t total_steps, double ratio);

#endif
