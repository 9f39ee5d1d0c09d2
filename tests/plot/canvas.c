/* Shapes, clips, text and files of a canvas, checked by their pixels. */
#include "plot/canvas.h"
#include "tests/support/check.h"

#include "base/file.h"

#include <math.h>
#include <png.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const Colour white = {255, 255, 255, 255}, black = {0, 0, 0, 255}, red = {255, 0, 0, 255};

static int setup(void **state)
{
    Canvas *canvas = NULL;
    assert_null(canvas_new(&canvas, 64, 48, white));
    *state = canvas;
    return 0;
}

static int teardown(void **state)
{
    canvas_free(*state);
    return 0;
}

static bool is(const Canvas *canvas, size_t x, size_t y, Colour colour)
{
    Colour at = canvas_pixel(canvas, x, y);
    return at.r == colour.r && at.g == colour.g && at.b == colour.b;
}

static size_t count_touched(const Canvas *canvas)
{
    size_t n = 0;
    for (size_t y = 0; y < canvas_height(canvas); y++)
        for (size_t x = 0; x < canvas_width(canvas); x++) n += !is(canvas, x, y, white);
    return n;
}

static void a_rectangle_fills_whole_pixels_and_shades_parts(void **state)
{
    canvas_rect(*state, (Rect){2, 3, 4.5, 2}, black);
    assert_true(is(*state, 2, 3, black) && is(*state, 5, 4, black));
    assert_true(is(*state, 1, 3, white) && is(*state, 2, 5, white));
    assert_in_range(canvas_pixel(*state, 6, 3).r, 126, 128);
    assert_int_equal(count_touched(*state), 10);
}

static void lines_have_the_width_asked_for(void **state)
{
    canvas_line(*state, (Point){-10, 20}, (Point){100, 20}, &(Stroke){4, black, 0, 0});
    for (size_t x = 0; x < 64; x++) {
        for (size_t y = 18; y < 22; y++) assert_true(is(*state, x, y, black));
        assert_true(is(*state, x, 17, white) && is(*state, x, 22, white));
    }
}

static void pale_lines_are_equally_pale_where_they_cross_themselves(void **state)
{
    Point bow[] = {{10, 10}, {50, 40}, {50, 10}, {10, 40}, {10, 10}};
    canvas_path(*state, 5, bow, &(Stroke){3, {0, 0, 0, 128}, 0, 0});
    for (size_t y = 0; y < 48; y++)
        for (size_t x = 0; x < 64; x++) assert_true(canvas_pixel(*state, x, y).r >= 126);
    assert_in_range(canvas_pixel(*state, 30, 25).r, 126, 129); /* the crossing */
}

static void dashes_leave_gaps(void **state)
{
    canvas_line(*state, (Point){0, 20}, (Point){64, 20}, &(Stroke){2, black, 8, 12});
    assert_true(is(*state, 4, 20, black) && is(*state, 14, 20, white) && is(*state, 24, 20, black));
}

static void a_point_that_is_not_finite_breaks_the_line(void **state)
{
    Point points[] = {{0, 10}, {20, 10}, {NAN, 10}, {40, 10}, {60, 10}, {70, INFINITY}, {30, 40}};
    canvas_path(*state, 7, points, &(Stroke){2, black, 0, 0});
    assert_true(is(*state, 10, 10, black) && is(*state, 30, 10, white) && is(*state, 50, 10, black));
    assert_false(is(*state, 30, 40, white)); /* a single point is a dot */
}

static void nothing_is_drawn_outside_the_clip(void **state)
{
    Canvas *canvas = *state;
    canvas_clip(canvas, (Rect){20, 10, 20, 15});
    canvas_rect(canvas, (Rect){-100, -100, 300, 300}, red);
    canvas_circle(canvas, (Point){20, 10}, 12, black);
    canvas_line(canvas, (Point){0, 0}, (Point){64, 48}, &(Stroke){5, black, 0, 0});
    canvas_text(canvas, (Point){10, 20}, &(TextStyle){.size = 20, .colour = black}, "clipped");
    canvas_text(canvas, (Point){30, 48}, &(TextStyle){.size = 20, .colour = black, .upright = true}, "clipped");
    for (size_t y = 0; y < 48; y++)
        for (size_t x = 0; x < 64; x++)
            if (x < 20 || x >= 40 || y < 10 || y >= 25) assert_true(is(canvas, x, y, white));
    assert_int_equal(count_touched(canvas), 20 * 15);
}

static void shapes_far_outside_or_not_finite_draw_nothing_wrong(void **state)
{
    static const double odd[] = {NAN, INFINITY, -INFINITY, 1e300, -1e300, 1e18, -1e18, 70, -70};
    size_t n = sizeof odd / sizeof *odd;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            Point at = {odd[i], odd[j]};
            canvas_circle(*state, at, 2, red);
            canvas_rect(*state, (Rect){odd[i], odd[j], 3, 3}, red);
            canvas_text(*state, at, &(TextStyle){.size = 10, .colour = red, .across = 0.5}, "a");
            canvas_line(*state, at, at, &(Stroke){2, red, 0, 0});
            canvas_clip(*state, (Rect){odd[i], odd[j], odd[j], odd[i]});
            canvas_rect(*state, (Rect){-100, -100, 20, 20}, red);
            canvas_clip_none(*state);
        }
    assert_int_equal(count_touched(*state), 0);
    canvas_line(*state, (Point){-1e300, 5}, (Point){1e300, 5}, &(Stroke){2, black, 3, 3});
    canvas_circle(*state, (Point){32, 24}, 1e300, black);
    assert_int_equal(count_touched(*state), 64 * 48);
}

