/* Reads the rows of a record's "profile" (timing_json), sums them by operation and by layer, and draws both. The
 * columns of a layer are stacked in the order of the bars, the longest operation of the step at the bottom. If the
 * record has the wall time of a step, shares are of it, and the time between operations is printed as untimed.
 *
 * The keys of a row keep their names from older files: "up_ms" is the forward pass, "down_ms" the backward pass. */
#include "plot/timing.h"

#include "base/json.h"
#include "base/memory.h"
#include "plot/axis.h"
#include "plot/canvas.h"
#include "plot/palette.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TIMING_WIDTH = 1300, N_COLOURED = 7, MAX_OPERATIONS = 64, OTHERS = N_COLOURED };

static const double margin = 28, top = 122, middle = 640, bar_height = 24, text_size = 14; /* pixels */

typedef struct {
    const char *name;
    double forward, backward; /* ms */
} OperationTime;

typedef struct {
    Canvas *canvas;
    size_t n_operations, n_layers;
    OperationTime operations[MAX_OPERATIONS]; /* the longest first */
    double *columns;                          /* [n_layers + 1][N_COLOURED + 1] ms; the last row is outside of layers */
    double step_ms;                           /* wall time of a step; 0: unknown */
} TimingPicture;

/* ---- the record ----------------------------------------------------------------------------------------------- */

static const Json *find_record(const Json *records)
{
    for (const Json *record = json_first(records); record; record = json_next(record)) {
        const Json *timing = json_find(record, "profile");
        if (timing && json_kind(timing) == JSON_ARRAY && json_count(timing)) return record;
    }
    return NULL;
}

static Err *add_total(TimingPicture *p, const Json *row)
{
    const char *name;
    double forward, backward;
    size_t i = 0;
    TRY(json_get_string(row, "operation", &name));
    TRY(json_get_number(row, "up_ms", &forward));
    TRY(json_get_number(row, "down_ms", &backward));
    while (i < p->n_operations && strcmp(p->operations[i].name, name) != 0) i++;
    if (i == MAX_OPERATIONS) return err_new(ERR_FORMAT, "more than %d operations", MAX_OPERATIONS);
    if (i == p->n_operations) p->operations[p->n_operations++] = (OperationTime){.name = name};
    p->operations[i].forward += forward;
    p->operations[i].backward += backward;
    int64_t layer = -1;
    TRY(json_may_int(row, "layer", 0, 100000, &layer));
    if ((size_t)(layer + 1) > p->n_layers) p->n_layers = (size_t)(layer + 1);
    return NULL;
}

static int by_time(const void *a, const void *b)
{
    const OperationTime *x = a, *y = b;
    return (x->forward + x->backward < y->forward + y->backward) -
           (x->forward + x->backward > y->forward + y->backward);
}

/* The longest operations have a colour each; all others share the last one. */
static size_t colour_index(const TimingPicture *p, const char *name)
{
    size_t i = 0;
    while (i < N_COLOURED && i < p->n_operations && strcmp(p->operations[i].name, name) != 0) i++;
    return i < p->n_operations ? i : OTHERS;
}

static Err *read_timing(TimingPicture *p, const Json *timing)
{
    for (const Json *row = json_first(timing); row; row = json_next(row)) TRY(add_total(p, row));
    qsort(p->operations, p->n_operations, sizeof *p->operations, by_time);
    TRY(mem_new(&p->columns, (p->n_layers + 1) * (N_COLOURED + 1), sizeof *p->columns));
    for (const Json *row = json_first(timing); row; row = json_next(row)) {
        int64_t layer = (int64_t)p->n_layers;
        TRY(json_may_int(row, "layer", 0, 100000, &layer));
        p->columns[(size_t)layer * (N_COLOURED + 1) + colour_index(p, json_string(json_find(row, "operation")))] +=
            json_number(json_find(row, "up_ms")) + json_number(json_find(row, "down_ms"));
    }
    return NULL;
}

