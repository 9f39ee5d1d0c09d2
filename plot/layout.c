/* The parts depend on each other in a circle: heights on the rows of legends, legends on the width, the width on the
 * widest y tick, and ticks on the heights. So the layout is computed twice: from a guess of the width, then from the
 * result. */
#include "plot/layout.h"

#include <math.h>

enum { LEGEND_ROWS = 4 };

/* ---- text ----------------------------------------------------------------------------------------------------- */

static double text_width(const Layout *layout, const char *text)
{
    return text ? canvas_text_width(layout->canvas, TEXT_SIZE, text) : 0;
}

static double widest_tick(const Layout *layout, const Axis *axis)
{
    double widest = 0;
    for (size_t i = 0; i < axis->n_ticks; i++) widest = fmax(widest, text_width(layout, axis->text[i]));
    return widest;
}

/* ---- ranges --------------------------------------------------------------------------------------------------- */

static void extend_range(double *low, double *high, double value)
{
    if (value < *low) *low = value;
    if (value > *high) *high = value;
}

bool layout_shows(const Frame *frame, Point p) { return isfinite(p.x) && axis_shows(&frame->y, p.y); }

bool layout_is_empty(const Frame *frame)
{
    const Panel *panel = frame->panel;
    for (size_t i = 0; i < panel->n_series; i++)
        for (size_t j = 0; j < panel->series[i].n; j++)
            if (layout_shows(frame, panel->series[i].points[j])) return false;
    return !panel->heat || panel->heat->rows == 0 || panel->heat->columns == 0;
}

static void range_x(Layout *layout)
{
    double low = INFINITY, high = -INFINITY, pad = 0;
    for (size_t i = 0; i < layout->chart->n_panels; i++) {
        const Frame *frame = &layout->frames[i];
        const Panel *panel = frame->panel;
        if (panel->heat) {
            extend_range(&low, &high, panel->heat->x_low);
            extend_range(&low, &high, panel->heat->x_high);
            continue;
        }
        pad = 0.015; /* half a marker */
        for (size_t j = 0; j < panel->n_series; j++)
            for (size_t k = 0; k < panel->series[j].n; k++)
                if (layout_shows(frame, panel->series[j].points[k]))
                    extend_range(&low, &high, panel->series[j].points[k].x);
    }
    axis_range(&layout->x, low, high, pad);
}

static void range_heat(Frame *frame)
{
    const Heat *heat = frame->panel->heat;
    double low = heat->low, high = heat->high;
    if (low == 0 && high == 0) {
        low = INFINITY;
        high = -INFINITY;
        for (size_t i = 0; i < heat->rows * heat->columns; i++)
            if (isfinite(heat->values[i])) extend_range(&low, &high, heat->values[i]);
    }
    axis_range(&frame->y, heat->y_low, heat->y_high, 0);
    axis_range(&frame->bar, low, high, 0);
}

static void range_y(Frame *frame)
{
    const Panel *panel = frame->panel;
    double low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < panel->n_series; i++)
        for (size_t j = 0; j < panel->series[i].n; j++)
            if (layout_shows(frame, panel->series[i].points[j]))
                extend_range(&low, &high, panel->series[i].points[j].y);
    if (panel->from_zero && !panel->log_y && low <= high) extend_range(&low, &high, 0);
    axis_range(&frame->y, low, high, 0.06);
}

/* ---- layout --------------------------------------------------------------------------------------------------- */

size_t layout_n_named(const Panel *panel)
{
    size_t n = 0;
    for (size_t i = 0; i < panel->n_series; i++) n += panel->series[i].name != NULL;
    return n;
}

double layout_entry_width(const Layout *layout, const Series *series)
{
    return SAMPLE_WIDTH + 8 + text_width(layout, series->name) + GAP;
}

/* With more than one row, all columns have the same width. */
static void lay_legend(const Layout *layout, Frame *frame)
{
    const Panel *panel = frame->panel;
    double width = layout->right - layout->left, widest = 1, all = 0;
    for (size_t i = 0; i < panel->n_series; i++) {
        if (!panel->series[i].name) continue;
        widest = fmax(widest, layout_entry_width(layout, &panel->series[i]));
        all += layout_entry_width(layout, &panel->series[i]);
    }
    frame->shown = layout_n_named(panel);
    frame->column = all <= width ? 0 : fmin(widest, width);
    frame->columns = all <= width ? frame->shown : (size_t)(width / frame->column);
    if (frame->shown > frame->columns * LEGEND_ROWS) frame->shown = frame->columns * LEGEND_ROWS;
}

