/* Draws a chart after plot/layout has placed its parts: titles, then each panel with its legend, grid, data and
 * axes. Data of panels are clipped to their area. All pale lines are drawn before all markers. */
#include "plot/chart.h"

#include "base/memory.h"
#include "base/minmax.h"
#include "plot/layout.h"
#include "plot/palette.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_BYTES = 512, MAX_NUMBERS = 8 };

/* ---- moving average ------------------------------------------------------------------------------------------- */

size_t chart_window(size_t n)
{
    size_t window = n / 20 | 1;
    return window < 5 ? 5 : window > 201 ? 201 : window;
}

/* Every window is summed from its first point. A sum that is updated from window to window would keep the rounding
 * error of a single loss of 1e30. */
void chart_smooth(size_t n, size_t window, Point *out, const Point *in)
{
    size_t half = window / 2;
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        size_t count = 0;
        for (size_t j = i > half ? i - half : 0; j < n && j <= i + half; j++) {
            if (!isfinite(in[j].y)) continue;
            sum += in[j].y;
            count++;
        }
        out[i] = (Point){in[i].x, isfinite(in[i].y) ? sum / (double)count : NAN};
    }
}

/* ---- text ----------------------------------------------------------------------------------------------------- */

/* Draw text; if it is wider than `width`, its end is replaced by an ellipsis. */
static void draw_text(Canvas *canvas, Point at, TextStyle style, double width, const char *text)
{
    char line[LINE_BYTES];
    if (!text) return;
    if (canvas_text_width(canvas, style.size, text) <= width) {
        canvas_text(canvas, at, &style, text);
        return;
    }
    for (size_t n = strnlen(text, LINE_BYTES - 4); n > 0; n--) {
        if ((text[n] & 0xC0) == 0x80) continue; /* inside a character */
        snprintf(line, sizeof line, "%.*s\u2026", (int)n, text);
        if (canvas_text_width(canvas, style.size, line) > width) continue;
        canvas_text(canvas, at, &style, line);
        return;
    }
}

/* ---- axes ----------------------------------------------------------------------------------------------------- */

static double x_of(const Layout *layout, double x)
{
    return layout->left + axis_place(&layout->x, x) * (layout->right - layout->left);
}

static double y_of(const Frame *frame, double y)
{
    return frame->area.y + (1 - axis_place(&frame->y, y)) * frame->area.h;
}

/* Lines of one pixel, on whole pixels. */
static void draw_horizontal(Canvas *canvas, double y, double from, double to, Colour colour)
{
    canvas_rect(canvas, (Rect){from, round(y), to - from, 1}, colour);
}

static void draw_vertical(Canvas *canvas, double x, double from, double to, Colour colour)
{
    canvas_rect(canvas, (Rect){round(x), from, 1, to - from}, colour);
}

static void draw_grid(const Layout *layout, const Frame *frame)
{
    const Rect *area = &frame->area;
    for (size_t i = 0; i < frame->y.n_ticks; i++)
        draw_horizontal(layout->canvas, y_of(frame, frame->y.tick[i]), area->x, area->x + area->w, palette_grid);
    for (size_t i = 0; i < layout->x.n_ticks; i++)
        draw_vertical(layout->canvas, x_of(layout, layout->x.tick[i]), area->y, area->y + area->h, palette_grid);
}

static void draw_y_axis(const Layout *layout, const Frame *frame)
{
    const Rect *area = &frame->area;
    TextStyle number = {.size = TEXT_SIZE, .colour = palette_ink, .across = 1, .up = 0.5};
    for (size_t i = 0; i < frame->y.n_ticks; i++) {
        Point at = {area->x - 10, y_of(frame, frame->y.tick[i]) + 0.5};
        canvas_text(layout->canvas, at, &number, frame->y.text[i]);
    }
    TextStyle label = {.size = TEXT_SIZE, .colour = palette_faint_ink, .across = 0.5, .up = 1, .upright = true};
    draw_text(layout->canvas, (Point){MARGIN, area->y + area->h / 2}, label, area->h, frame->panel->y_label);
}

/* The line under a panel, with ticks; under the last panel also their numbers and the label. */
static void draw_x_axis(const Layout *layout, const Frame *frame, bool last)
{
    const Rect *area = &frame->area;
    double bottom = area->y + area->h;
    draw_horizontal(layout->canvas, bottom, area->x, area->x + area->w, palette_axis);
    TextStyle number = {.size = TEXT_SIZE, .colour = palette_ink, .across = 0.5, .up = 1};
    for (size_t i = 0; i < layout->x.n_ticks; i++) {
        double x = x_of(layout, layout->x.tick[i]);
        draw_vertical(layout->canvas, x, bottom, bottom + 5, palette_axis);
        if (last) canvas_text(layout->canvas, (Point){x + 0.5, bottom + 12}, &number, layout->x.text[i]);
    }
    if (!last) return;
    TextStyle label = {.size = TEXT_SIZE, .colour = palette_faint_ink, .across = 0.5, .up = 1};
    Point middle = {area->x + area->w / 2, bottom + 14 + LINE_HEIGHT};
    draw_text(layout->canvas, middle, label, area->w, layout->chart->x_label);
}

