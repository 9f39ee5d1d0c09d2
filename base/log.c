/* Lines on stderr. A progress line stays open at the end of the terminal (`showing`), and whatever is printed next
 * clears it first. On anything that is not a terminal progress lines are dropped, unless they are to be kept. */
#define _GNU_SOURCE
#include "base/log.h"

#include "base/safe_text.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static bool enabled = true, showing;

void log_enable(bool on) { enabled = on; }

bool log_is_terminal(int fd)
{
    const char *term = getenv("TERM");
    return isatty(fd) && !(term && strcmp(term, "dumb") == 0);
}

bool log_has_colors(int fd)
{
    const char *no_color = getenv("NO_COLOR");
    return log_is_terminal(fd) && !(no_color && *no_color);
}

static void clear_progress(void)
{
    if (showing) fputs("\r\033[K", stderr);
    showing = false;
}

void log_line(const char *format, ...)
{
    if (!enabled) return;
    clear_progress();
    char *line;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&line, format, args);
    va_end(args);
    if (n < 0) return;              /* out of memory */
    safe_print(stderr, line, true); /* it may quote a file */
    free(line);
    fputc('\n', stderr);
    fflush(stderr);
}

/* Characters that fit into one row. A longer line would take several rows, and only the last of them would be
 * overwritten. */
static int row_width(void)
{
    struct winsize window;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1 ? window.ws_col - 1 : INT_MAX;
}

void log_progress(bool keep, const char *format, ...)
{
    char line[1024];
    if (!enabled || (!log_is_terminal(STDERR_FILENO) && !keep)) return;
    clear_progress();
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (keep) {
        safe_print(stderr, line, true);
        fputc('\n', stderr);
    } else
        fprintf(stderr, "%.*s", row_width(), line);
    showing = !keep;
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
