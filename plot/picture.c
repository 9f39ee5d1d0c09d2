/* Reads runs, adds the panels one after another, removes those without a series, and draws the chart. In a picture
 * of one run, each kind of curve has a colour; in a picture of several runs, each run has one. Panels point to
 * blocks that the picture owns (`owned`), and to the curves of the runs. */
#include "plot/picture.h"

#include "base/memory.h"
#include "base/minmax.h"
#include "plot/chart.h"
#include "plot/run.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    size_t n_runs;
    PlotRun *runs;
    size_t n_panels, panels_capacity;
    Panel *panels;
    Series *series; /* of the last panel */
    size_t n_owned, owned_capacity;
    void **owned; /* what panels point to */
    Heat heat;
} RunPicture;

static Err *own(RunPicture *picture, void *block)
{
    Err *err = mem_grow(&picture->owned, &picture->owned_capacity, picture->n_owned + 1, sizeof *picture->owned);
    if (err)
        free(block);
    else
        picture->owned[picture->n_owned++] = block;
    return err;
}

static Err *own_text(RunPicture *picture, const char **out, const char *before, const char *after)
{
    char *text;
    TRY(mem_format(&text, "%s%s", before, after));
    *out = text;
    return own(picture, text);
}

static void picture_free(RunPicture *picture)
{
    for (size_t i = 0; i < picture->n_owned; i++) free(picture->owned[i]);
    free(picture->owned);
    free(picture->panels);
    for (size_t i = 0; i < picture->n_runs; i++) plot_run_free(&picture->runs[i]);
    free(picture->runs);
}

/* ---- panels --------------------------------------------------------------------------------------------------- */

static Panel *last_panel(const RunPicture *picture) { return &picture->panels[picture->n_panels - 1]; }

static Err *begin_panel(RunPicture *picture, Panel panel, size_t max_series)
{
    TRY(mem_new(&picture->series, max_series, sizeof *picture->series));
    TRY(own(picture, picture->series));
    panel.series = picture->series;
    TRY(mem_grow(&picture->panels, &picture->panels_capacity, picture->n_panels + 1, sizeof *picture->panels));
    picture->panels[picture->n_panels++] = panel;
    return NULL;
}

static void add_series(RunPicture *picture, Series series, const Curve *curve)
{
    if (!curve->n) return;
    series.n = curve->n;
    series.points = curve->points;
    picture->series[last_panel(picture)->n_series++] = series;
}

static void end_panel(RunPicture *picture)
{
    if (last_panel(picture)->n_series == 0) picture->n_panels--;
}

static bool is_alone(const RunPicture *picture) { return picture->n_runs == 1; }

/* ---- loss ----------------------------------------------------------------------------------------------------- */

