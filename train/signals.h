/* What signals ask of a run: SIGTERM, SIGINT and SIGUSR2 to save and leave, SIGUSR1 to save and go on. mpirun would kill its
 * ranks soon after a SIGTERM; SIGUSR1 and SIGUSR2 it hands on, so that cli/train sends it those. */
#ifndef GRAFT_TRAIN_SIGNALS_H
#define GRAFT_TRAIN_SIGNALS_H

extern volatile int signals_stop, signals_save; /* set by a signal; signals_save is taken back by who obeys */

void signals_catch(void);

#endif