/* ---- lines ---------------------------------------------------------------------------------------------------- */

static bool is_marked(const Series *series) { return series->kind == SERIES_MARKED || series->kind == SERIES_NUMBERED; }

static void draw_marker(Canvas *canvas, Point at, Colour colour)
{
    canvas_circle(canvas, at, 6, palette_ground); /* a rim, so that it is visible on a line of the same colour */
    canvas_circle(canvas, at, 4.5, colour);
}

/* The value above a circle, moved sideways if it would leave the panel. */
static void draw_number(const Layout *layout, const Frame *frame, Point at, double value, Colour colour)
{
    char text[32];
    snprintf(text, sizeof text, "%.4g", value);
    double wide = canvas_text_width(layout->canvas, TEXT_SIZE, text), left = at.x - wide / 2,
           max_left = frame->area.x + frame->area.w - wide;
    double up = at.y - 12 - TEXT_SIZE < frame->area.y ? -12 - 0.75 * TEXT_SIZE
                                                      : 12; /* below the circle, if there is no space above it */
    TextStyle style = {.size = TEXT_SIZE, .colour = colour};
    Colour ground = palette_ground;
    ground.a = 200; /* so that the number can be read where it lies on a line */
    left = fmax(fmin(left, max_left), frame->area.x);
    canvas_rect(layout->canvas, (Rect){left - 2, at.y - up - 0.8 * TEXT_SIZE, wide + 4, TEXT_SIZE}, ground);
    canvas_text(layout->canvas, (Point){left, at.y - up}, &style, text);
}

/* A thin line joins the markers of a series: nothing was measured between them. */
static Stroke thin_stroke(const Series *series)
{
    return (Stroke){1.3, palette_stroke(series->colour, 1).colour, 2, 5};
}

/* A line through points in pixels. A point without neighbours is drawn as a disc. */
static void draw_line(Canvas *canvas, size_t n, const Point *at, Stroke stroke)
{
    canvas_path(canvas, n, at, &stroke);
    for (size_t i = 0; i < n; i++)
        if (isfinite(at[i].y) && (i == 0 || !isfinite(at[i - 1].y)) && (i + 1 == n || !isfinite(at[i + 1].y)))
            canvas_circle(canvas, at[i], stroke.width * 1.5, stroke.colour);
}

/* at, smooth: workspace for the points of the series. */
static void draw_series(const Layout *layout, const Frame *frame, const Series *series, Point *at, Point *smooth)
{
    Stroke bold = palette_stroke(series->colour, 2.6), thin = thin_stroke(series);
    for (size_t i = 0; i < series->n; i++) {
        Point p = series->points[i];
        at[i] = layout_shows(frame, p) ? (Point){x_of(layout, p.x), y_of(frame, p.y)} : (Point){NAN, NAN};
        smooth[i] = (Point){p.x, layout_shows(frame, p) ? p.y : NAN};
    }
    if (series->kind == SERIES_LINE) draw_line(layout->canvas, series->n, at, palette_stroke(series->colour, 2));
    if (is_marked(series)) {
        canvas_path(layout->canvas, series->n, at, &thin);
        for (size_t i = 0; i < series->n; i++) draw_marker(layout->canvas, at[i], thin.colour);
        for (size_t i = 0; i < series->n && series->kind == SERIES_NUMBERED && series->n <= MAX_NUMBERS; i++)
            if (isfinite(at[i].y)) draw_number(layout, frame, at[i], series->points[i].y, thin.colour);
    }
    if (series->kind != SERIES_SMOOTHED) return;
    draw_line(layout->canvas, series->n, at, (Stroke){1.2, palette_pale(bold.colour), 0, 0});
    chart_smooth(series->n, chart_window(series->n), at, smooth); /* the pixels are drawn: at is free */
    for (size_t i = 0; i < series->n; i++)
        at[i] = isfinite(at[i].y) ? (Point){x_of(layout, at[i].x), y_of(frame, at[i].y)} : (Point){NAN, NAN};
    draw_line(layout->canvas, series->n, at, bold);
}

