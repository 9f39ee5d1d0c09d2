/* Where everything of a chart goes: laid out before anything is drawn. */
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
    Rect area;    /* where the data go */
    size_t shown; /* entries of the legend */
    size_t columns;
    double column; /* width of one; 0: all entries fit into one row, each as wide as it is */
    Axis y, bar;   /* bar: colours of a heat map */
} Frame;

typedef struct {
    const Chart *chart;
    Canvas *canvas;
    double left, right; /* of every panel's area */
    Axis x;
    Frame *frames; /* [n_panels] */
} Layout;

/* chart and canvas are set, frames [n_panels] empty; all else is filled. */
void lay_out(Layout *layout);

/* Does the panel show this point, and anything at all? */
bool layout_shows(const Frame *frame, Point p);
bool layout_is_empty(const Frame *frame);

/* Series that the legend would name, the width of one's entry, and the rows it takes. */
size_t layout_n_named(const Panel *panel);
double layout_entry_width(const Layout *layout, const Series *series);
size_t layout_legend_rows(const Frame *frame);

#endif
