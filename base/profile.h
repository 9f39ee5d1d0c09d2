/* Where time goes: seconds by name, for those who look. CPU seconds are of all threads; on a busy machine they tell more,
 * provided that waiting threads sleep (OMP_WAIT_POLICY=passive).
 *
 *     profile_mark(profile);                          // the clock starts
 *     ...
 *     profile_note(profile, "experts", PROFILE_UP);   // what has passed belongs to this name; the clock starts again
 *
 * Everything takes NULL and does nothing then. One thread notes. */
#ifndef GRAFT_BASE_PROFILE_H
#define GRAFT_BASE_PROFILE_H

#include <stddef.h>

typedef enum { PROFILE_UP, PROFILE_DOWN, PROFILE_WAYS } ProfileWay;

enum { PROFILE_MOST = 64 };

/* An empty (all zero) Profile is valid. */
typedef struct {
    size_t n;
    struct {
        const char *name; /* borrowed */
        size_t calls[PROFILE_WAYS];
        double seconds[PROFILE_WAYS], cpu;
    } rows[PROFILE_MOST]; /* names beyond are not kept */
    double mark, cpu_mark;
} Profile;

void profile_mark(Profile *profile);
void profile_note(Profile *profile, const char *name, ProfileWay way);

/* A table on stdout, the longest first, every number divided by `steps`. */
void profile_print(const Profile *profile, size_t steps);

#endif
