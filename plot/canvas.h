/* A picture in memory: anti-aliased shapes and text on it, and a PNG file in the end.
 *
 *     Canvas *canvas;
 *     TRY(canvas_new(&canvas, 1200, 720, (Colour){255, 255, 255, 255}));   // finds the font too
 *     canvas_circle(canvas, (Point){600, 360}, 5, red);
 *     Err *err = canvas_write_png(canvas, "loss.png");
 *     canvas_free(canvas);
 *
 * Units are pixels from the upper left corner, y down; pixel (i, j) covers i .. i + 1, j .. j + 1. Shapes may reach
 * over the edge or the clip; those with a coordinate that is not finite are left out. Drawing returns no errors: the
 * canvas keeps the first, and canvas_write_png hands it over. The only door to libpng and FreeType. */
#ifndef GRAFT_PLOT_CANVAS_H
#define GRAFT_PLOT_CANVAS_H

#include "base/err.h"

#include <stdbool.h>

typedef struct Canvas Canvas;
typedef struct {
    double x, y;
} Point;
typedef struct {
    double x, y, w, h;
} Rect;
typedef struct {
    unsigned char r, g, b, a;
} Colour; /* a = 255 hides what is beneath */

/* Lines are round at joints and ends. dash 0: unbroken. */
typedef struct {
    double width;
    Colour colour;
    double dash, gap;
} Stroke;

/* Which point of the text stands at the place given: across 0 its start, 0.5 its middle, 1 its end; up 0 the baseline,
 * 0.5 the middle of its capitals and digits, 1 their top. Upright text reads from below to above. */
typedef struct {
    double size; /* pixels per em */
    Colour colour;
    double across, up;
    bool upright;
} TextStyle;

/* A picture of one colour. The font is the file named by GRAFT_FONT, else DejaVu Sans where systems keep it.
 * Fails: ERR_USAGE when a side is 0 or above 16384; ERR_IO without a font, saying which package has it.
 * Owner: the caller, until canvas_free, which takes NULL. */
MUST_USE Err *canvas_new(Canvas **out, size_t width, size_t height, Colour ground);
void canvas_free(Canvas *canvas);
size_t canvas_width(const Canvas *canvas);
size_t canvas_height(const Canvas *canvas);
Colour canvas_pixel(const Canvas *canvas, size_t x, size_t y);

/* Draw only inside rect from here on (rounded to whole pixels); inside the whole picture again. */
void canvas_clip(Canvas *canvas, Rect rect);
void canvas_clip_none(Canvas *canvas);

void canvas_rect(Canvas *canvas, Rect rect, Colour colour);
void canvas_circle(Canvas *canvas, Point centre, double radius, Colour colour);
void canvas_line(Canvas *canvas, Point from, Point to, const Stroke *stroke);

/* A line through n points, painted once however often it crosses itself. n = 1 is a dot; a point that is not finite
 * breaks the line. */
void canvas_path(Canvas *canvas, size_t n, const Point *points, const Stroke *stroke);

/* UTF-8 text on one line. */
void canvas_text(Canvas *canvas, Point at, const TextStyle *style, const char *text);
double canvas_text_width(Canvas *canvas, double size, const char *text);

/* Write the picture, whole or not at all. Fails also with the first error that drawing met. */
MUST_USE Err *canvas_write_png(Canvas *canvas, const char *path);

#endif
