/* What signals ask of a run: SIGTERM and SIGINT to save and leave, SIGUSR1 to save and go on. */
#ifndef GRAFT_TRAIN_SIGNALS_H
#define GRAFT_TRAIN_SIGNALS_H

extern volatile int signals_stop, signals_save; /* set by a signal; signals_save is taken back by who obeys */

void signals_catch(void);

#endif
