/* How long a step takes whose weights stream: its passes are played through, part after part, with one clock for
 * arithmetic and one for the disk. They overlap as far as buffers allow: while a layer's attention is at work,
 * readers fill free buffers, and then wait. What is read next, and into which buffer, is the policy of a run
 * (model/stream_policy.h). */
#ifndef GRAFT_PLAN_STREAM_TIME_H
#define GRAFT_PLAN_STREAM_TIME_H

#include "model/stream_parts.h"

/* Seconds of arithmetic of a layer: its core (all but its experts) and its experts; core_recompute is the core's
 * second forward pass, before its backward pass. */
typedef struct {
    double core_forward, core_recompute, core_backward;
    double experts_forward, experts_backward;
} LayerSeconds;

typedef struct {
    const StreamedParts *parts;
    const bool *resident; /* [parts->n] */
    const StreamBudget *budget;
    const LayerSeconds *layers;  /* [n_layers] */
    double head;                 /* between the passes, with everything else outside the layers */
    size_t lowest, group_passes; /* lowest n_layers: forward only */
    double bytes_per_second;     /* of the disk */
} StreamTimeInput;

/* Of one step among many: its buffers begin with what the step before has left in them. */
MUST_USE Err *stream_time(double *seconds, const StreamTimeInput *input);

#endif