static void text_stands_where_its_style_says(void **state)
{
    Canvas *canvas = *state;
    double width = canvas_text_width(canvas, 20, "H");
    assert_true(width > 8 && width < 25);
    canvas_text(canvas, (Point){32, 24}, &(TextStyle){.size = 20, .colour = black, .across = 1, .up = 1}, "H");
    size_t n = count_touched(canvas);
    assert_true(n > 30);
    for (size_t y = 0; y < 48; y++)
        for (size_t x = 0; x < 64; x++)
            if (x > 32 || y < 23 || y > 40) assert_true(is(canvas, x, y, white));
}

static void text_that_is_not_utf_8_is_drawn(void **state)
{
    static const char *const odd[] = {"\xff\xfe", "a\xc3",
                                      "\xe2\x82", "\xf0\x9f\x92",
                                      "\x80\x80", "\xf8\x88\x80\x80\x80",
                                      ""};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        canvas_text(*state, (Point){5, 20}, &(TextStyle){.size = 12, .colour = black}, odd[i]);
    assert_true(canvas_text_width(*state, 12, "\xc3\xa9") < canvas_text_width(*state, 12, "ee"));
    assert_true(canvas_text_width(*state, 12, "") == 0);
}

static void the_png_has_the_same_pixels(void **state)
{
    char directory[] = "/tmp/graft-canvas-XXXXXX", path[PATH_BYTES];
    assert_non_null(mkdtemp(directory));
    assert_null(file_join(path, directory, "a.png"));
    canvas_rect(*state, (Rect){10, 5, 3, 3}, red);
    assert_null(canvas_write_png(*state, path));
    assert_null(canvas_write_png(*state, path)); /* over the first */
    assert_int_equal(count_entries(directory), 1);

    png_image image = {.version = PNG_IMAGE_VERSION};
    assert_true(png_image_begin_read_from_file(&image, path));
    assert_int_equal(image.width, 64);
    assert_int_equal(image.height, 48);
    image.format = PNG_FORMAT_RGB;
    unsigned char pixels[48][64][3];
    assert_true(png_image_finish_read(&image, NULL, pixels, 0, NULL));
    for (size_t y = 0; y < 48; y++)
        for (size_t x = 0; x < 64; x++)
            assert_true(is(*state, x, y, (Colour){pixels[y][x][0], pixels[y][x][1], pixels[y][x][2], 255}));
    unlink(path);
    rmdir(directory);
}

static void a_target_that_cannot_be_written_is_an_error_and_leaves_nothing(void **state)
{
    char directory[] = "/tmp/graft-canvas-XXXXXX", path[PATH_BYTES];
    assert_non_null(mkdtemp(directory));
    assert_null(file_join(path, directory, "missing/a.png"));
    Err *err = canvas_write_png(*state, path);
    assert_non_null(err);
    assert_int_equal(err_kind(err), ERR_IO);
    err_free(err);
    assert_null(file_join(path, directory, "folder"));
    assert_null(file_make_directory(path));
    err = canvas_write_png(*state, path); /* a directory cannot be replaced by a file */
    assert_non_null(err);
    err_free(err);
    assert_int_equal(count_entries(directory), 1);
    rmdir(path);
    rmdir(directory);
}

static void a_font_that_cannot_be_read_is_an_error_that_names_the_package(void **state)
{
    (void)state;
    Canvas *canvas = NULL;
    const char *before = getenv("GRAFT_FONT");
    char *kept = before ? strdup(before) : NULL;
    static const char *const bad[] = {"/nonexistent.ttf", "/dev/null", "/tmp"};
    for (size_t i = 0; i < 3; i++) {
        setenv("GRAFT_FONT", bad[i], 1);
        Err *err = canvas_new(&canvas, 8, 8, white);
        assert_non_null(err);
        assert_null(canvas);
        assert_non_null(strstr(err_message(err), bad[i]));
        assert_non_null(strstr(err_message(err), "fonts-dejavu-core"));
        err_free(err);
    }
    if (kept)
        setenv("GRAFT_FONT", kept, 1);
    else
        unsetenv("GRAFT_FONT");
    free(kept);
}

static void a_picture_has_a_size(void **state)
{
    (void)state;
    Canvas *canvas = NULL;
    size_t sizes[][2] = {{0, 5}, {5, 0}, {1000000, 5}, {SIZE_MAX, SIZE_MAX}};
    for (size_t i = 0; i < 4; i++) {
        Err *err = canvas_new(&canvas, sizes[i][0], sizes[i][1], white);
        assert_non_null(err);
        assert_int_equal(err_kind(err), ERR_USAGE);
        err_free(err);
    }
    canvas_free(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_rectangle_fills_whole_pixels_and_shades_parts),
        TEST(lines_have_the_width_asked_for),
        TEST(pale_lines_are_equally_pale_where_they_cross_themselves),
        TEST(dashes_leave_gaps),
        TEST(a_point_that_is_not_finite_breaks_the_line),
        TEST(nothing_is_drawn_outside_the_clip),
        TEST(shapes_far_outside_or_not_finite_draw_nothing_wrong),
        TEST(text_stands_where_its_style_says),
        TEST(text_that_is_not_utf_8_is_drawn),
        TEST(the_png_has_the_same_pixels),
        TEST(a_target_that_cannot_be_written_is_an_error_and_leaves_nothing),
        cmocka_unit_test(a_font_that_cannot_be_read_is_an_error_that_names_the_package),
        cmocka_unit_test(a_picture_has_a_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
