/* Reads machine, operations, steps and generation from records, draws the roof, and places the labels.
 *
 * Labels are placed one after another. Each takes the nearest of its candidates, on rings around its mark, that
 * covers neither a mark, nor the roof, nor another label; a label without a free candidate is left out. A label away
 * from its mark has a line to it. Labels of crowded marks are placed first. */
#include "plot/roofline.h"

#include "base/json.h"
#include "base/memory.h"
#include "plot/axis.h"
#include "plot/canvas.h"
#include "plot/palette.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROOFLINE_WIDTH = 1400, ROOFLINE_HEIGHT = 900, MAX_MARKS = 96, MAX_BOXES = 1024, LABEL_BYTES = 96 };

static const double left = 92, right = 30, top = 96, bottom = 74, title_size = 22, text_size = 14, label_size = 13;

typedef struct {
    double fp32, bf16, memory; /* GFLOP/s, GFLOP/s (0: no bf16), GB/s */
    const char *cpu, *path;
    double threads;
} Roof;

/* One operation: its places in the forward and in the backward pass. Or a whole step, or decoding, at at[0]. */
typedef struct {
    char label[LABEL_BYTES];
    bool has[2], whole;
    Point at[2]; /* FLOP per byte, GFLOP/s */
    size_t colour;
} Mark;

typedef struct {
    Canvas *canvas;
    Axis x, y;
    Rect area;
    Roof roof;
    size_t n_marks, n_boxes;
    Mark marks[MAX_MARKS];
    Rect boxes[MAX_BOXES]; /* labels must not cover these */
} RooflinePicture;

/* ---- records -------------------------------------------------------------------------------------------------- */

static Err *read_machine(Roof *roof, const Json *record)
{
    TRY(json_get_number(record, "fp32_gflops", &roof->fp32));
    TRY(json_may_number(record, "bf16_gflops", &roof->bf16));
    TRY(json_get_number(record, "memory_gbs", &roof->memory));
    TRY(json_get_number(record, "threads", &roof->threads));
    TRY(json_get_string(record, "path", &roof->path));
    if (!(roof->fp32 > 0 && roof->memory > 0))
        return err_new(ERR_FORMAT, "the machine has %g GFLOP/s and %g GB/s", roof->fp32, roof->memory);
    return json_get_string(record, "cpu", &roof->cpu);
}

static Err *read_point(const Json *record, Point *at)
{
    double flop, bytes, gflops;
    TRY(json_get_number(record, "flop", &flop));
    TRY(json_get_number(record, "bytes", &bytes));
    TRY(json_get_number(record, "gflops", &gflops));
    if (!(flop > 0 && bytes > 0 && gflops > 0))
        return err_new(ERR_FORMAT, "flop, bytes and gflops are %g, %g and %g; expected numbers above 0", flop, bytes,
                       gflops);
    *at = (Point){flop / bytes, gflops};
    return NULL;
}

static Mark *mark_of(RooflinePicture *p, const char *label)
{
    for (size_t i = 0; i < p->n_marks; i++)
        if (strcmp(p->marks[i].label, label) == 0) return &p->marks[i];
    if (p->n_marks == MAX_MARKS) return NULL;
    Mark *mark = &p->marks[p->n_marks++];
    *mark = (Mark){0};
    snprintf(mark->label, LABEL_BYTES, "%s", label);
    return mark;
}