/* Series with markers are drawn last, so that no pale line covers a marker. */
static Err *draw_lines(const Layout *layout, const Frame *frame)
{
    const Panel *panel = frame->panel;
    Point *points = NULL;
    size_t max_points = 0;
    for (size_t i = 0; i < panel->n_series; i++) max_points = size_max(max_points, panel->series[i].n);
    TRY(mem_new(&points, max_points * 2, sizeof *points));
    canvas_clip(layout->canvas, frame->area);
    for (int marked = 0; marked < 2; marked++)
        for (size_t i = 0; i < panel->n_series; i++)
            if (is_marked(&panel->series[i]) == marked)
                draw_series(layout, frame, &panel->series[i], points, points + max_points);
    canvas_clip_none(layout->canvas);
    free(points);
    return NULL;
}

/* ---- heat ----------------------------------------------------------------------------------------------------- */

/* The mean of cells [row, row_end) x [column, column_end), which one pixel covers. */
static double cell_mean(const Heat *heat, size_t row, size_t row_end, size_t column, size_t column_end)
{
    double sum = 0;
    size_t count = 0;
    for (size_t r = row; r < row_end; r++) {
        for (size_t c = column; c < column_end; c++) {
            double value = heat->values[r * heat->columns + c];
            if (!isfinite(value)) continue;
            sum += value;
            count++;
        }
    }
    return count ? sum / (double)count : NAN;
}

/* The cells between two places 0 .. 1 on a side of n cells; at least one. */
static void cells_between(double from, double to, size_t n, size_t *first, size_t *end)
{
    double at = fmax(fmin(from, to), 0) * (double)n, last = fmin(fmax(from, to), 1) * (double)n;
    *first = at < (double)n ? (size_t)at : n - 1;
    *end = last > (double)*first + 1 ? (size_t)last : *first + 1;
    if (*end > n) *end = n;
}

static void draw_heat(const Layout *layout, const Frame *frame)
{
    const Heat *heat = frame->panel->heat;
    const Rect *area = &frame->area;
    double left = x_of(layout, heat->x_low), right = x_of(layout, heat->x_high), wide = right - left;
    for (double y = 0; y < area->h; y++) {
        size_t row, row_end, column, column_end;
        cells_between(1 - (y + 1) / area->h, 1 - y / area->h, heat->rows, &row, &row_end);
        for (double x = floor(left); x < right; x++) {
            cells_between((x - left) / wide, (x + 1 - left) / wide, heat->columns, &column, &column_end);
            double value = cell_mean(heat, row, row_end, column, column_end);
            Colour colour = isfinite(value) ? palette_heat(axis_place(&frame->bar, value)) : palette_missing;
            canvas_rect(layout->canvas, (Rect){x, area->y + y, 1, 1}, colour);
        }
    }
}

static void draw_bar(const Layout *layout, const Frame *frame)
{
    const Rect *area = &frame->area;
    double x = area->x + area->w + GAP;
    for (double y = 0; y < area->h; y++)
        canvas_rect(layout->canvas, (Rect){x, area->y + y, BAR_WIDTH, 1}, palette_heat(1 - (y + 0.5) / area->h));
    TextStyle number = {.size = TEXT_SIZE, .colour = palette_ink, .up = 0.5};
    for (size_t i = 0; i < frame->bar.n_ticks; i++) {
        double y = area->y + (1 - axis_place(&frame->bar, frame->bar.tick[i])) * area->h;
        draw_horizontal(layout->canvas, fmin(y, area->y + area->h - 1), x + BAR_WIDTH, x + BAR_WIDTH + 5, palette_axis);
        canvas_text(layout->canvas, (Point){x + BAR_WIDTH + 9, y + 0.5}, &number, frame->bar.text[i]);
    }
    TextStyle label = {.size = TEXT_SIZE, .colour = palette_faint_ink, .across = 0.5, .upright = true};
    Point edge = {(double)canvas_width(layout->canvas) - MARGIN, area->y + area->h / 2};
    draw_text(layout->canvas, edge, label, area->h, frame->panel->heat->name);
}

/* ---- the whole ------------------------------------------------------------------------------------------------ */

static void draw_sample(Canvas *canvas, Point at, const Series *series)
{
    Stroke stroke = palette_stroke(series->colour, series->kind == SERIES_LINE ? 2 : 2.6);
    Point from = {at.x + 4, at.y}, to = {at.x + SAMPLE_WIDTH - 4, at.y};
    if (series->kind == SERIES_SMOOTHED)
        canvas_rect(canvas, (Rect){at.x, at.y - 5, SAMPLE_WIDTH, 10}, palette_pale(stroke.colour));
    if (is_marked(series)) stroke = thin_stroke(series);
    canvas_line(canvas, from, to, &stroke);
    if (is_marked(series)) draw_marker(canvas, (Point){at.x + SAMPLE_WIDTH / 2, at.y}, stroke.colour);
}

