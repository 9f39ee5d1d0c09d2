/* Pixels are RGB in one block. A shape has a coverage between 0 and 1 for each pixel: the covered area for rectangles;
 * for lines and circles a cheap approximation of it, from the distance of the pixel's middle to the edge.
 *
 * A path first collects the maximum coverage of its segments in `cover` and is then blended once, so a pale line is
 * equally pale where it crosses itself and at its joints. Between calls `cover` is all zero. */
#include "plot/canvas.h"

#include "base/file.h"
#include "base/memory.h"

#include <ft2build.h>
#include FT_FREETYPE_H
#include <math.h>
#include <png.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SIDE = 16384 };

typedef struct {
    size_t x0, y0, x1, y1;
} Box; /* pixels x0 .. x1 - 1 */

struct Canvas {
    size_t width, height;
    unsigned char *pixels; /* [height][width][3] */
    unsigned char *cover;  /* [height][width] */
    Box clip;
    FT_Library library;
    FT_Face face;
    double capital; /* height of a capital over the size of the font */
    Err *err;       /* the first error of drawing */
};

/* ---- the font ------------------------------------------------------------------------------------------------- */

static const char *const font_paths[] = {
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",   /* Debian, Ubuntu */
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf", /* Fedora */
    "/usr/share/fonts/dejavu/DejaVuSans.ttf",            /* Alpine, older Fedora */
    "/usr/share/fonts/truetype/DejaVuSans.ttf",          /* openSUSE */
    "/usr/share/fonts/TTF/DejaVuSans.ttf",               /* Arch */
    "/usr/local/share/fonts/dejavu/DejaVuSans.ttf",      /* FreeBSD */
};

static Err *find_font(const char **path)
{
    *path = getenv("GRAFT_FONT");
    if (*path && **path) return NULL;
    for (size_t i = 0; i < sizeof font_paths / sizeof *font_paths; i++) {
        *path = font_paths[i];
        if (file_exists(*path)) return NULL;
    }
    return err_new(ERR_IO, "no font found: install the package fonts-dejavu-core, or set GRAFT_FONT to a .ttf file");
}

static Err *font_open(Canvas *canvas)
{
    const char *path;
    TRY(find_font(&path));
    if (FT_Init_FreeType(&canvas->library)) return err_new(ERR_MEMORY, "FreeType does not start");
    if (FT_New_Face(canvas->library, path, 0, &canvas->face))
        return err_new(ERR_IO,
                       "%s is not a font that can be read: install the package fonts-dejavu-core, or set "
                       "GRAFT_FONT to a .ttf file",
                       path);
    if (!FT_IS_SCALABLE(canvas->face)) return err_new(ERR_IO, "font %s has no outlines", path);
    if (FT_Load_Char(canvas->face, 'H', FT_LOAD_NO_SCALE)) return err_new(ERR_IO, "font %s has no letter H", path);
    canvas->capital = (double)canvas->face->glyph->metrics.horiBearingY / canvas->face->units_per_EM;
    return NULL;
}

/* ---- the canvas ----------------------------------------------------------------------------------------------- */

static Err *make_pixels(Canvas *canvas, Colour ground)
{
    size_t n = canvas->width * canvas->height;
    TRY(mem_new(&canvas->pixels, n, 3));
    TRY(mem_new(&canvas->cover, n, 1));
    for (size_t i = 0; i < n; i++) memcpy(canvas->pixels + i * 3, (unsigned char[]){ground.r, ground.g, ground.b}, 3);
    canvas_clip_none(canvas);
    return NULL;
}

Err *canvas_new(Canvas **out, size_t width, size_t height, Colour ground)
{
    *out = NULL;
    if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE)
        return err_new(ERR_USAGE, "a picture of %zu by %zu pixels; expected sides of 1 to %d", width, height, MAX_SIDE);
    Canvas *canvas;
    TRY(mem_new(&canvas, 1, sizeof *canvas));
    canvas->width = width;
    canvas->height = height;
    Err *err = make_pixels(canvas, ground);
    if (!err) err = font_open(canvas);
    if (err)
        canvas_free(canvas);
    else
        *out = canvas;
    return err;
}