size_t layout_legend_rows(const Frame *frame)
{
    return frame->shown ? (frame->shown + frame->columns - 1) / frame->columns : 0;
}

/* The height of title and legend of a panel. */
static double head_height(const Frame *frame)
{
    const Panel *panel = frame->panel;
    return (panel->title || panel->note ? HEAD_SIZE + 12 : 0) + LINE_HEIGHT * (double)layout_legend_rows(frame);
}

static double panel_share(const Panel *panel) { return panel->share > 0 ? panel->share : 1; }

/* Divide the height, from `top` on, between the panels. */
static void lay_heights(Layout *layout, double top)
{
    const Chart *chart = layout->chart;
    double left_over = (double)canvas_height(layout->canvas) - top - MARGIN / 2, shares = 0;
    left_over -= TEXT_SIZE + 14 + (chart->x_label ? LINE_HEIGHT : 0); /* x ticks and label */
    for (size_t i = 0; i < chart->n_panels; i++) {
        shares += panel_share(&chart->panels[i]);
        left_over -= head_height(&layout->frames[i]) + (i ? GAP : 0);
    }
    for (size_t i = 0; i < chart->n_panels; i++) {
        Frame *frame = &layout->frames[i];
        frame->head = top + (i ? GAP : 0);
        double y = round(frame->head + head_height(frame));
        double h = floor(fmax(left_over * panel_share(frame->panel) / shares, 1));
        frame->area = (Rect){layout->left, y, layout->right - layout->left, h};
        top = y + h;
    }
}

static void lay_ticks(Layout *layout)
{
    double width = fmax(layout->right - layout->left, 1);
    size_t about = (size_t)(width / 90);
    do { /* fewer ticks until their numbers do not touch */
        axis_ticks(&layout->x, about);
    } while ((widest_tick(layout, &layout->x) + GAP) * (double)layout->x.n_ticks > width && about-- > 1);
    for (size_t i = 0; i < layout->chart->n_panels; i++) {
        Frame *frame = &layout->frames[i];
        size_t along = (size_t)fmax(frame->area.h / 50, fmin(frame->area.h / 34, 3));
        if (frame->panel->heat) axis_ticks(&frame->bar, along);
        if (frame->panel->heat && (double)frame->panel->heat->rows * 1.2 * TEXT_SIZE < frame->area.h)
            along = frame->panel->heat->rows; /* a tick for each row */
        axis_ticks(&frame->y, along);
    }
}

/* Left and right margins, from the current ticks. */
static void lay_widths(Layout *layout)
{
    double left = 0, right = 12, label = 0;
    for (size_t i = 0; i < layout->chart->n_panels; i++) {
        const Frame *frame = &layout->frames[i];
        left = fmax(left, widest_tick(layout, &frame->y));
        if (frame->panel->y_label) label = LINE_HEIGHT + 4;
        if (!frame->panel->heat) continue;
        double name = frame->panel->heat->name ? GAP : 0;
        right = fmax(right, GAP + BAR_WIDTH + 8 + widest_tick(layout, &frame->bar) + name);
    }
    layout->left = round(MARGIN + label + left + 10);
    layout->right = round(fmax((double)canvas_width(layout->canvas) - MARGIN - right, layout->left + 1));
}

static double titles_height(const Chart *chart)
{
    return MARGIN + (chart->title ? TITLE_SIZE + 4 : 0) + (chart->subtitle ? LINE_HEIGHT + 4 : 0) +
           (chart->title || chart->subtitle ? 14 : 0);
}

void lay_out(Layout *layout)
{
    const Chart *chart = layout->chart;
    layout->left = 3 * MARGIN;
    layout->right = (double)canvas_width(layout->canvas) - 2 * MARGIN;
    for (size_t i = 0; i < chart->n_panels; i++) {
        Frame *frame = &layout->frames[i];
        frame->panel = &chart->panels[i];
        frame->y.log = frame->panel->log_y && !frame->panel->heat;
        frame->y.whole = frame->panel->heat != NULL;
        if (frame->panel->heat)
            range_heat(frame);
        else
            range_y(frame);
    }
    layout->x.whole = chart->whole_x;
    range_x(layout);
    for (int pass = 0; pass < 2; pass++) {
        if (pass) lay_widths(layout);
        for (size_t i = 0; i < chart->n_panels; i++) lay_legend(layout, &layout->frames[i]);
        lay_heights(layout, titles_height(chart));
        lay_ticks(layout);
    }
}