/* Families of operations share a colour. */
static size_t colour_of(const char *operation)
{
    static const char *const families[] = {"linear", "experts", "attention", "lora", "loss", "index"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (strncmp(operation, families[i], strlen(families[i])) == 0) return i;
    return 6;
}

static Err *read_operation(RooflinePicture *p, const Json *record)
{
    const char *operation, *shape, *pass;
    char label[LABEL_BYTES];
    double tokens;
    Point at;
    TRY(json_get_string(record, "operation", &operation));
    TRY(json_get_string(record, "shape", &shape));
    TRY(json_get_string(record, "way", &pass));
    TRY(json_get_number(record, "tokens", &tokens));
    TRY(read_point(record, &at));
    snprintf(label, sizeof label, "%s, %s \u00b7 %.0f", operation, shape, tokens);
    Mark *mark = mark_of(p, label);
    int which = strcmp(pass, "backward") == 0;
    if (!mark) return NULL;
    mark->has[which] = true;
    mark->at[which] = at;
    mark->colour = colour_of(operation);
    return NULL;
}

static Err *read_step(RooflinePicture *p, const Json *record)
{
    const char *model, *what;
    char label[LABEL_BYTES];
    double tokens;
    TRY(json_get_string(record, "model", &model));
    TRY(json_get_string(record, "targets", &what));
    TRY(json_get_number(record, "tokens", &tokens));
    snprintf(label, sizeof label, "step %s, %s \u00b7 %.0f", model, what, tokens);
    Mark *mark = mark_of(p, label);
    if (!mark) return NULL;
    mark->whole = mark->has[0] = true;
    return read_point(record, &mark->at[0]);
}

/* Only a single sequence has a place: several share the reading of weights, and their records have no "bytes". */
static Err *read_generation(RooflinePicture *p, const Json *record)
{
    const char *model;
    char label[LABEL_BYTES];
    if (!json_find(record, "bytes")) return NULL;
    TRY(json_get_string(record, "model", &model));
    snprintf(label, sizeof label, "decode %s, one sequence", model);
    Mark *mark = mark_of(p, label);
    if (!mark) return NULL;
    mark->whole = mark->has[0] = true;
    return read_point(record, &mark->at[0]);
}

static Err *read_record(RooflinePicture *p, const Json *record)
{
    const char *kind;
    TRY(json_get_string(record, "kind", &kind));
    if (strcmp(kind, "machine") == 0) return read_machine(&p->roof, record);
    if (strcmp(kind, "operation") == 0) return read_operation(p, record);
    if (strcmp(kind, "generate") == 0) return read_generation(p, record);
    return strcmp(kind, "step") == 0 ? read_step(p, record) : NULL;
}

static Err *read_records(RooflinePicture *p, const Json *records)
{
    size_t number = 0;
    for (const Json *record = json_first(records); record; record = json_next(record))
        TRY(err_wrap(read_record(p, record), "record %zu", ++number));
    if (!p->roof.fp32)
        return err_new(ERR_FORMAT, "no record of kind machine; expected a file that graft bench --json has written");
    return p->n_marks ? NULL : err_new(ERR_FORMAT, "no record of an operation or a step");
}

/* ---- places --------------------------------------------------------------------------------------------------- */

static Point pixel_of(const RooflinePicture *p, Point at)
{
    return (Point){p->area.x + axis_place(&p->x, at.x) * p->area.w,
                   p->area.y + (1 - axis_place(&p->y, at.y)) * p->area.h};
}

static double highest(const Roof *roof) { return fmax(roof->fp32, roof->bf16); }

static void set_axes(RooflinePicture *p)
{
    double x_low = 1, x_high = 4 * highest(&p->roof) / p->roof.memory, y_low = highest(&p->roof) / 10;
    for (size_t i = 0; i < p->n_marks; i++)
        for (int k = 0; k < 2; k++) {
            if (!p->marks[i].has[k]) continue;
            x_low = fmin(x_low, p->marks[i].at[k].x);
            x_high = fmax(x_high, p->marks[i].at[k].x);
            y_low = fmin(y_low, p->marks[i].at[k].y);
        }
    p->x.log = p->y.log = true;
    axis_range(&p->x, x_low / 1.5, x_high * 2, 0);
    axis_range(&p->y, y_low / 1.8, highest(&p->roof) * 2, 0);
    axis_ticks(&p->x, 8);
    axis_ticks(&p->y, 8);
    p->area = (Rect){left, top, ROOFLINE_WIDTH - left - right, ROOFLINE_HEIGHT - top - bottom};
}

static void keep_clear(RooflinePicture *p, Rect box)
{
    if (p->n_boxes < MAX_BOXES) p->boxes[p->n_boxes++] = box;
}

static bool overlap(Rect a, Rect b) { return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h; }

static bool is_free(const RooflinePicture *p, Rect box)
{
    if (box.x < p->area.x + 4 || box.x + box.w > p->area.x + p->area.w - 4 || box.y < p->area.y + 4 ||
        box.y + box.h > p->area.y + p->area.h - 4)
        return false;
    for (size_t i = 0; i < p->n_boxes; i++)
        if (overlap(box, p->boxes[i])) return false;
    return true;
}

/* ---- the roof ------------------------------------------------------------------------------------------------- */

static void draw_axes(const RooflinePicture *p)
{
    Canvas *canvas = p->canvas;
    const Rect *a = &p->area;
    TextStyle number = {.size = text_size, .colour = palette_ink, .across = 0.5, .up = 1};
    for (size_t i = 0; i < p->x.n_ticks; i++) {
        double x = round(pixel_of(p, (Point){p->x.tick[i], p->y.low}).x);
        canvas_rect(canvas, (Rect){x, a->y, 1, a->h}, palette_grid);
        canvas_text(canvas, (Point){x + 0.5, a->y + a->h + 12}, &number, p->x.text[i]);
    }
    number.across = 1;
    number.up = 0.5;
    for (size_t i = 0; i < p->y.n_ticks; i++) {
        double y = round(pixel_of(p, (Point){p->x.low, p->y.tick[i]}).y);
        canvas_rect(canvas, (Rect){a->x, y, a->w, 1}, palette_grid);
        canvas_text(canvas, (Point){a->x - 10, y + 0.5}, &number, p->y.text[i]);
    }
    canvas_rect(canvas, (Rect){a->x, a->y + a->h, a->w, 1}, palette_axis);
    TextStyle label = {.size = text_size, .colour = palette_faint_ink, .across = 0.5, .up = 1};
    canvas_text(canvas, (Point){a->x + a->w / 2, a->y + a->h + 38}, &label, "FLOP per byte of memory traffic");
    label.upright = true;
    canvas_text(canvas, (Point){22, a->y + a->h / 2}, &label, "GFLOP/s, all threads");
}

/* A line of the roof; labels must not cover it. */
static void draw_roof_line(RooflinePicture *p, Point from, Point to, Stroke stroke)
{
    Point a = pixel_of(p, from), b = pixel_of(p, to);
    canvas_line(p->canvas, a, b, &stroke);
    for (int i = 0; i <= 100; i++)
        keep_clear(p, (Rect){a.x + (b.x - a.x) * i / 100 - 3, a.y + (b.y - a.y) * i / 100 - 3, 6, 6});
}

static void draw_roof_text(RooflinePicture *p, Point at, double across, double up, const char *text)
{
    TextStyle style = {.size = text_size, .colour = palette_ink, .across = across, .up = up};
    double w = canvas_text_width(p->canvas, text_size, text);
    canvas_text(p->canvas, at, &style, text);
    keep_clear(p, (Rect){at.x - across * w - 4, at.y - 14 + 14 * up, w + 8, 20});
}

static void draw_ceiling(RooflinePicture *p, double gflops, const char *name, bool dashed)
{
    char text[LABEL_BYTES];
    double x = fmax(gflops / p->roof.memory, p->x.low);
    draw_roof_line(p, (Point){x, gflops}, (Point){p->x.high, gflops},
                   (Stroke){2.4, palette_ink, dashed ? 9 : 0, dashed ? 6 : 0});
    snprintf(text, sizeof text, "%s: %.0f GFLOP/s", name, gflops);
    Point end = pixel_of(p, (Point){p->x.high, gflops});
    draw_roof_text(p, (Point){end.x - 8, end.y - 9}, 1, 0, text);
}

static void draw_roof(RooflinePicture *p)
{
    const Roof *roof = &p->roof;
    char text[LABEL_BYTES];
    double ridge = highest(roof) / roof->memory, from = fmax(p->x.low, p->y.low / roof->memory);
    canvas_clip(p->canvas, p->area);
    draw_roof_line(p, (Point){from, from * roof->memory}, (Point){ridge, highest(roof)},
                   (Stroke){2.4, palette_ink, 0, 0});
    if (roof->bf16) draw_ceiling(p, roof->bf16, "multiply-adds of bf16", false);
    draw_ceiling(p, roof->fp32, "multiply-adds of fp32", roof->bf16 != 0);
    double middle = sqrt(from * fmin(roof->fp32, highest(roof)) / roof->memory);
    Point at = pixel_of(p, (Point){middle, middle * roof->memory});
    snprintf(text, sizeof text, "memory: %.0f GB/s", roof->memory);
    draw_roof_text(p, (Point){at.x - 14, at.y - 8}, 1, 0, text);
    canvas_clip_none(p->canvas);
}

/* ---- marks ---------------------------------------------------------------------------------------------------- */

static Colour mark_colour(const Mark *mark)
{
    return mark->whole ? palette_ink : palette_stroke(mark->colour, 1).colour;
}

static void draw_mark(RooflinePicture *p, const Mark *mark)
{
    Colour colour = mark_colour(mark);
    Point at[2];
    for (int k = 0; k < 2; k++) at[k] = pixel_of(p, mark->at[k]);
    if (mark->has[0] && mark->has[1]) canvas_line(p->canvas, at[0], at[1], &(Stroke){1.2, palette_pale(colour), 0, 0});
    if (mark->has[1]) {
        canvas_circle(p->canvas, at[1], 6.5, palette_ground);
        canvas_circle(p->canvas, at[1], 5.5, colour);
        canvas_circle(p->canvas, at[1], 3.2, palette_ground);
    }
    if (!mark->has[0]) return;
    if (mark->whole)
        canvas_rect(p->canvas, (Rect){round(at[0].x) - 6, round(at[0].y) - 6, 12, 12}, palette_ground);
    else
        canvas_circle(p->canvas, at[0], 6.5, palette_ground);
    if (mark->whole)
        canvas_rect(p->canvas, (Rect){round(at[0].x) - 5, round(at[0].y) - 5, 10, 10}, colour);
    else
        canvas_circle(p->canvas, at[0], 5.5, colour);
}

/* The box of a label whose near side is `away` pixels from its mark, in direction i of 16. */
static Rect candidate(Point at, double w, double away, int i)
{
    double angle = 2 * M_PI * i / 16, x = at.x + away * cos(angle), y = at.y - away * sin(angle), h = 17;
    return (Rect){x - w / 2 + w / 2 * cos(angle), y - h / 2 - h / 2 * sin(angle), w, h};
}

static void draw_label(RooflinePicture *p, const Mark *mark)
{
    static const double rings[] = {9, 18, 30, 44, 62, 84, 110, 140, 175, 215, 260};
    static const int order[] = {0, 15, 1,  14, 2,  8, 7,  9,
                                6, 10, 12, 4,  13, 3, 11, 5}; /* right first, then left, below, above */
    Point at = pixel_of(p, mark->at[mark->has[0] ? 0 : 1]);
    double w = canvas_text_width(p->canvas, label_size, mark->label) + 6;
    for (size_t ring = 0; ring < sizeof rings / sizeof *rings; ring++) {
        for (size_t i = 0; i < 16; i++) {
            Rect box = candidate(at, w, rings[ring], order[i]);
            if (!is_free(p, box)) continue;
            Point near = {fmax(box.x, fmin(at.x, box.x + w)), fmax(box.y, fmin(at.y, box.y + box.h))};
            if (ring > 1) canvas_line(p->canvas, at, near, &(Stroke){1, palette_axis, 0, 0});
            TextStyle style = {.size = label_size, .colour = mark_colour(mark), .across = 0.5, .up = 0.5};
            canvas_text(p->canvas, (Point){box.x + w / 2, box.y + box.h / 2}, &style, mark->label);
            keep_clear(p, box);
            return;
        }
    }
}

/* Marks with the most neighbours first: the others find a free place more easily. */
static void order_marks(const RooflinePicture *p, size_t order[MAX_MARKS])
{
    double crowd[MAX_MARKS];
    for (size_t i = 0; i < p->n_marks; i++) {
        Point a = pixel_of(p, p->marks[i].at[p->marks[i].has[0] ? 0 : 1]);
        crowd[i] = 0;
        for (size_t j = 0; j < p->n_marks; j++) {
            Point b = pixel_of(p, p->marks[j].at[p->marks[j].has[0] ? 0 : 1]);
            crowd[i] += j != i ? 1 / (20 + hypot(a.x - b.x, a.y - b.y)) : 0;
        }
        size_t at = i;
        for (; at > 0 && crowd[order[at - 1]] < crowd[i]; at--) order[at] = order[at - 1];
        order[at] = i;
    }
}

static void draw_marks(RooflinePicture *p)
{
    size_t order[MAX_MARKS];
    for (size_t i = 0; i < p->n_marks; i++)
        for (int k = 0; k < 2; k++) {
            Point at = pixel_of(p, p->marks[i].at[k]);
            if (p->marks[i].has[k]) keep_clear(p, (Rect){at.x - 7, at.y - 7, 14, 14});
        }
    order_marks(p, order);
    for (size_t i = 0; i < p->n_marks; i++) draw_label(p, &p->marks[order[i]]);
    for (size_t i = 0; i < p->n_marks; i++) draw_mark(p, &p->marks[i]);
}

static void draw_titles(const RooflinePicture *p, const char *title)
{
    char text[512];
    TextStyle style = {.size = title_size, .colour = palette_ink, .across = 0, .up = 1};
    canvas_text(p->canvas, (Point){28, 26}, &style, title ? title : p->roof.cpu);
    style.size = text_size;
    style.colour = palette_faint_ink;
    snprintf(
        text, sizeof text,
        "%.0f threads, %s \u00b7 filled: forward pass, ring: backward pass, square: a whole step, or decoding \u00b7 "
        "the last number of a label: tokens",
        p->roof.threads, p->roof.path);
    canvas_text(p->canvas, (Point){28, 58}, &style, text);
}

static Err *draw(RooflinePicture *p, const char *png_path, const char *title)
{
    TRY(canvas_new(&p->canvas, ROOFLINE_WIDTH, ROOFLINE_HEIGHT, palette_ground));
    set_axes(p);
    draw_axes(p);
    draw_titles(p, title);
    draw_roof(p);
    draw_marks(p);
    Err *err = canvas_write_png(p->canvas, png_path);
    canvas_free(p->canvas);
    return err;
}

Err *plot_roofline(const char *png_path, const char *title, const char *records_path)
{
    Json *records;
    RooflinePicture *picture;
    TRY(json_read_lines(&records, records_path));
    Err *err = mem_new(&picture, 1, sizeof *picture);
    if (!err) {
        err = err_wrap(read_records(picture, records), "%s", records_path);
        if (!err) err = draw(picture, png_path, title);
        free(picture);
    }
    json_free(records);
    return err;
}