static const char *file_name(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

static size_t n_files(const PlotRun *run)
{
    size_t n = 0;
    for (size_t i = 0; i < run->n_evals; i++) n += !*run->evals[i].domain;
    return n;
}

/* The meaning of pale lines, bold lines and circles. */
static Err *loss_note(RunPicture *picture, const char **note)
{
    size_t min_window = SIZE_MAX, max_window = 0;
    bool evals = false;
    char text[128];
    for (size_t i = 0; i < picture->n_runs; i++) {
        size_t window = chart_window(picture->runs[i].loss.n);
        min_window = size_min(min_window, window);
        max_window = size_max(max_window, window);
        evals |= picture->runs[i].n_evals > 0;
    }
    snprintf(text, sizeof text, "pale: every step \u00b7 bold: mean of %zu steps%s%s", max_window,
             min_window < max_window ? " or fewer" : "",
             evals && !is_alone(picture) ? " \u00b7 circles: held-out set" : "");
    return own_text(picture, note, text, "");
}

static Err *add_losses(RunPicture *picture, size_t i, size_t *colour)
{
    const PlotRun *run = &picture->runs[i];
    bool alone = is_alone(picture);
    add_series(picture, (Series){.name = alone ? "training" : run->name, .kind = SERIES_SMOOTHED, .colour = *colour},
               &run->loss);
    for (size_t j = 0, seen = 0; j < run->n_evals; j++) {
        const EvalCurve *eval = &run->evals[j];
        const char *name = alone ? "held-out set" : NULL;
        if (*eval->domain) continue;
        if (alone && n_files(run) > 1 && *eval->file)
            TRY(own_text(picture, &name, "held-out set: ", file_name(eval->file)));
        if (!alone && !run->loss.n && seen == 0) name = run->name; /* no other curve has the name of the run */
        seen++;
        if (alone) ++*colour;
        add_series(picture,
                   (Series){.name = name,
                            .kind = alone && n_files(run) == 1 ? SERIES_NUMBERED : SERIES_MARKED,
                            .colour = *colour},
                   &eval->loss);
    }
    ++*colour;
    return NULL;
}

static Err *loss_panel(RunPicture *picture, size_t n_evals)
{
    const char *note;
    size_t colour = 0;
    TRY(loss_note(picture, &note));
    TRY(begin_panel(picture, (Panel){.title = "Loss", .y_label = "nats per token", .note = note, .share = 3},
                    picture->n_runs + n_evals));
    for (size_t i = 0; i < picture->n_runs; i++) TRY(add_losses(picture, i, &colour));
    return NULL; /* this panel is kept also when it is empty */
}

/* One run: all its domains. */
static Err *domains_of_one(RunPicture *picture)
{
    const PlotRun *run = &picture->runs[0];
    TRY(begin_panel(picture,
                    (Panel){.title = "Loss on the held-out set, by domain", .y_label = "nats per token", .share = 2},
                    run->n_evals));
    for (size_t j = 0, colour = 2; j < run->n_evals; j++) {
        const EvalCurve *eval = &run->evals[j];
        const char *name = eval->domain, *before;
        if (!*name) continue;
        if (n_files(run) > 1) {
            TRY(own_text(picture, &before, file_name(eval->file), ": "));
            TRY(own_text(picture, &name, before, eval->domain));
        }
        add_series(picture, (Series){.name = name, .kind = SERIES_MARKED, .colour = colour++}, &eval->loss);
    }
    end_panel(picture);
    return NULL;
}

/* Does an earlier run, or an earlier curve of this run, have this domain? */
static bool was_drawn(const RunPicture *picture, size_t run, size_t eval)
{
    const char *domain = picture->runs[run].evals[eval].domain;
    for (size_t i = 0; i <= run; i++)
        for (size_t j = 0; j < (i < run ? picture->runs[i].n_evals : eval); j++)
            if (strcmp(picture->runs[i].evals[j].domain, domain) == 0) return true;
    return false;
}

static Err *panel_of_domain(RunPicture *picture, const char *domain, size_t n_evals)
{
    const char *title;
    TRY(own_text(picture, &title, "Loss on the held-out set: ", domain));
    TRY(begin_panel(picture, (Panel){.title = title, .y_label = "nats per token", .share = 1.3}, n_evals));
    for (size_t i = 0; i < picture->n_runs; i++)
        for (size_t j = 0; j < picture->runs[i].n_evals; j++) {
            const EvalCurve *eval = &picture->runs[i].evals[j];
            if (strcmp(eval->domain, domain) == 0)
                add_series(picture, (Series){.kind = SERIES_MARKED, .colour = i}, &eval->loss);
        }
    end_panel(picture);
    return NULL;
}

/* Several runs: a panel for every domain. */
static Err *domains_of_all(RunPicture *picture, size_t n_evals)
{
    for (size_t i = 0; i < picture->n_runs; i++)
        for (size_t j = 0; j < picture->runs[i].n_evals; j++) {
            const char *domain = picture->runs[i].evals[j].domain;
            if (*domain && !was_drawn(picture, i, j)) TRY(panel_of_domain(picture, domain, n_evals));
        }
    return NULL;
}

/* ---- rates, norm, load ---------------------------------------------------------------------------------------- */

static Err *rate_panel(RunPicture *picture)
{
    const Curve *rates = picture->runs[0].rates;
    const char *const names[PLOT_RATES] = {rates[PLOT_RATE_B].n ? "A" : "LoRA", "B", "router"};
    bool several = is_alone(picture) && (rates[PLOT_RATE_B].n || rates[PLOT_RATE_ROUTER].n), far = false;
    for (size_t k = 1; k < PLOT_RATES && several; k++) /* a much smaller rate would lie on the axis */
        for (size_t i = 0; i < rates[k].n && i < rates[0].n; i++)
            far = far || rates[k].points[i].y > 5 * rates[0].points[i].y ||
                  rates[0].points[i].y > 5 * rates[k].points[i].y;
    TRY(begin_panel(
        picture, (Panel){.title = "Learning rate", .note = far ? "logarithmic" : NULL, .from_zero = true, .log_y = far},
        picture->n_runs * PLOT_RATES));
    for (size_t i = 0; i < picture->n_runs; i++)
        for (size_t k = 0; k < (is_alone(picture) ? (size_t)PLOT_RATES : 1); k++)
            add_series(picture,
                       (Series){.name = several ? names[k] : NULL,
                                .kind = SERIES_LINE,
                                .colour = is_alone(picture) ? k : i},
                       &picture->runs[i].rates[k]);
    end_panel(picture);
    return NULL;
}

static Err *norm_panel(RunPicture *picture)
{
    TRY(begin_panel(picture, (Panel){.title = "Gradient norm, before clipping", .from_zero = true}, picture->n_runs));
    for (size_t i = 0; i < picture->n_runs; i++)
        add_series(picture, (Series){.kind = SERIES_SMOOTHED, .colour = i}, &picture->runs[i].grad_norm);
    end_panel(picture);
    return NULL;
}

/* Layers by steps. When there are more steps than columns, each column is the mean of several steps. */
static Err *make_heat(RunPicture *picture)
{
    enum { MAX_COLUMNS = 400 };
    const PlotRun *run = &picture->runs[0];
    size_t n = run->n_loads, L = run->n_layers, columns = n < MAX_COLUMNS ? n : MAX_COLUMNS;
    float *values;
    TRY(mem_new(&values, L * columns, sizeof *values));
    TRY(own(picture, values));
    for (size_t l = 0; l < L; l++)
        for (size_t c = 0; c < columns; c++) {
            size_t from = c * n / columns, to = (c + 1) * n / columns;
            double sum = 0;
            for (size_t i = from; i < to; i++) sum += (double)run->loads[i * L + l];
            values[l * columns + c] = (float)(sum / (double)(to - from));
        }
    double half = n > 1 ? (run->load_steps[n - 1] - run->load_steps[0]) / (double)(n - 1) / 2 : 0.5;
    picture->heat = (Heat){.rows = L,
                           .columns = columns,
                           .values = values,
                           .x_low = run->load_steps[0] - half,
                           .x_high = run->load_steps[n - 1] + half,
                           .y_low = -0.5,
                           .y_high = (double)L - 0.5,
                           .name = "max/mean load"};
    return NULL;
}

static bool has_dense(const PlotRun *run)
{
    for (size_t l = 0; l < run->n_layers; l++)
        if (isnan(run->loads[l])) return true;
    return false;
}

static Err *load_panel(RunPicture *picture)
{
    if (is_alone(picture) && picture->runs[0].n_loads) {
        TRY(make_heat(picture));
        return begin_panel(picture,
                           (Panel){.title = "Expert load: maximum over mean of assigned tokens (1: balanced)",
                                   .y_label = "layer",
                                   .share = 1.5,
                                   .note = has_dense(&picture->runs[0]) ? "grey: no router" : NULL,
                                   .heat = &picture->heat},
                           0);
    }
    TRY(begin_panel(
        picture,
        (Panel){.title = "Expert load: maximum over mean of assigned tokens (1: balanced), in the least balanced layer",
                .share = 1.5},
        picture->n_runs));
    for (size_t i = 0; i < picture->n_runs; i++)
        add_series(picture, (Series){.kind = SERIES_SMOOTHED, .colour = i}, &picture->runs[i].load);
    end_panel(picture);
    return NULL;
}

/* ---- the whole ------------------------------------------------------------------------------------------------ */

/* Runs with the same name are named by their paths instead. */
static Err *rename_duplicates(RunPicture *picture, const char *const *paths)
{
    for (size_t i = 0; i < picture->n_runs; i++) {
        bool duplicate = false;
        for (size_t j = 0; j < picture->n_runs; j++)
            duplicate |= j != i && strcmp(picture->runs[i].name, picture->runs[j].name) == 0;
        if (!duplicate) continue;
        for (size_t j = picture->n_runs;
             j-- > i;) { /* all runs of this name; run i is the last, since its name is compared */
            PlotRun *run = &picture->runs[j];
            if (strcmp(run->name, picture->runs[i].name)) continue;
            free(run->name);
            run->name = NULL;
            TRY(mem_copy_text(&run->name, paths[j]));
        }
    }
    return NULL;
}

static bool is_empty(const PlotRun *run)
{
    size_t points = run->loss.n + run->grad_norm.n + run->load.n + run->n_loads + run->n_evals;
    for (size_t i = 0; i < PLOT_RATES; i++) points += run->rates[i].n;
    return points == 0;
}

static Err *add_panels(RunPicture *picture, size_t n_runs, const char *const *paths)
{
    size_t n_evals = 0;
    TRY(mem_new(&picture->runs, n_runs, sizeof *picture->runs));
    for (; picture->n_runs < n_runs; picture->n_runs++) {
        PlotRun *run = &picture->runs[picture->n_runs];
        const char *path = paths[picture->n_runs];
        TRY(plot_run_read(run, path));
        n_evals += run->n_evals;
        if (is_empty(run)) {
            picture->n_runs++; /* picture_free frees it */
            return err_new(ERR_FORMAT,
                           "%s: no line has a loss or an eval_loss, so there is no curve to draw; expected the "
                           "directory of a run, or its metrics.jsonl",
                           path);
        }
    }
    TRY(rename_duplicates(picture, paths));
    TRY(loss_panel(picture, n_evals));
    TRY(is_alone(picture) ? domains_of_one(picture) : domains_of_all(picture, n_evals));
    TRY(rate_panel(picture));
    TRY(norm_panel(picture));
    return load_panel(picture);
}

/* "222 steps, 2 epochs, held-out loss 5.2260 before, 4.2610 after" */
static void describe_result(const PlotRun *run, size_t bytes, char text[bytes])
{
    text[0] = 0;
    if (run->loss.n == 0) return;
    snprintf(text, bytes, "%.0f steps", run->loss.points[run->loss.n - 1].x);
    if (run->epochs > 0)
        snprintf(text + strlen(text), bytes - strlen(text), ", %.4g epoch%s", run->epochs, run->epochs == 1 ? "" : "s");
    if (n_files(run) != 1 || run->evals[0].loss.n < 2) return;
    const Curve *loss = &run->evals[0].loss;
    snprintf(text + strlen(text), bytes - strlen(text), " \u00b7 held-out loss %.4f before, %.4f after",
             loss->points[0].y, loss->points[loss->n - 1].y);
}

static Err *draw(const RunPicture *picture, const char *png_path, const char *title)
{
    enum { MAX_HEIGHT = 16000 };
    char result[128] = "";
    double shares = 0;
    for (size_t i = 0; i < picture->n_panels; i++)
        shares += picture->panels[i].share > 0 ? picture->panels[i].share : 1;
    if (!title) title = is_alone(picture) ? picture->runs[0].name : "Training runs";
    if (is_alone(picture)) describe_result(&picture->runs[0], sizeof result, result);
    double height = 120 + 110 * shares + 75 * (double)picture->n_panels;
    Chart chart = {.title = title,
                   .subtitle = *result ? result : NULL,
                   .x_label = "optimizer step",
                   .whole_x = true,
                   .height = (size_t)fmin(height, MAX_HEIGHT),
                   .n_panels = picture->n_panels,
                   .panels = picture->panels};
    return chart_write(&chart, png_path);
}

Err *plot_runs(const char *png_path, const char *title, size_t n_runs, const char *const *runs)
{
    RunPicture picture = {0};
    if (n_runs == 0) return err_new(ERR_USAGE, "no run to plot");
    Err *err = add_panels(&picture, n_runs, runs);
    if (!err) err = draw(&picture, png_path, title);
    picture_free(&picture);
    return err;
}

static Err *add_load_panel(RunPicture *picture, const char *path)
{
    TRY(mem_new(&picture->runs, 1, sizeof *picture->runs));
    TRY(plot_run_read(&picture->runs[0], path));
    picture->n_runs = 1;
    return picture->runs[0].n_loads ? load_panel(picture) : NULL;
}

Err *plot_load(const char *png_path, const char *path, bool *drawn)
{
    RunPicture picture = {0};
    *drawn = false;
    Err *err = add_load_panel(&picture, path);
    if (!err && picture.n_panels) {
        Chart chart = {.title = picture.runs[0].name,
                       .x_label = "optimizer step",
                       .whole_x = true,
                       .width = 900,
                       .height = 420,
                       .n_panels = 1,
                       .panels = picture.panels};
        err = chart_write(&chart, png_path);
        *drawn = !err;
    }
    picture_free(&picture);
    return err;
}
