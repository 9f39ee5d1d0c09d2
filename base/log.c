#define _GNU_SOURCE
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static bool enabled = true, showing;

void log_enable(bool on) { enabled = on; }

static void clear(void)
{
    if (showing) fputs("\r\033[K", stderr);
    showing = false;
}

void log_line(const char *format, ...)
{
    if (!enabled) return;
    clear();
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    fflush(stderr);
}

void log_progress(bool keep, const char *format, ...)
{
    bool terminal = isatty(STDERR_FILENO);
    if (!enabled || (!terminal && !keep)) return;
    clear();
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    if (keep) fputc('\n', stderr);
    else showing = true;
    fflush(stderr);
}

static double read_clock(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double log_seconds(void) { return read_clock(CLOCK_MONOTONIC); }
double log_cpu_seconds(void) { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }

size_t log_peak_bytes(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) ? 0 : (size_t)usage.ru_maxrss * 1024;
}
