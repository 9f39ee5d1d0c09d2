/* The handlers only set a flag; the loop reads the flags between two steps, and step and evaluation between two layers.
 * SA_RESTART: a signal must not interrupt reads and writes. */
#include "train/signals.h"

#include <signal.h>
#include <stddef.h>

volatile int signals_stop, signals_save; /* sig_atomic_t is int wherever we run */

static void ask_to_stop(int number)
{
    (void)number;
    signals_stop = 1;
}

static void ask_to_save(int number)
{
    (void)number;
    signals_save = 1;
}

void signals_catch(void)
{
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = ask_to_stop, .sa_flags = SA_RESTART}, NULL);
    sigaction(SIGINT, &(struct sigaction){.sa_handler = ask_to_stop, .sa_flags = SA_RESTART}, NULL);
    sigaction(SIGUSR2, &(struct sigaction){.sa_handler = ask_to_stop, .sa_flags = SA_RESTART}, NULL);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = ask_to_save, .sa_flags = SA_RESTART}, NULL);
}
