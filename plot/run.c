#include "plot/run.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "plot/chart.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define METRICS_FILE "metrics.jsonl"

/* ---- reading -------------------------------------------------------------------------------------------------- */

static const struct { const char *key; size_t offset; } step_curves[] = {
    {"loss", offsetof(PlotRun, loss)},
    {"learning_rate", offsetof(PlotRun, learning_rate)},
    {"grad_norm", offsetof(PlotRun, grad_norm)},
};
enum { STEP_CURVES = sizeof step_curves / sizeof *step_curves };

static Err *curve_add(Curve *curve, double x, double y)
{
    TRY(mem_grow(&curve->points, &curve->room, curve->n + 1, sizeof *curve->points));
    curve->points[curve->n++] = (Point){x, y};
    return NULL;
}

static Err *find_eval(PlotRun *run, const char *file, EvalCurve **out)
{
    for (size_t i = 0; i < run->n_evals; i++) {
        *out = &run->evals[i];
        if (strcmp((*out)->file, file) == 0) return NULL;
    }
    TRY(mem_grow(&run->evals, &run->evals_room, run->n_evals + 1, sizeof *run->evals));
    *out = &run->evals[run->n_evals];
    TRY(mem_copy_text(&(*out)->file, file));
    run->n_evals++;
    return NULL;
}

/* Add a member's number to a curve, if the line has it. */
static Err *take(const Json *line, const char *key, double step, Curve *curve)
{
    double number = NAN;
    if (!json_find(line, key)) return NULL;
    TRY(json_may_number(line, key, &number));
    return curve_add(curve, step, number);
}

static Err *take_line(PlotRun *run, const Json *line)
{
    int64_t step = 0;
    if (json_kind(line) != JSON_OBJECT)
        return err_new(ERR_FORMAT, "holds %s; expected an object", json_kind_name(line));
    if (!json_find(line, "step") && !json_find(line, "loss") && !json_find(line, "eval_loss")) return NULL;
    TRY(json_get_int(line, "step", 0, (int64_t)1 << 53, &step));
    for (size_t i = 0; i < STEP_CURVES; i++)
        TRY(take(line, step_curves[i].key, (double)step, (Curve *)((char *)run + step_curves[i].offset)));
    if (!json_find(line, "eval_loss")) return NULL;
    EvalCurve *eval;
    const char *file = "";
    TRY(json_may_string(line, "eval_file", &file));
    TRY(find_eval(run, file, &eval));
    return take(line, "eval_loss", (double)step, &eval->loss);
}

static bool is_blank(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r') return false;
    return true;
}

static Err *read_lines(PlotRun *run, const char *text, size_t bytes)
{
    size_t number = 0;
    for (const char *at = text, *end = text + bytes; at < end;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at)), *stop = newline ? newline : end;
        Json *line = NULL;
        number++;
        if (!is_blank(at, (size_t)(stop - at))) {
            Err *err = json_parse(&line, at, (size_t)(stop - at));
            err_free(err); /* its line number would count from this line */
            if (!line && !newline) return NULL;
            if (!line) return err_new(ERR_FORMAT, "line %zu is not valid JSON", number);
            err = take_line(run, line);
            json_free(line);
            if (err) return err_wrap(err, "line %zu", number);
        }
        at = newline ? newline + 1 : end;
    }
    return NULL;
}

/* runs/a -> a, runs/a/metrics.jsonl -> a, curves/b.jsonl -> b */
static Err *name_run(PlotRun *run, const char *path)
{
    char *whole = realpath(path, NULL);
    if (!whole) return err_errno("find %s", path);
    char *name = strrchr(whole, '/');
    if (name && name > whole && strcmp(name + 1, METRICS_FILE) == 0) {
        *name = 0;
        name = strrchr(whole, '/');
    } else if (!file_is_directory(path)) {
        char *dot = strrchr(name ? name : whole, '.');
        if (dot && dot > whole && dot[-1] != '/') *dot = 0;
    }
    Err *err = mem_copy_text(&run->name, name ? name + 1 : whole);
    free(whole);
    return err;
}

Err *plot_run_read(PlotRun *run, const char *path)
{
    *run = (PlotRun){0};
    char file[PATH_BYTES], *text = NULL;
    size_t bytes = 0;
    bool directory = file_is_directory(path);
    if (directory) TRY(file_join(file, path, METRICS_FILE));
    TRY(file_read(&text, &bytes, directory ? file : path));
    Err *err = read_lines(run, text, bytes);
    if (!err) err = name_run(run, path);
    free(text);
    if (err) plot_run_free(run);
    return err_wrap(err, "%s", directory ? file : path);
}

void plot_run_free(PlotRun *run)
{
    for (size_t i = 0; i < run->n_evals; i++) {
        free(run->evals[i].file);
        free(run->evals[i].loss.points);
    }
    free(run->evals);
    free(run->loss.points);
    free(run->learning_rate.points);
    free(run->grad_norm.points);
    free(run->name);
    *run = (PlotRun){0};
}

/* ---- drawing -------------------------------------------------------------------------------------------------- */

/* One run has a colour for each kind of curve; of several, each run has one. */
typedef struct {
    size_t n_runs;
    PlotRun *runs;
    size_t n_series[3];
    Series *series[3]; /* of the panels loss, learning rate, gradient norm */
    size_t n_names;
    char **names;      /* made for the legend */
} Picture;

static Err *picture_new(Picture *picture, size_t n_runs)
{
    TRY(mem_new(&picture->runs, n_runs, sizeof *picture->runs));
    picture->n_runs = n_runs;
    return NULL;
}