/* ---- drawing -------------------------------------------------------------------------------------------------- */

static Colour colour_at(size_t index) { return index == OTHERS ? palette_missing : palette_stroke(index, 1).colour; }

static Colour paler(Colour c)
{
    return (Colour){(unsigned char)(c.r + (255 - c.r) / 2), (unsigned char)(c.g + (255 - c.g) / 2),
                    (unsigned char)(c.b + (255 - c.b) / 2), 255};
}

static double column_sum(const TimingPicture *p, size_t l)
{
    double sum = 0;
    for (size_t i = 0; i <= N_COLOURED; i++) sum += p->columns[l * (N_COLOURED + 1) + i];
    return sum;
}

static void write_text(const TimingPicture *p, double x, double y, double across, Colour colour, const char *text)
{
    canvas_text(p->canvas, (Point){x, y},
                &(TextStyle){.size = text_size, .colour = colour, .across = across, .up = 0.5}, text);
}

/* The numbers on the left, and a line for each. */
static void draw_scale(const TimingPicture *p, const Axis *axis, Rect area)
{
    for (size_t i = 0; i < axis->n_ticks; i++) {
        double y = round(area.y + (1 - axis_place(axis, axis->tick[i])) * area.h);
        canvas_rect(p->canvas, (Rect){area.x, y, area.w, 1}, palette_grid);
        write_text(p, area.x - 10, y + 0.5, 1, palette_ink, axis->text[i]);
    }
}

static void draw_columns(const TimingPicture *p, Rect area)
{
    Axis axis = {0};
    double highest = 0, wide = area.w / (double)(p->n_layers + 1);
    char text[32];
    for (size_t l = 0; l <= p->n_layers; l++) highest = fmax(highest, column_sum(p, l));
    axis_range(&axis, 0, highest * 1.05, 0);
    axis_ticks(&axis, 6);
    draw_scale(p, &axis, area);
    size_t every = (size_t)ceil(34 / wide);
    for (size_t l = 0; l <= p->n_layers; l++) {
        double x = area.x + wide * (double)l, w = fmax(fmin(wide * 0.72, 64), 1), y = area.y + area.h;
        for (size_t i = 0; i <= N_COLOURED; i++) {
            double h = axis_place(&axis, p->columns[l * (N_COLOURED + 1) + i]) * area.h;
            canvas_rect(p->canvas, (Rect){x + (wide - w) / 2, y - h, w, h}, colour_at(i));
            y -= h;
        }
        bool outside = l == p->n_layers;
        if (l % every && !outside) continue;
        snprintf(text, sizeof text, outside ? "outside" : "%zu", l);
        if (!outside || wide > 60 || l % every == 0)
            write_text(p, x + wide / 2, area.y + area.h + 16, 0.5, palette_ink, text);
    }
    canvas_rect(p->canvas, (Rect){area.x, area.y + area.h, area.w, 1}, palette_axis);
    write_text(p, area.x + area.w / 2, area.y + area.h + 40, 0.5, palette_faint_ink,
               "layer; outside: embedding, head, optimizer");
}

