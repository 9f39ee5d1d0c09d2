/* One axis of a chart: its range, its ticks at round numbers, and their text.
 *
 *     Axis axis = {.log = true};
 *     axis_range(&axis, 0.02, 7.5, 0.05);   // of the data, and a twentieth of it on either side
 *     axis_ticks(&axis, 6);                 // about six ticks
 *     double part = axis_place(&axis, 3.1); // 0 at its low end, 1 at its high end */
#ifndef GRAFT_PLOT_AXIS_H
#define GRAFT_PLOT_AXIS_H

#include <stdbool.h>
#include <stddef.h>

enum { AXIS_TICKS = 32, AXIS_TEXT_BYTES = 48 };

typedef struct {
    bool log;         /* logarithmic; only numbers above 0 have a place */
    bool whole;       /* no ticks between whole numbers */
    double low, high; /* low < high, both finite */
    size_t n_ticks;
    double tick[AXIS_TICKS];                /* ascending, inside low .. high */
    char text[AXIS_TICKS][AXIS_TEXT_BYTES]; /* UTF-8 */
} Axis;

/* Can the axis show this number? It must be finite, and above 0 on a log axis. */
bool axis_shows(const Axis *axis, double value);

/* Show low .. high, and `pad` times that range on either side. A range of no width is made wider. low > high means
 * that there are no data: the range is then 0 .. 1, or 1 .. 10 on a log axis. */
void axis_range(Axis *axis, double low, double high, double pad);

/* Place ticks at multiples of 1, 2 or 5 times a power of ten; on a log axis at powers of ten, if there are enough of
 * them. There are at most 1.5 * about + 1. */
void axis_ticks(Axis *axis, size_t about);

/* The place of a number: 0 at low, 1 at high; NaN for a number that the axis cannot show. */
double axis_place(const Axis *axis, double value);

/* Write a tick's number, with the decimals of numbers that are `step` apart and at most `largest` in size. Thousands
 * have commas. If `largest` is 1e7 or more, or below 1e-3, all share its power of ten: 0.5e-4, 1.0e-4. Minus signs
 * are U+2212. */
void axis_text(char text[AXIS_TEXT_BYTES], double value, double step, double largest);

#endif