static void draw_legend(const Layout *layout, const Frame *frame)
{
    const Panel *panel = frame->panel;
    TextStyle style = {.size = TEXT_SIZE, .colour = palette_ink, .up = 0.5};
    double top = frame->area.y - LINE_HEIGHT * (double)layout_legend_rows(frame) + 2;
    size_t hidden = layout_n_named(panel) - frame->shown, n = 0;
    double x = layout->left;
    for (size_t i = 0; i < panel->n_series && n < frame->shown; i++) {
        const Series *series = &panel->series[i];
        if (!series->name) continue;
        if (frame->column > 0) x = layout->left + frame->column * (double)(n % frame->columns);
        Point at = {x, round(top + LINE_HEIGHT * (double)(n / frame->columns)) + 4};
        double width = frame->column > 0 ? frame->column : layout_entry_width(layout, series);
        n++;
        if (hidden && n == frame->shown) { /* the last place is for the number of series without one */
            char more[64];
            snprintf(more, sizeof more, "and %zu more", hidden + 1);
            draw_text(layout->canvas, at, style, width, more);
        } else {
            draw_sample(layout->canvas, at, series);
            at.x += SAMPLE_WIDTH + 8;
            draw_text(layout->canvas, at, style, width - SAMPLE_WIDTH - 16, series->name);
        }
        x += width;
    }
}

static void draw_head(const Layout *layout, const Frame *frame)
{
    const Panel *panel = frame->panel;
    double width = layout->right - layout->left;
    TextStyle title = {.size = HEAD_SIZE, .colour = palette_ink, .up = 1};
    TextStyle note = {.size = TEXT_SIZE - 1, .colour = palette_faint_ink, .across = 1, .up = 1};
    double title_width = panel->title ? canvas_text_width(layout->canvas, HEAD_SIZE, panel->title) + GAP : 0;
    draw_text(layout->canvas, (Point){layout->left, frame->head}, title, width, panel->title);
    if (title_width < width)
        draw_text(layout->canvas, (Point){layout->right, frame->head + 1}, note, width - title_width, panel->note);
}

static Err *draw_panel(const Layout *layout, const Frame *frame, bool last)
{
    Err *err = NULL;
    const Rect *area = &frame->area;
    draw_head(layout, frame);
    draw_legend(layout, frame);
    if (layout_is_empty(frame)) {
        TextStyle style = {.size = HEAD_SIZE, .colour = palette_faint_ink, .across = 0.5, .up = 0.5};
        draw_text(layout->canvas, (Point){area->x + area->w / 2, area->y + area->h / 2}, style, area->w, "no data");
    } else if (frame->panel->heat) {
        draw_heat(layout, frame);
        draw_bar(layout, frame);
    } else {
        draw_grid(layout, frame);
        err = draw_lines(layout, frame);
    }
    if (!layout_is_empty(frame)) draw_y_axis(layout, frame);
    draw_x_axis(layout, frame, last);
    return err;
}

static void draw_titles(const Layout *layout)
{
    const Chart *chart = layout->chart;
    double width = layout->right - layout->left, y = MARGIN;
    TextStyle title = {.size = TITLE_SIZE, .colour = palette_ink, .up = 1};
    TextStyle subtitle = {.size = TEXT_SIZE, .colour = palette_faint_ink, .up = 1};
    draw_text(layout->canvas, (Point){layout->left, y}, title, width, chart->title);
    if (chart->title) y += TITLE_SIZE + 8;
    draw_text(layout->canvas, (Point){layout->left, y}, subtitle, width, chart->subtitle);
}

Err *chart_draw(const Chart *chart, Canvas *canvas)
{
    Layout layout = {.chart = chart, .canvas = canvas};
    TRY(mem_new(&layout.frames, chart->n_panels, sizeof *layout.frames));
    lay_out(&layout);
    draw_titles(&layout);
    Err *err = NULL;
    for (size_t i = 0; i < chart->n_panels && !err; i++)
        err = draw_panel(&layout, &layout.frames[i], i + 1 == chart->n_panels);
    free(layout.frames);
    return err;
}

Err *chart_write(const Chart *chart, const char *path)
{
    Canvas *canvas;
    TRY(canvas_new(&canvas, chart->width ? chart->width : 1200, chart->height ? chart->height : 720, palette_ground));
    Err *err = chart_draw(chart, canvas);
    if (!err) err = canvas_write_png(canvas, path);
    canvas_free(canvas);
    return err_wrap(err, "draw %s", path);
}
