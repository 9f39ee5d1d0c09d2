/* Lines for people on stderr, time, and whether anybody watches. Metrics for programs go through train/metrics. */
#ifndef GRAFT_BASE_LOG_H
#define GRAFT_BASE_LOG_H

#include "base/err.h"

#include <stdbool.h>

/* Only one rank speaks: the others turn their lines off. */
void log_enable(bool on);

/* One line, ended here. Clears a progress line that is being shown. */
void log_line(const char *format, ...) PRINTF(1, 2);

/* A line that the next one overwrites, cut to the terminal's width; an ordinary line when `keep`. Nothing on something that
 * is no terminal, unless `keep`. */
void log_progress(bool keep, const char *format, ...) PRINTF(2, 3);

/* Seconds on a clock that only goes forward. */
double log_seconds(void);

/* Processor time of this process, all threads. */
double log_cpu_seconds(void);

#endif
