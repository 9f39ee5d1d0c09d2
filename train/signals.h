/* Signals to a run: SIGTERM, SIGINT and SIGUSR2 save and stop it; SIGUSR1 saves, and the run continues. After a SIGTERM
 * mpirun kills its ranks soon, but it forwards SIGUSR1 and SIGUSR2. Therefore cli/train.c sends it those. */
#ifndef GRAFT_TRAIN_SIGNALS_H
#define GRAFT_TRAIN_SIGNALS_H

extern volatile int signals_stop, signals_save; /* set by a signal; the loop clears signals_save when it has saved */

void signals_catch(void);

#endif
