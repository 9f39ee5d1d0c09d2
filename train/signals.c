/* The handlers only set a flag; the loop reads the flags between two steps, and step and evaluation between two layers.
 * SA_RESTART: a signal must not interrupt reads and writes. A loop may be stuck where no flag is read, in MPI say;
 * therefore the second signal to stop acts as if nobody caught it. */
#define _GNU_SOURCE
#include "train/signals.h"

#include "base/err.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

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

static void stop_at_once(int number)
{
    static const char text[] = "graft train: stopped by a signal before the first step\n";
    (void)number;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0) _exit(ERR_STOPPED); /* nobody reads it */
    _exit(ERR_STOPPED);
}

static void handle(int number, void (*handler)(int number))
{
    sigaction(number, &(struct sigaction){.sa_handler = handler, .sa_flags = SA_RESTART}, NULL);
}

void signals_on_stop(void (*handler)(int number))
{
    struct sigaction hangup;
    handle(SIGTERM, handler);
    handle(SIGINT, handler);
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN) handle(SIGHUP, handler);
}

static void catch_all(void (*stop)(int number))
{
    signals_on_stop(stop);
    handle(SIGUSR2, stop);
    handle(SIGUSR1, ask_to_save);
    handle(SIGPIPE, SIG_IGN);
}

void signals_catch_opening(void) { catch_all(stop_at_once); }
void signals_catch(void) { catch_all(ask_to_stop); }
