/* What can happen to a run of `graft train`: kills, signals, a full disk, a directory that cannot be written. Each test
 * interrupts a run, goes on with other ranks and threads, and compares the result with that of a run that nothing
 * happened to. An interruption that comes too late is tried again, and fails when none of several tries comes in
 * time. */
#ifndef GRAFT_TESTS_SUPPORT_INTERRUPTIONS_H
#define GRAFT_TESTS_SUPPORT_INTERRUPTIONS_H

#include "tests/support/shared_runs.h"

/* Ways to share out a run: the first is what all others are compared with, the others are for going on. */
enum { N_SHARINGS = 4 };
extern const Sharing sharings[N_SHARINGS];

/* Kill a run `kills` times, at moments that follow from runs->kill_key and run_ms; then let it finish. Every second run
 * is evaluated and plotted. */
void interrupt_by_kills(SharedRuns *runs, size_t kills);

/* Everything else, one after another. */
void interrupt_all(SharedRuns *runs);

#endif