void canvas_free(Canvas *canvas)
{
    if (!canvas) return;
    if (canvas->face) FT_Done_Face(canvas->face);
    if (canvas->library) FT_Done_FreeType(canvas->library);
    err_free(canvas->err);
    free(canvas->cover);
    free(canvas->pixels);
    free(canvas);
}

size_t canvas_width(const Canvas *canvas) { return canvas->width; }
size_t canvas_height(const Canvas *canvas) { return canvas->height; }

Colour canvas_pixel(const Canvas *canvas, size_t x, size_t y)
{
    ASSERT(x < canvas->width && y < canvas->height, "x %zu, y %zu", x, y);
    const unsigned char *p = canvas->pixels + (y * canvas->width + x) * 3;
    return (Colour){p[0], p[1], p[2], 255};
}

/* A coordinate as a pixel inside 0 .. max; also for numbers that no integer can hold. */
static size_t pixel(double at, size_t max) { return at > 0 ? at < (double)max ? (size_t)at : max : 0; }

void canvas_clip_none(Canvas *canvas) { canvas->clip = (Box){0, 0, canvas->width, canvas->height}; }

void canvas_clip(Canvas *canvas, Rect rect)
{
    size_t w = canvas->width, h = canvas->height;
    canvas->clip = (Box){pixel(round(rect.x), w), pixel(round(rect.y), h), pixel(round(rect.x + rect.w), w),
                         pixel(round(rect.y + rect.h), h)};
}

/* The pixels that lie in the clip and touch left .. right, top .. bottom; none has x0 >= x1 or y0 >= y1. */
static Box box_of(const Canvas *canvas, double left, double top, double right, double bottom)
{
    const Box *clip = &canvas->clip;
    Box box = {pixel(floor(left), clip->x1), pixel(floor(top), clip->y1), pixel(ceil(right), clip->x1),
               pixel(ceil(bottom), clip->y1)};
    if (box.x0 < clip->x0) box.x0 = clip->x0;
    if (box.y0 < clip->y0) box.y0 = clip->y0;
    return box;
}

static void blend(Canvas *canvas, size_t x, size_t y, Colour colour, unsigned cover)
{
    unsigned char *p = canvas->pixels + (y * canvas->width + x) * 3;
    unsigned a = (colour.a * cover + 127) / 255, ground = 255 - a;
    p[0] = (unsigned char)((p[0] * ground + colour.r * a + 127) / 255);
    p[1] = (unsigned char)((p[1] * ground + colour.g * a + 127) / 255);
    p[2] = (unsigned char)((p[2] * ground + colour.b * a + 127) / 255);
}

static unsigned to_byte(double part) { return part <= 0 ? 0 : part >= 1 ? 255 : (unsigned)(part * 255 + 0.5); }

/* ---- shapes --------------------------------------------------------------------------------------------------- */

/* The part of i .. i + 1 that lies in from .. to. */
static double overlap(size_t i, double from, double to) { return fmin((double)i + 1, to) - fmax((double)i, from); }

void canvas_rect(Canvas *canvas, Rect rect, Colour colour)
{
    double right = rect.x + rect.w, bottom = rect.y + rect.h;
    if (!isfinite(rect.x) || !isfinite(rect.y) || !isfinite(right) || !isfinite(bottom)) return;
    Box box = box_of(canvas, rect.x, rect.y, right, bottom);
    for (size_t y = box.y0; y < box.y1; y++) {
        double tall = fmax(overlap(y, rect.y, bottom), 0);
        for (size_t x = box.x0; x < box.x1; x++)
            blend(canvas, x, y, colour, to_byte(tall * fmax(overlap(x, rect.x, right), 0)));
    }
}

