/* Charts drawn onto a canvas, checked by their pixels. */
#include "plot/chart.h"

#include "plot/layout.h"
#include "plot/palette.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

enum { CHART_WIDTH = 600, CHART_HEIGHT = 400 };

static Canvas *draw(const Chart *chart)
{
    Canvas *canvas = NULL;
    assert_null(canvas_new(&canvas, CHART_WIDTH, CHART_HEIGHT, palette_ground));
    assert_null(chart_draw(chart, canvas));
    return canvas;
}

static Canvas *draw_panel(const Panel *panel)
{
    return draw(&(Chart){.title = "title", .x_label = "step", .n_panels = 1, .panels = panel});
}

static bool same(Colour a, Colour b) { return a.r == b.r && a.g == b.g && a.b == b.b; }

static size_t count(const Canvas *canvas, Colour colour)
{
    size_t n = 0;
    for (size_t y = 0; y < canvas_height(canvas); y++)
        for (size_t x = 0; x < canvas_width(canvas); x++) n += same(canvas_pixel(canvas, x, y), colour);
    return n;
}

static size_t count_line(const Series *series, bool log_y)
{
    Panel panel = {.title = "panel", .log_y = log_y, .n_series = 1, .series = series};
    Canvas *canvas = draw_panel(&panel);
    size_t n = count(canvas, palette_stroke(series->colour, 1).colour);
    canvas_free(canvas);
    return n;
}

static void a_chart_without_data_is_still_drawn(void **state)
{
    (void)state;
    Series empty = {"empty", SERIES_LINE, 0, 0, NULL};
    Heat none = {.name = "none"};
    Panel panels[] = {{0},
                      {.title = "t", .note = "n", .y_label = "y", .n_series = 1, .series = &empty},
                      {.heat = &none}};
    canvas_free(draw(&(Chart){.n_panels = 3, .panels = panels}));
    canvas_free(draw(&(Chart){0}));
}

static void one_point_is_seen(void **state)
{
    (void)state;
    for (SeriesKind kind = SERIES_LINE; kind <= SERIES_NUMBERED; kind++)
        assert_true(count_line(&(Series){NULL, kind, 1, 1, (Point[]){{12, 3.25}}}, false) >= 8);
}

static void points_that_are_not_finite_are_left_out(void **state)
{
    (void)state;
    Point whole[] = {{0, 1}, {1, 2}, {2, 1.5}, {3, 1}};
    Point holed[] = {{0, 1}, {1, 2}, {NAN, 1}, {1.5, NAN}, {1.7, INFINITY}, {INFINITY, 1}, {2, 1.5}, {3, 1}};
    for (SeriesKind kind = SERIES_LINE; kind <= SERIES_NUMBERED; kind++) {
        size_t all = count_line(&(Series){NULL, kind, 0, 4, whole}, false);
        size_t some = count_line(&(Series){NULL, kind, 0, 8, holed}, false);
        assert_true(some > all / 3 && some < all * 2); /* the range is that of the others */
    }
    Point nothing[] = {{0, NAN}, {1, INFINITY}};
    assert_int_equal(count_line(&(Series){NULL, SERIES_SMOOTHED, 0, 2, nothing}, false), 0);
}

static void values_stand_beside_circles_while_they_are_few(void **state)
{
    (void)state;
    enum { MANY = 9 };
    Point points[MANY];
    for (int i = 0; i < MANY; i++) points[i] = (Point){i, 1.25 + i % 3};
    for (size_t n = 2; n <= MANY; n++) {
        size_t marked = count_line(&(Series){NULL, SERIES_MARKED, 2, n, points}, false);
        size_t numbered = count_line(&(Series){NULL, SERIES_NUMBERED, 2, n, points}, false);
        if (n < MANY)
            assert_true(numbered > marked + 10 * n);
        else
            assert_int_equal(numbered, marked);
    }
}

static void every_row_of_a_small_heat_map_has_a_number(void **state)
{
    (void)state;
    enum { ROWS = 6 };
    Canvas *canvas = NULL;
    float values[ROWS] = {0};
    Heat heat = {.rows = ROWS, .columns = 1, .values = values, .x_high = 1, .y_low = -0.5, .y_high = ROWS - 0.5};
    Panel panel = {.heat = &heat};
    Frame frame = {0};
    assert_null(canvas_new(&canvas, CHART_WIDTH, CHART_HEIGHT, palette_ground));
    lay_out(&(Layout){.chart = &(Chart){.n_panels = 1, .panels = &panel}, .canvas = canvas, .frames = &frame});
    assert_int_equal(frame.y.n_ticks, ROWS);
    canvas_free(canvas);
}

static void a_log_axis_passes_over_zero_and_below(void **state)
{
    (void)state;
    Point points[] = {{0, 1}, {1, 10}, {2, 0}, {3, -5}, {4, 100}, {5, 1000}};
    assert_true(count_line(&(Series){NULL, SERIES_LINE, 0, 6, points}, true) > 50);
}

