/* Signals to a run: SIGTERM, SIGINT, SIGHUP and SIGUSR2 save and stop it; SIGUSR1 saves, and the run continues. After a
 * SIGTERM mpirun kills its ranks soon, but it forwards SIGUSR1 and SIGUSR2. Therefore cli/train.c sends it those. A
 * second signal to stop ends the process at once, wherever it waits. A run ignores SIGPIPE, for nobody need read its
 * progress; and SIGHUP where it was started so, as nohup does. */
#ifndef GRAFT_TRAIN_SIGNALS_H
#define GRAFT_TRAIN_SIGNALS_H

#include <stdbool.h>

extern volatile int signals_stop, signals_save; /* set by a signal; the loop clears signals_save when it has saved */

/* While a run is opened there is nothing to save: a signal to stop ends the process at once, with ERR_STOPPED. One to
 * save is kept until the first step is finished. */
void signals_catch_opening(void);

/* From the first step on. */
void signals_catch(void);

/* Called by the handler of a signal to stop: is it the second one? Those within half a second of the first belong to
 * it: timeout(1) and batch systems send one to a process and one to its group. */
bool signals_is_second(void);

/* Call handler on SIGTERM, SIGINT, and SIGHUP unless that is ignored. */
void signals_on_stop(void (*handler)(int number));

#endif
