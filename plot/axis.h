/* One axis of a chart: the range it shows, round numbers along it, and how they are written.
 *
 *     Axis axis = {.log = true};
 *     axis_range(&axis, 0.02, 7.5, 0.05);   // of the data, and a twentieth more on either side
 *     axis_ticks(&axis, 6);                 // about six of them
 *     double part = axis_place(&axis, 3.1); // 0 at its low end, 1 at its high end */
#ifndef GRAFT_PLOT_AXIS_H
#define GRAFT_PLOT_AXIS_H

#include <stdbool.h>
#include <stddef.h>

enum { AXIS_TICKS = 32, AXIS_TEXT_BYTES = 48 };

typedef struct {
    bool log;         /* equal steps are equal factors; only numbers above 0 have a place */
    bool whole;       /* no ticks between whole numbers */
    double low, high; /* low < high, both finite */
    size_t n_ticks;
    double tick[AXIS_TICKS];                /* rising, inside low .. high */
    char text[AXIS_TICKS][AXIS_TEXT_BYTES]; /* UTF-8 */
} Axis;

/* Can the axis show this number? Not when it is not finite, or not above 0 on a log axis. */
bool axis_shows(const Axis *axis, double value);

/* Show low .. high and `pad` times that range on either side; a range of no width is made wider, and low > high (no
 * data at all) gives 0 .. 1, or 1 .. 10. */
void axis_range(Axis *axis, double low, double high, double pad);

/* Place ticks at multiples of 1, 2 or 5 times a power of ten; on a log axis, at powers of ten as long as there are
 * enough of those. At most half as many again as asked for, and one. */
void axis_ticks(Axis *axis, size_t about);

/* Where a number stands: 0 at low, 1 at high; NaN for what the axis cannot show. */
double axis_place(const Axis *axis, double value);

/* Write a number the way its neighbours are written: `step` apart and at most `largest` in size. Thousands have commas;
 * from ten million up and below a thousandth all share one power of ten: 0.5e-4, 1.0e-4. Minus signs are U+2212. */
void axis_text(char text[AXIS_TEXT_BYTES], double value, double step, double largest);

#endif