static void a_legend_never_lies_on_the_data(void **state)
{
    (void)state;
    Series series[30];
    Point top[] = {{0, 1}, {1, 1}}, bottom[] = {{0, 0}, {1, 0}};
    for (size_t i = 0; i < 30; i++)
        series[i] = (Series){"a name of some length", SERIES_LINE, 0, 2, i % 2 ? top : bottom};
    Panel panel = {.title = "panel", .n_series = 30, .series = series};
    Canvas *canvas = draw_panel(&panel);
    size_t full_rows = 0;
    for (size_t y = 0; y < CHART_HEIGHT; y++) {
        size_t n = 0;
        for (size_t x = 0; x < CHART_WIDTH; x++) n += same(canvas_pixel(canvas, x, y), palette_stroke(0, 1).colour);
        full_rows += n > CHART_WIDTH * 3 / 4;
    }
    assert_true(full_rows >= 2); /* both lines run through unbroken */
    canvas_free(canvas);
}

static void a_heat_map_spans_its_colours_and_leaves_gaps_grey(void **state)
{
    (void)state;
    const float values[] = {1, 2, 3, NAN, 5, 6};
    Heat heat = {2, 3, values, -0.5, 2.5, -0.5, 1.5, 0, 0, "load"};
    Canvas *canvas = draw_panel(&(Panel){.heat = &heat});
    size_t low = count(canvas, palette_heat(0)), high = count(canvas, palette_heat(1));
    size_t gap = count(canvas, palette_missing);
    assert_true(low > 5000 && gap > 5000 && high > 5000);
    assert_true(low < gap * 1.1 && gap < low * 1.1 && high < gap * 1.1);
    canvas_free(canvas);
}

static void a_heat_map_finer_than_pixels_shows_means(void **state)
{
    (void)state;
    static float values[4000];
    for (size_t i = 0; i < 4000; i++) values[i] = (float)(i % 2);
    Heat heat = {1, 4000, values, 0, 4000, 0, 1, 0, 0, NULL};
    Canvas *canvas = draw_panel(&(Panel){.heat = &heat});
    assert_true(count(canvas, palette_heat(0)) < 1000 && count(canvas, palette_heat(1)) < 1000);
    canvas_free(canvas);
}

static void the_average_leaves_a_constant_as_it_is_and_forgets_a_spike(void **state)
{
    (void)state;
    Point in[9], out[9];
    for (size_t i = 0; i < 9; i++) in[i] = (Point){(double)i, 3};
    in[1].y = 1e30;
    in[5].y = NAN;
    chart_smooth(9, 3, out, in);
    for (size_t i = 3; i < 9; i++) {
        if (i == 5)
            assert_true(isnan(out[i].y));
        else
            assert_true(out[i].y == 3);
        assert_true(out[i].x == (double)i);
    }
    assert_int_equal(chart_window(0), 5);
    for (size_t n = 0; n < 10000; n += 7) assert_int_equal(chart_window(n) % 2, 1);
}

static void a_picture_too_small_for_its_parts_does_no_harm(void **state)
{
    (void)state;
    Point points[] = {{0, 1}, {1, 2}};
    Series series = {"a name", SERIES_MARKED, 0, 2, points};
    Heat heat = {1, 2, (const float[]){1, 2}, 0, 2, 0, 1, 0, 0, "load"};
    Panel panels[] = {{.title = "panel", .note = "note", .y_label = "y", .n_series = 1, .series = &series},
                      {.heat = &heat}};
    Chart chart = {.title = "title", .subtitle = "subtitle", .x_label = "step", .n_panels = 2, .panels = panels};
    for (size_t side = 1; side < 200; side += 33) {
        Canvas *canvas = NULL;
        assert_null(canvas_new(&canvas, side, side, palette_ground));
        assert_null(chart_draw(&chart, canvas));
        canvas_free(canvas);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chart_without_data_is_still_drawn),
        cmocka_unit_test(one_point_is_seen),
        cmocka_unit_test(points_that_are_not_finite_are_left_out),
        cmocka_unit_test(values_stand_beside_circles_while_they_are_few),
        cmocka_unit_test(every_row_of_a_small_heat_map_has_a_number),
        cmocka_unit_test(a_log_axis_passes_over_zero_and_below),
        cmocka_unit_test(a_legend_never_lies_on_the_data),
        cmocka_unit_test(a_heat_map_spans_its_colours_and_leaves_gaps_grey),
        cmocka_unit_test(a_heat_map_finer_than_pixels_shows_means),
        cmocka_unit_test(the_average_leaves_a_constant_as_it_is_and_forgets_a_spike),
        cmocka_unit_test(a_picture_too_small_for_its_parts_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
