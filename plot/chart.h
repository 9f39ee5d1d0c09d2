/* Charts: panels one below the other over a common x axis, each with lines or with a heat map.
 *
 *     Series loss = {.name = "training", .kind = SERIES_SMOOTHED, .n = n, .points = points};
 *     Panel panel = {.title = "Loss", .n_series = 1, .series = &loss};
 *     Chart chart = {.title = "tiny", .x_label = "step", .n_panels = 1, .panels = &panel};
 *     TRY(chart_write(&chart, "loss.png"));
 *
 *     title
 *     subtitle
 *     panel title                      note
 *     -- legend   -- legend
 *   y |
 *     |         data             (bar of heat)
 *     |
 *       (the next panel)
 *       0      50      100     150
 *                 x label
 *
 * Ranges, ticks, margins and legends follow from the data. A legend is above the data and never covers them. A text
 * that is too long for its place ends in an ellipsis. Everything that a chart points to is borrowed. */
#ifndef GRAFT_PLOT_CHART_H
#define GRAFT_PLOT_CHART_H

#include "plot/canvas.h"

typedef enum {
    SERIES_LINE,
    SERIES_SMOOTHED, /* a thin pale line, and its moving average as a bold one */
    SERIES_MARKED,   /* a circle at each point, joined by a thin line */
    SERIES_NUMBERED, /* the same, with each value beside its circle when there are at most eight */
} SeriesKind;

/* Points in the order in which they are joined. A point that is not finite, or not above 0 on a log axis, is a gap. */
typedef struct {
    const char *name; /* in the legend; NULL: not in the legend */
    SeriesKind kind;
    size_t colour; /* number in the palette; in all panels of a chart it means the same thing */
    size_t n;
    const Point *points;
} Series;

/* A matrix of numbers as colours; numbers that are not finite are grey. Row 0 is at the bottom. */
typedef struct {
    size_t rows, columns;
    const float *values;                 /* [rows][columns] */
    double x_low, x_high, y_low, y_high; /* outer edges; rows 0 .. 77 centred on whole numbers: -0.5 .. 77.5 */
    double low, high;                    /* the values at the ends of the colours; both 0: the range of the values */
    const char *name;                    /* beside the colour bar */
} Heat;

typedef struct {
    const char *title, *note, *y_label; /* each may be NULL */
    double share;                       /* of the height, relative to the other panels; 0 means 1 */
    bool log_y, from_zero;              /* from_zero: the y axis includes 0 */
    size_t n_series;
    const Series *series;
    const Heat *heat; /* instead of series */
} Panel;

typedef struct {
    const char *title, *subtitle, *x_label; /* each may be NULL */
    bool whole_x;                           /* no ticks between whole numbers, for an x that counts */
    size_t width, height;                   /* 0: 1200 and 720 */
    size_t n_panels;
    const Panel *panels;
} Chart;

/* The window of the moving average of n points, in points; always odd. */
size_t chart_window(size_t n);

/* out[i] = the mean of the finite y among the `window` points around i (fewer at the ends), at the x of i; not finite
 * where in[i] is not. */
void chart_smooth(size_t n, size_t window, Point *out, const Point *in);

/* Draw onto a canvas, filling it; or write a PNG file, complete or not at all. */
MUST_USE Err *chart_draw(const Chart *chart, Canvas *canvas);
MUST_USE Err *chart_write(const Chart *chart, const char *path);

#endif