static void picture_free(Picture *picture)
{
    for (size_t i = 0; i < picture->n_names; i++) free(picture->names[i]);
    free(picture->names);
    for (size_t i = 0; i < 3; i++) free(picture->series[i]);
    for (size_t i = 0; i < picture->n_runs; i++) plot_run_free(&picture->runs[i]);
    free(picture->runs);
}

static void add_series(Picture *picture, size_t panel, const char *name, SeriesKind kind, size_t colour,
                       const Curve *curve)
{
    if (curve->n)
        picture->series[panel][picture->n_series[panel]++] = (Series){name, kind, colour, curve->n, curve->points};
}

/* Two runs of one name are told apart by their paths. */
static Err *rename_twins(Picture *picture, const char *const *paths)
{
    for (size_t i = 0; i < picture->n_runs; i++) {
        bool twin = false;
        for (size_t j = 0; j < picture->n_runs; j++)
            twin |= j != i && strcmp(picture->runs[i].name, picture->runs[j].name) == 0;
        if (!twin) continue;
        for (size_t j = picture->n_runs; j-- > i;) { /* all of this name, itself last */
            PlotRun *run = &picture->runs[j];
            if (strcmp(run->name, picture->runs[i].name)) continue;
            free(run->name);
            run->name = NULL;
            TRY(mem_copy_text(&run->name, paths[j]));
        }
    }
    return NULL;
}

static Err *eval_name(Picture *picture, const PlotRun *run, const EvalCurve *eval, const char **name)
{
    *name = "evaluation";
    if (run->n_evals == 1 || !eval->file[0]) return NULL;
    const char *slash = strrchr(eval->file, '/');
    char **made = &picture->names[picture->n_names];
    TRY(mem_format(made, "evaluation: %s", slash ? slash + 1 : eval->file));
    picture->n_names++;
    *name = *made;
    return NULL;
}

static Err *add_run(Picture *picture, size_t i)
{
    const PlotRun *run = &picture->runs[i];
    bool alone = picture->n_runs == 1;
    add_series(picture, 0, alone ? "training" : run->name, SERIES_SMOOTHED, i, &run->loss);
    for (size_t j = 0; j < run->n_evals; j++) {
        const char *name = NULL;
        if (alone) TRY(eval_name(picture, run, &run->evals[j], &name));
        else if (!run->loss.n && j == 0) name = run->name; /* nothing else bears its name */
        add_series(picture, 0, name, SERIES_MARKED, alone ? j + 1 : i, &run->evals[j].loss);
    }
    add_series(picture, 1, NULL, SERIES_LINE, i, &run->learning_rate);
    add_series(picture, 2, NULL, SERIES_SMOOTHED, i, &run->grad_norm);
    return NULL;
}

static Err *gather(Picture *picture, const char *const *paths)
{
    size_t n_evals = 0;
    for (size_t i = 0; i < picture->n_runs; i++) {
        TRY(plot_run_read(&picture->runs[i], paths[i]));
        n_evals += picture->runs[i].n_evals;
    }
    TRY(rename_twins(picture, paths));
    TRY(mem_new(&picture->names, n_evals, sizeof *picture->names));
    for (size_t i = 0; i < 3; i++)
        TRY(mem_new(&picture->series[i], picture->n_runs + n_evals, sizeof **picture->series));
    for (size_t i = 0; i < picture->n_runs; i++) TRY(add_run(picture, i));
    return NULL;
}

/* What the reader needs to know about pale, bold and dots. */
static void loss_note(const Picture *picture, size_t bytes, char note[bytes])
{
    size_t least = SIZE_MAX, most = 0;
    bool evals = false;
    for (size_t i = 0; i < picture->n_runs; i++) {
        size_t window = chart_window(picture->runs[i].loss.n);
        if (window < least) least = window;
        if (window > most) most = window;
        evals |= picture->runs[i].n_evals > 0;
    }
    snprintf(note, bytes, "pale: every step \u00b7 bold: mean of %zu steps%s%s", most, least < most ? " or fewer" : "",
             evals && picture->n_runs > 1 ? " \u00b7 circles: evaluation" : "");
}

static Err *draw(const Picture *picture, const char *png_path, const char *title)
{
    char note[128];
    loss_note(picture, sizeof note, note);
    Panel panels[3] = {{.title = "Loss (nats per token)", .note = note, .share = 3, .n_series = picture->n_series[0],
                        .series = picture->series[0]}};
    size_t n = 1;
    if (picture->n_series[1])
        panels[n++] = (Panel){.title = "Learning rate", .from_zero = true, .n_series = picture->n_series[1],
                              .series = picture->series[1]};
    if (picture->n_series[2])
        panels[n++] = (Panel){.title = "Gradient norm", .from_zero = true, .n_series = picture->n_series[2],
                              .series = picture->series[2]};
    if (!title) title = picture->n_runs == 1 ? picture->runs[0].name : "Training runs";
    Chart chart = {.title = title, .x_label = "step", .whole_x = true, .height = 560 + 150 * (n - 1), .n_panels = n,
                   .panels = panels};
    return chart_write(&chart, png_path);
}

Err *plot_runs(const char *png_path, const char *title, size_t n_runs, const char *const *runs)
{
    Picture picture = {0};
    if (n_runs == 0) return err_new(ERR_USAGE, "no run to plot");
    Err *err = picture_new(&picture, n_runs);
    if (!err) err = gather(&picture, runs);
    if (!err) err = draw(&picture, png_path, title);
    picture_free(&picture);
    return err;
}