void canvas_circle(Canvas *canvas, Point centre, double radius, Colour colour)
{
    if (!isfinite(centre.x) || !isfinite(centre.y) || !isfinite(radius)) return;
    double reach = radius + 1;
    Box box = box_of(canvas, centre.x - reach, centre.y - reach, centre.x + reach, centre.y + reach);
    for (size_t y = box.y0; y < box.y1; y++)
        for (size_t x = box.x0; x < box.x1; x++)
            blend(canvas, x, y, colour,
                  to_byte(radius + 0.5 - hypot((double)x + 0.5 - centre.x, (double)y + 0.5 - centre.y)));
}

/* Distance of (x, y) from the segment a .. b; `length2` is the square of its length. */
static double segment_distance(Point a, Point b, double length2, double x, double y)
{
    double dx = b.x - a.x, dy = b.y - a.y;
    double along = length2 > 0 ? ((x - a.x) * dx + (y - a.y) * dy) / length2 : 0;
    along = along < 0 ? 0 : along > 1 ? 1 : along;
    return sqrt((x - a.x - along * dx) * (x - a.x - along * dx) + (y - a.y - along * dy) * (y - a.y - along * dy));
}

/* Add one segment to `cover`, and its pixels to `touched`. */
static void cover_segment(Canvas *canvas, Box *touched, Point a, Point b, double width)
{
    double reach = width / 2 + 1, thin = fmin(width, 1); /* a line below one pixel is paler instead of narrower */
    double length2 = (b.x - a.x) * (b.x - a.x) + (b.y - a.y) * (b.y - a.y);
    Box box = box_of(canvas, fmin(a.x, b.x) - reach, fmin(a.y, b.y) - reach, fmax(a.x, b.x) + reach,
                     fmax(a.y, b.y) + reach);
    if (box.x0 >= box.x1 || box.y0 >= box.y1) return;
    for (size_t y = box.y0; y < box.y1; y++) {
        unsigned char *row = canvas->cover + y * canvas->width;
        for (size_t x = box.x0; x < box.x1; x++) {
            double away = segment_distance(a, b, length2, (double)x + 0.5, (double)y + 0.5);
            unsigned cover = to_byte(thin * fmin(fmax(width, 1) / 2 + 0.5 - away, 1));
            if (cover > row[x]) row[x] = (unsigned char)cover;
        }
    }
    if (box.x0 < touched->x0) touched->x0 = box.x0;
    if (box.y0 < touched->y0) touched->y0 = box.y0;
    if (box.x1 > touched->x1) touched->x1 = box.x1;
    if (box.y1 > touched->y1) touched->y1 = box.y1;
}

/* The dashes of one segment. `phase` is the position in the pattern at its beginning, and afterwards at its end. */
static void cover_dashes(Canvas *canvas, Box *touched, Point a, Point b, const Stroke *stroke, double *phase)
{
    double length = hypot(b.x - a.x, b.y - a.y), period = stroke->dash + stroke->gap;
    if (length == 0) return;
    double ux = (b.x - a.x) / length, uy = (b.y - a.y) / length;
    for (double start = -*phase; start < length; start += period) {
        double from = fmax(start, 0), to = fmin(start + stroke->dash, length);
        if (to <= from) continue;
        cover_segment(canvas, touched, (Point){a.x + ux * from, a.y + uy * from}, (Point){a.x + ux * to, a.y + uy * to},
                      stroke->width);
    }
    *phase = fmod(*phase + length, period);
}

static void blend_cover(Canvas *canvas, Box touched, Colour colour)
{
    for (size_t y = touched.y0; y < touched.y1; y++) {
        unsigned char *row = canvas->cover + y * canvas->width;
        for (size_t x = touched.x0; x < touched.x1; x++) {
            if (row[x]) blend(canvas, x, y, colour, row[x]);
            row[x] = 0;
        }
    }
}

