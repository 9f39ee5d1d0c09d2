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
    {"load_max_over_mean", offsetof(PlotRun, load)},
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

/* One column of the heat map; the first line says how many layers there are. */
static Err *take_load(PlotRun *run, const Json *list, double step)
{
    size_t i = 0, room = run->loads_room;
    if (!list) return NULL;
    if (json_kind(list) != JSON_ARRAY || json_count(list) == 0) return err_new(ERR_FORMAT, "expert_load is %s; expected an array", json_kind_name(list));
    if (run->n_layers == 0) run->n_layers = json_count(list);
    if (json_count(list) != run->n_layers) return err_new(ERR_FORMAT, "expert_load has %zu layers, then %zu", run->n_layers, json_count(list));
    TRY(mem_grow(&run->load_steps, &room, run->n_loads + 1, sizeof *run->load_steps));
    size_t floats = run->loads_room * run->n_layers;
    TRY(mem_grow(&run->loads, &floats, room * run->n_layers, sizeof *run->loads));
    run->loads_room = room;
    run->load_steps[run->n_loads] = step;
    for (const Json *item = json_first(list); item; item = json_next(item))
        run->loads[run->n_loads * run->n_layers + i++] = json_kind(item) == JSON_NUMBER ? (float)json_number(item) : NAN;
    run->n_loads++;
    return NULL;
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
    TRY(take_load(run, json_find(line, "expert_load"), (double)step));
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
    free(run->load.points);
    free(run->load_steps);
    free(run->loads);
    free(run->loss.points);
    free(run->learning_rate.points);
    free(run->grad_norm.points);
    free(run->name);
    *run = (PlotRun){0};
}

/* ---- drawing -------------------------------------------------------------------------------------------------- */

enum { N_PANELS = 4 };

/* One run has a colour for each kind of curve; of several, each run has one. */
typedef struct {
    size_t n_runs;
    PlotRun *runs;
    size_t n_series[N_PANELS];
    Series *series[N_PANELS]; /* of the panels loss, learning rate, gradient norm, expert load */
    float *heat;              /* of one run's load */
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
    for (size_t i = 0; i < N_PANELS; i++) free(picture->series[i]);
    free(picture->heat);
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
    if (!alone) add_series(picture, 3, NULL, SERIES_SMOOTHED, i, &run->load);
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
    for (size_t i = 0; i < N_PANELS; i++)
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

/* Layers over steps; more steps than columns are averaged. Owner of values: the caller, until free(). */
static Err *make_heat(const PlotRun *run, Heat *heat, float **values)
{
    enum { MOST_COLUMNS = 400 };
    size_t n = run->n_loads, L = run->n_layers, columns = n < MOST_COLUMNS ? n : MOST_COLUMNS;
    TRY(mem_new(values, L * columns, sizeof **values));
    for (size_t l = 0; l < L; l++)
        for (size_t c = 0; c < columns; c++) {
            size_t from = c * n / columns, to = (c + 1) * n / columns;
            double sum = 0;
            for (size_t i = from; i < to; i++) sum += (double)run->loads[i * L + l];
            (*values)[l * columns + c] = (float)(sum / (double)(to - from));
        }
    double half = n > 1 ? (run->load_steps[n - 1] - run->load_steps[0]) / (double)(n - 1) / 2 : 0.5;
    *heat = (Heat){.rows = L, .columns = columns, .values = *values, .x_low = run->load_steps[0] - half, .x_high = run->load_steps[n - 1] + half,
                   .y_low = -0.5, .y_high = (double)L - 0.5, .name = "fullest / mean"};
    return NULL;
}

static const char LOAD_TITLE[] = "Expert load: the fullest expert over the mean, by layer";

static Err *draw(Picture *picture, const char *png_path, const char *title)
{
    Heat heat;
    char note[128];
    loss_note(picture, sizeof note, note);
    Panel panels[N_PANELS] = {{.title = "Loss (nats per token)", .note = note, .share = 3, .n_series = picture->n_series[0],
                        .series = picture->series[0]}};
    size_t n = 1;
    if (picture->n_series[1])
        panels[n++] = (Panel){.title = "Learning rate", .from_zero = true, .n_series = picture->n_series[1],
                              .series = picture->series[1]};
    if (picture->n_series[2])
        panels[n++] = (Panel){.title = "Gradient norm", .from_zero = true, .n_series = picture->n_series[2],
                              .series = picture->series[2]};
    if (picture->n_series[3])
        panels[n++] = (Panel){.title = "Expert load: the fullest expert over the mean, worst layer", .n_series = picture->n_series[3],
                              .series = picture->series[3]};
    if (picture->n_runs == 1 && picture->runs[0].n_loads) {
        TRY(make_heat(&picture->runs[0], &heat, &picture->heat));
        panels[n++] = (Panel){.title = LOAD_TITLE, .y_label = "layer", .share = 1.5, .heat = &heat};
    }
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

Err *plot_load(const char *png_path, const char *path, bool *drawn)
{
    PlotRun run;
    Heat heat;
    float *values = NULL;
    *drawn = false;
    TRY(plot_run_read(&run, path));
    Err *err = run.n_loads ? make_heat(&run, &heat, &values) : NULL;
    if (!err && run.n_loads) {
        Panel panel = {.title = LOAD_TITLE, .y_label = "layer", .heat = &heat};
        err = chart_write(&(Chart){.title = run.name, .x_label = "step", .whole_x = true, .width = 900, .height = 420, .n_panels = 1, .panels = &panel}, png_path);
        *drawn = !err;
    }
    free(values);
    plot_run_free(&run);
    return err;
}
