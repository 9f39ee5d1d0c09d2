/* The handlers only set a flag; the loop reads the flags between two steps, and step and evaluation between two layers.
 * SA_RESTART: a signal must not interrupt reads and writes. A loop may be stuck where no flag is read, in MPI say; therefore
 * the second signal to stop acts as if nobody caught it. */
#include "train/signals.h"

#include <signal.h>
#include <stddef.h>
#include <time.h>

volatile int signals_stop, signals_save; /* sig_atomic_t is int wherever we run */

bool signals_is_second(void)
{
    enum { TOGETHER_MS = 500 };
    static volatile bool asked;
    static struct timespec first;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (asked) return (now.tv_sec - first.tv_sec) * 1000 + (now.tv_nsec - first.tv_nsec) / 1000000 > TOGETHER_MS;
    first = now;
    asked = true;
    return false;
}

static void ask_to_stop(int number)
{
    signals_stop = 1;
    if (!signals_is_second()) return;
    signal(number, SIG_DFL);
    raise(number); /* acts when this handler returns */
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
