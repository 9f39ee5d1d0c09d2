/* Where time goes: seconds by name and layer, for those who look. CPU seconds are of all threads; on a busy machine they
 * tell more, provided that waiting threads sleep (OMP_WAIT_POLICY=passive).
 *
 *     profile_layer(profile, 3);                      // what follows belongs to layer 3
 *     profile_mark(profile);                          // the clock starts
 *     ...
 *     profile_note(profile, "experts", PROFILE_UP);   // what has passed belongs to this name; the clock starts again
 *
 * These three take NULL and do nothing then. One thread notes. */
#ifndef GRAFT_BASE_TIMING_H
#define GRAFT_BASE_TIMING_H

#include "base/json.h"

#include <stddef.h>

typedef enum { PROFILE_UP, PROFILE_DOWN, PROFILE_WAYS } ProfileWay;

enum { PROFILE_OUTSIDE = -1 }; /* of every layer: embedding, head, the optimizer */

typedef struct {
    const char *name; /* borrowed */
    long layer;
    size_t calls[PROFILE_WAYS];
    double seconds[PROFILE_WAYS], cpu;
} ProfileRow;

/* An empty (all zero) Profile is valid; its layer is 0. Owner: the caller, until profile_free. */
typedef struct {
    size_t n, capacity;
    ProfileRow *rows; /* each name and layer once; one that finds no memory is not kept */
    size_t next;      /* where the next note most likely belongs: steps repeat themselves */
    long layer;
    double mark, cpu_mark;
} Profile;

void profile_layer(Profile *profile, long layer);
void profile_mark(Profile *profile);
void profile_note(Profile *profile, const char *name, ProfileWay way);

/* Forget what was noted, keep the memory. */
void profile_clear(Profile *profile);
void profile_free(Profile *profile);

/* Seconds both ways of every row that `name` and `layer` leave: NULL any name, PROFILE_ALL any layer. */
enum { PROFILE_ALL = -2 };
double profile_seconds(const Profile *profile, const char *name, long layer);

/* Two tables on stdout, by operation (the longest first) and by layer, every number divided by `steps`. whole_seconds: of
 * all steps by the caller's clock; what no name accounts for is shown. */
void profile_print(const Profile *profile, size_t steps, double whole_seconds);

/* [{"operation", "layer" (null outside), "up_ms", "down_ms", "cpu_ms", "calls"}, ...] per step, in the order they were
 * first noted. Owner: the caller. */
Json *profile_json(const Profile *profile, size_t steps);

#endif