/* Move a point far outside of the picture, where nothing is visible, to where squares and counts do not overflow. */
static Point limit_point(Point p) { return (Point){fmax(fmin(p.x, 1e6), -1e6), fmax(fmin(p.y, 1e6), -1e6)}; }

void canvas_path(Canvas *canvas, size_t n, const Point *points, const Stroke *stroke)
{
    Box touched = {SIZE_MAX, SIZE_MAX, 0, 0};
    bool dashed = stroke->dash > 0 && stroke->gap > 0 && stroke->dash + stroke->gap >= 1;
    double phase = 0;
    bool joined = false; /* is there a point before this one to draw from? */
    for (size_t i = 0; i < n; i++) {
        bool usable = isfinite(points[i].x) && isfinite(points[i].y);
        bool last = i + 1 == n || !isfinite(points[i + 1].x) || !isfinite(points[i + 1].y);
        if (usable && joined && dashed)
            cover_dashes(canvas, &touched, limit_point(points[i - 1]), limit_point(points[i]), stroke, &phase);
        else if (usable && joined)
            cover_segment(canvas, &touched, limit_point(points[i - 1]), limit_point(points[i]), stroke->width);
        else if (usable && last)
            cover_segment(canvas, &touched, limit_point(points[i]), limit_point(points[i]), stroke->width);
        joined = usable;
    }
    blend_cover(canvas, touched, stroke->colour);
}

void canvas_line(Canvas *canvas, Point from, Point to, const Stroke *stroke)
{
    if (isfinite(from.x) && isfinite(from.y) && isfinite(to.x) && isfinite(to.y))
        canvas_path(canvas, 2, (Point[]){from, to}, stroke);
}

/* ---- text ----------------------------------------------------------------------------------------------------- */

/* The character at *text; *text moves behind it. A byte that is not UTF-8 is read as U+FFFD. */
static FT_ULong next_character(const char **text)
{
    const unsigned char *s = (const unsigned char *)*text;
    size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xF0 && s[0] < 0xF8 ? 4 : s[0] >= 0xE0 ? 3 : s[0] >= 0xC0 ? 2 : 0;
    FT_ULong c = n == 1 ? s[0] : n == 2 ? s[0] & 0x1F : n == 3 ? s[0] & 0x0F : s[0] & 0x07;
    if (s[0] >= 0xF8) n = 0;
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80)
            n = 0; /* also at the closing zero */
        else
            c = c << 6 | (s[i] & 0x3F);
    }
    *text += n ? n : 1;
    return n ? c : 0xFFFD;
}

static void text_failed(Canvas *canvas, int code)
{
    canvas->err = err_first(canvas->err, err_new(ERR_IO, "draw text: FreeType error %d", code));
}

static bool set_size(Canvas *canvas, double size)
{
    int code = FT_Set_Char_Size(canvas->face, 0, (FT_F26Dot6)lround(fmax(fmin(size, 1000), 1) * 64), 72, 72);
    if (code) text_failed(canvas, code);
    return code == 0;
}

/* The kerning between two glyphs, in pixels. */
static double kerning(Canvas *canvas, FT_UInt left, FT_UInt right)
{
    FT_Vector move = {0, 0};
    if (!left || !right || FT_Get_Kerning(canvas->face, left, right, FT_KERNING_UNFITTED, &move)) return 0;
    return (double)move.x / 64;
}

static void draw_bitmap(Canvas *canvas, const FT_Bitmap *bitmap, double left, double top, Colour colour)
{
    if (bitmap->pixel_mode != FT_PIXEL_MODE_GRAY) return; /* a space has no pixels */
    Box box = box_of(canvas, left, top, left + bitmap->width, top + bitmap->rows);
    for (size_t y = box.y0; y < box.y1; y++) {
        const unsigned char *row = bitmap->buffer + (long)((double)y - top) * bitmap->pitch;
        for (size_t x = box.x0; x < box.x1; x++) blend(canvas, x, y, colour, row[(long)((double)x - left)]);
    }
}

