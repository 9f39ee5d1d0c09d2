/* Lines for people on stderr, and the clocks that they and measurements use. Metrics for programs are written by
 * train/metrics. */
#ifndef GRAFT_BASE_LOG_H
#define GRAFT_BASE_LOG_H

#include "base/err.h"

#include <stdbool.h>

/* Whether a file descriptor is a terminal that moves its cursor: not one with TERM=dumb. */
bool log_is_terminal(int fd);

/* Whether colours may be used there: also not where NO_COLOR is set and not empty (https://no-color.org). */
bool log_has_colors(int fd);

/* Turn all lines on or off. One rank prints; the others turn their lines off. */
void log_enable(bool on);

/* Print one line and end it. A progress line that is being shown is cleared first. */
void log_line(const char *format, ...) PRINTF(1, 2);

/* Print a line that the next line overwrites, cut to the terminal's width. With `keep` it is an ordinary line. Where
 * stderr is not a terminal (log_is_terminal), only lines with `keep` are printed. */
void log_progress(bool keep, const char *format, ...) PRINTF(2, 3);

/* Seconds of a monotonic clock. */
double log_seconds(void);

/* Processor seconds of this process, summed over its threads. */
double log_cpu_seconds(void);

#endif
