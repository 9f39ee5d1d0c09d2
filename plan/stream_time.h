/* How long a step takes whose weights stream: its walk is played through, part after part, with one clock for arithmetic and one
 * for the disk. They overlap as far as slots allow: while a layer's attention is at work, readers fill what slots are free, and
 * then rest (model/stream.c decides the same way what is read next, and into which slot). */
#ifndef GRAFT_PLAN_STREAM_TIME_H
#define GRAFT_PLAN_STREAM_TIME_H

#include "model/stream_parts.h"

/* Seconds of arithmetic of a layer: all but its experts, and those; up, and on the way down (again, then back). */
typedef struct {
    double core_forward, core_recompute, core_backward;
    double experts_forward, experts_backward;
} LayerSeconds;

typedef struct {
    const StreamedParts *parts;
    const bool *resident; /* [parts->n] */
    const StreamBudget *plan;
    const LayerSeconds *layers;  /* [n_layers] */
    double head;                 /* between up and down, with all else that no layer does */
    size_t lowest, group_passes; /* n_layers: up only; groups */
    double bytes_per_second;     /* of the disk */
} StreamTimeInput;

/* A step of many: what slots hold at its beginning is what the one before has left. */
MUST_USE Err *stream_time(double *seconds, const StreamTimeInput *work);

#endif