/* Draw one glyph with its origin at (x, y), which need not be whole pixels. Returns its advance. */
static double draw_glyph(Canvas *canvas, FT_UInt glyph, double x, double y, const TextStyle *style)
{
    FT_Matrix turn = style->upright ? (FT_Matrix){0, -0x10000, 0x10000, 0} : (FT_Matrix){0x10000, 0, 0, 0x10000};
    FT_Vector part = {lround((x - floor(x)) * 64),
                      lround((ceil(y) - y) * 64)}; /* FreeType's y axis points to the top */
    FT_Set_Transform(canvas->face, &turn, &part);
    int hinting = style->upright ? FT_LOAD_NO_HINTING : FT_LOAD_TARGET_LIGHT;
    int code = FT_Load_Glyph(canvas->face, glyph, FT_LOAD_RENDER | FT_LOAD_NO_BITMAP | hinting);
    if (code) {
        text_failed(canvas, code);
        return 0;
    }
    draw_bitmap(canvas, &canvas->face->glyph->bitmap, floor(x) + canvas->face->glyph->bitmap_left,
                ceil(y) - canvas->face->glyph->bitmap_top, style->colour);
    return (double)canvas->face->glyph->linearHoriAdvance / 65536;
}

void canvas_text(Canvas *canvas, Point at, const TextStyle *style, const char *text)
{
    double back = style->across * canvas_text_width(canvas, style->size, text);
    double down = style->up * canvas->capital * style->size;
    double x = style->upright ? at.x + down : at.x - back, y = style->upright ? at.y + back : round(at.y + down);
    if (!isfinite(x) || !isfinite(y) || fabs(x) > 1e6 || fabs(y) > 1e6 || !set_size(canvas, style->size)) return;
    for (FT_UInt before = 0; *text;) {
        FT_UInt glyph = FT_Get_Char_Index(canvas->face, next_character(&text));
        double skip = kerning(canvas, before, glyph);
        *(style->upright ? &y : &x) += style->upright ? -skip : skip;
        double advance = draw_glyph(canvas, glyph, x, y, style);
        *(style->upright ? &y : &x) += style->upright ? -advance : advance;
        before = glyph;
    }
    FT_Set_Transform(canvas->face, NULL, NULL);
}

double canvas_text_width(Canvas *canvas, double size, const char *text)
{
    double width = 0;
    if (!set_size(canvas, size)) return 0;
    for (FT_UInt before = 0; *text;) {
        FT_UInt glyph = FT_Get_Char_Index(canvas->face, next_character(&text));
        int code = FT_Load_Glyph(canvas->face, glyph, FT_LOAD_NO_BITMAP | FT_LOAD_NO_HINTING);
        if (code)
            text_failed(canvas, code);
        else
            width += kerning(canvas, before, glyph) + (double)canvas->face->glyph->linearHoriAdvance / 65536;
        before = glyph;
    }
    return width;
}

/* ---- the file ------------------------------------------------------------------------------------------------- */

Err *canvas_write_png(Canvas *canvas, const char *path)
{
    Err *err = canvas->err;
    canvas->err = NULL;
    if (err) return err_wrap(err, "write %s", path);
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)canvas->width,
                       .height = (png_uint_32)canvas->height,
                       .format = PNG_FORMAT_RGB};
    png_alloc_size_t bytes = PNG_IMAGE_PNG_SIZE_MAX(image);
    unsigned char *file;
    TRY(mem_new(&file, bytes, 1));
    if (png_image_write_to_memory(&image, file, &bytes, 0, canvas->pixels, 0, NULL))
        err = file_write(path, file, bytes);
    else
        err = err_new(ERR_MEMORY, "write %s: libpng: %s", path, image.message);
    free(file);
    return err;
}
