/* A picture in memory: anti-aliased shapes and text are drawn on it, and it is written to a PNG file.
 *
 *     Canvas *canvas;
 *     TRY(canvas_new(&canvas, 1200, 720, (Colour){255, 255, 255, 255}));   // finds the font too
 *     canvas_circle(canvas, (Point){600, 360}, 5, red);
 *     Err *err = canvas_write_png(canvas, "loss.png");
 *     canvas_free(canvas);
 *
 * Units are pixels. The origin is the upper left corner, and y increases towards the bottom; pixel (i, j) covers i
 * .. i + 1, j .. j + 1. Shapes may extend over the edge of the picture or of the clip. A shape with a coordinate
 * that is not finite is not drawn. Drawing returns no errors: the canvas keeps the first, and canvas_write_png
 * returns it. libpng and FreeType are used through this module only. */
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
} Colour; /* a: 0 transparent .. 255 opaque */

/* Lines have round joints and ends. dash 0: a solid line. */
typedef struct {
    double width;
    Colour colour;
    double dash, gap;
} Stroke;

/* across, up: which point of the text is drawn at the given place. across 0 is its start, 0.5 its middle, 1 its end.
 * up 0 is the baseline, 0.5 the middle of capitals and digits, 1 their top. Upright text is turned by 90 degrees and
 * reads from bottom to top. */
typedef struct {
    double size; /* pixels per em */
    Colour colour;
    double across, up;
    bool upright;
} TextStyle;

/* Make a picture of one colour. The font is the file that GRAFT_FONT names, or else DejaVu Sans in the usual folders.
 * Fails: ERR_USAGE when a side is 0 or above 16384; ERR_IO without a font, naming the package that has it.
 * Owner: the caller, until canvas_free, which takes NULL. */
MUST_USE Err *canvas_new(Canvas **out, size_t width, size_t height, Colour ground);
void canvas_free(Canvas *canvas);
size_t canvas_width(const Canvas *canvas);
size_t canvas_height(const Canvas *canvas);
Colour canvas_pixel(const Canvas *canvas, size_t x, size_t y);

/* From now on, draw only inside rect (rounded to whole pixels); or inside the whole picture again. */
void canvas_clip(Canvas *canvas, Rect rect);
void canvas_clip_none(Canvas *canvas);

void canvas_rect(Canvas *canvas, Rect rect, Colour colour);
void canvas_circle(Canvas *canvas, Point centre, double radius, Colour colour);
void canvas_line(Canvas *canvas, Point from, Point to, const Stroke *stroke);

/* A line through n points; a pixel is painted once, also where the line crosses itself. n = 1 is a dot. A point that
 * is not finite breaks the line. */
void canvas_path(Canvas *canvas, size_t n, const Point *points, const Stroke *stroke);

/* UTF-8 text on one line. */
void canvas_text(Canvas *canvas, Point at, const TextStyle *style, const char *text);
double canvas_text_width(Canvas *canvas, double size, const char *text);

/* Write the picture, complete or not at all. Fails: also with the first error of drawing. */
MUST_USE Err *canvas_write_png(Canvas *canvas, const char *path);

#endif
