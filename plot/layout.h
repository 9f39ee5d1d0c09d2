/* The places of all parts of a chart, computed before anything is drawn. */
#ifndef GRAFT_PLOT_LAYOUT_H
#define GRAFT_PLOT_LAYOUT_H

#include "plot/axis.h"
#include "plot/chart.h"

/* Pixels. */
enum {
    MARGIN = 30,
    GAP = 30,
    TITLE_SIZE = 26,
    HEAD_SIZE = 19,
    TEXT_SIZE = 16,
    LINE_HEIGHT = 24,
    SAMPLE_WIDTH = 34,
    BAR_WIDTH = 20
};

typedef struct {
    const Panel *panel;
    double head;  /* y of the panel's upper edge: its title begins here */
    Rect area;    /* of the data */
    size_t shown; /* entries of the legend that are drawn */
    size_t columns;
    double column; /* width of a column; 0: all entries fit into one row, with their own widths */
    Axis y, bar;   /* bar: the colours of a heat map */
} Frame;

typedef struct {
    const Chart *chart;
    Canvas *canvas;
    double left, right; /* of every panel's area */
    Axis x;
    Frame *frames; /* [n_panels] */
} Layout;

/* Fill the layout. The caller has set chart and canvas, and frames to [n_panels] zeroed ones. */
void lay_out(Layout *layout);

/* Does the panel show this point? Does it show nothing? */
bool layout_shows(const Frame *frame, Point p);
bool layout_is_empty(const Frame *frame);

/* The number of series that have a name, the width of an entry of the legend, and the rows of the legend. */
size_t layout_n_named(const Panel *panel);
double layout_entry_width(const Layout *layout, const Series *series);
size_t layout_legend_rows(const Frame *frame);

#endif