/* A bar for every operation: the forward pass in full colour, the backward pass paler, then both in numbers. */
static void draw_bars(const TimingPicture *p, Rect area)
{
    double names = 0, longest = p->operations[0].forward + p->operations[0].backward, sum = 0;
    char text[64];
    for (size_t i = 0; i < p->n_operations; i++) {
        names = fmax(names, canvas_text_width(p->canvas, text_size, p->operations[i].name));
        sum += p->operations[i].forward + p->operations[i].backward;
    }
    double x = area.x + names + 12, max_length = area.w - names - 12 - 136;
    for (size_t i = 0; i < p->n_operations; i++) {
        const OperationTime *t = &p->operations[i];
        double y = area.y + bar_height * (double)i, forward = max_length * t->forward / longest,
               backward = max_length * t->backward / longest;
        Colour colour = colour_at(i < N_COLOURED ? i : OTHERS);
        write_text(p, x - 12, y + bar_height / 2, 1, palette_ink, t->name);
        canvas_rect(p->canvas, (Rect){x, y + 4, forward, bar_height - 8}, colour);
        canvas_rect(p->canvas, (Rect){x + forward, y + 4, backward, bar_height - 8}, paler(colour));
        snprintf(text, sizeof text, "%.*f ms  %.1f %%", t->forward + t->backward < 10 ? 2 : 1, t->forward + t->backward,
                 100 * (t->forward + t->backward) / (p->step_ms > sum ? p->step_ms : sum));
        write_text(p, x + forward + backward + 8, y + bar_height / 2, 0, palette_ink, text);
    }
    if (p->step_ms <= sum) return;
    snprintf(text, sizeof text, "untimed: %.1f ms  %.1f %%", p->step_ms - sum, 100 * (1 - sum / p->step_ms));
    write_text(p, x + 8, area.y + bar_height * ((double)p->n_operations + 0.5), 0, palette_faint_ink, text);
}

static void draw_titles(const TimingPicture *p, const char *title)
{
    TextStyle style = {.size = 22, .colour = palette_ink, .across = 0, .up = 1};
    canvas_text(p->canvas, (Point){margin, 26}, &style, title);
    style.size = 16;
    canvas_text(p->canvas, (Point){margin, 76}, &style, "By layer, ms per step");
    canvas_text(p->canvas, (Point){middle, 76}, &style, "By operation");
    double x = middle + canvas_text_width(p->canvas, 16, "By operation") + 12;
    style.size = text_size;
    style.colour = palette_faint_ink;
    canvas_text(p->canvas, (Point){x, 77}, &style, "full colour: forward pass \u00b7 pale: backward pass");
}

/* "S, attn+experts, 512 tokens: 640 ms" */
static void describe(const TimingPicture *p, const Json *record, char title[256])
{
    const char *model = NULL, *targets = NULL;
    double tokens = 0;
    err_free(json_may_string(record, "model", &model));
    err_free(json_may_string(record, "targets", &targets));
    err_free(json_may_number(record, "tokens", &tokens));
    int n = snprintf(title, 256, "A training step");
    if (model && targets) n += snprintf(title + n, 256 - (size_t)n, " of %.60s, %.60s", model, targets);
    if (tokens > 0) n += snprintf(title + n, 256 - (size_t)n, ", %.0f tokens", tokens);
    if (p->step_ms > 0) snprintf(title + n, 256 - (size_t)n, ": %.0f ms", p->step_ms);
}

static Err *draw(TimingPicture *p, const Json *record, const char *png_path, const char *title)
{
    char made[256];
    double seconds = 0;
    TRY(json_may_number(record, "seconds", &seconds));
    p->step_ms = 1e3 * seconds;
    double height = fmax(top + bar_height * ((double)p->n_operations + 1) + margin, 560);
    TRY(canvas_new(&p->canvas, TIMING_WIDTH, (size_t)height, palette_ground));
    describe(p, record, made);
    draw_titles(p, title ? title : made);
    draw_columns(p, (Rect){margin + 56, top, middle - 2 * margin - 76, height - top - 72});
    draw_bars(p, (Rect){middle, top - 6, TIMING_WIDTH - middle - margin, height - top});
    Err *err = canvas_write_png(p->canvas, png_path);
    canvas_free(p->canvas);
    return err;
}

Err *plot_timing(const char *png_path, const char *title, const char *records_path)
{
    Json *records;
    TimingPicture picture = {0};
    TRY(json_read_lines(&records, records_path));
    const Json *record = find_record(records);
    Err *err = record ? read_timing(&picture, json_find(record, "profile"))
                      : err_new(ERR_FORMAT, "no record has the timing of operations (\"profile\"); graft bench DIR "
                                            "--timing --json FILE writes one");
    err = err_wrap(err, "%s", records_path);
    if (!err) err = draw(&picture, record, png_path, title);
    free(picture.columns);
    json_free(records);
    return err;
}
