/* Reads metrics.jsonl line by line. A line may add a point to each of several curves, a column to the heat map of
 * expert load, and a point to the curve of one evaluation (a file, or a domain of a file). Errors name the line.
 * Curves are found by the file and the domain of an evaluation; there are few, so the search is linear. */
#include "plot/run.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define METRICS_FILE "metrics.jsonl"

/* ---- reading -------------------------------------------------------------------------------------------------- */

static const struct {
    const char *key;
    size_t offset;
} step_curves[] = {
    {"loss", offsetof(PlotRun, loss)},
    {"learning_rate", offsetof(PlotRun, rates[PLOT_RATE_A])},
    {"learning_rate_B", offsetof(PlotRun, rates[PLOT_RATE_B])},
    {"learning_rate_router", offsetof(PlotRun, rates[PLOT_RATE_ROUTER])},
    {"grad_norm", offsetof(PlotRun, grad_norm)},
    {"load_max_over_mean", offsetof(PlotRun, load)},
};
enum { STEP_CURVES = sizeof step_curves / sizeof *step_curves };

static Err *curve_add(Curve *curve, double x, double y)
{
    TRY(mem_grow(&curve->points, &curve->capacity, curve->n + 1, sizeof *curve->points));
    curve->points[curve->n++] = (Point){x, y};
    return NULL;
}

static Err *find_eval(PlotRun *run, const char *file, const char *domain, EvalCurve **out)
{
    for (size_t i = 0; i < run->n_evals; i++) {
        *out = &run->evals[i];
        if (strcmp((*out)->file, file) == 0 && strcmp((*out)->domain, domain) == 0) return NULL;
    }
    TRY(mem_grow(&run->evals, &run->evals_capacity, run->n_evals + 1, sizeof *run->evals));
    *out = &run->evals[run->n_evals++];
    TRY(mem_copy_text(&(*out)->file, file));
    return mem_copy_text(&(*out)->domain, domain);
}

/* Add a member's number to a curve, if the line has it. */
static Err *add_point(const Json *line, const char *key, double step, Curve *curve)
{
    double number = NAN;
    if (!json_find(line, key)) return NULL;
    TRY(json_may_number(line, key, &number));
    return curve_add(curve, step, number);
}

/* Add a column to the heat map. The first line determines the number of layers. */
static Err *add_load(PlotRun *run, const Json *list, double step)
{
    size_t i = 0, capacity = run->loads_capacity;
    if (!list) return NULL;
    if (json_kind(list) != JSON_ARRAY || json_count(list) == 0)
        return err_new(ERR_FORMAT, "expert_load is %s; expected an array", json_kind_name(list));
    if (run->n_layers == 0) run->n_layers = json_count(list);
    if (json_count(list) != run->n_layers)
        return err_new(ERR_FORMAT, "expert_load has %zu layers, then %zu", run->n_layers, json_count(list));
    TRY(mem_grow(&run->load_steps, &capacity, run->n_loads + 1, sizeof *run->load_steps));
    size_t floats = run->loads_capacity * run->n_layers;
    TRY(mem_grow(&run->loads, &floats, capacity * run->n_layers, sizeof *run->loads));
    run->loads_capacity = capacity;
    run->load_steps[run->n_loads] = step;
    for (const Json *item = json_first(list); item; item = json_next(item))
        run->loads[run->n_loads * run->n_layers + i++] = json_kind(item) == JSON_NUMBER ? (float)json_number(item)
                                                                                        : NAN;
    run->n_loads++;
    return NULL;
}

static Err *add_line(PlotRun *run, const Json *line)
{
    int64_t step = 0;
    if (json_kind(line) != JSON_OBJECT)
        return err_new(ERR_FORMAT, "holds %s; expected an object", json_kind_name(line));
    if (!json_find(line, "step") && !json_find(line, "loss") && !json_find(line, "eval_loss")) return NULL;
    TRY(json_get_int(line, "step", 0, (int64_t)1 << 53, &step));
    for (size_t i = 0; i < STEP_CURVES; i++)
        TRY(add_point(line, step_curves[i].key, (double)step, (Curve *)((char *)run + step_curves[i].offset)));
    TRY(json_may_number(line, "epoch", &run->epochs));
    TRY(add_load(run, json_find(line, "expert_load"), (double)step));
    if (!json_find(line, "eval_loss")) return NULL;
    EvalCurve *eval;
    const char *file = "", *domain = "";
    TRY(json_may_string(line, "eval_file", &file));
    TRY(json_may_string(line, "eval_domain", &domain));
    TRY(find_eval(run, file, domain, &eval));
    return add_point(line, "eval_loss", (double)step, &eval->loss);
}

static Err *read_lines(PlotRun *run, const char *text, size_t bytes)
{
    size_t number = 0;
    for (const char *at = text, *end = text + bytes; at < end;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at)), *stop = newline ? newline : end;
        Json *line = NULL;
        number++;
        if (!json_line_is_blank(at, (size_t)(stop - at))) {
            Err *err = json_parse(&line, at, (size_t)(stop - at));
            err_free(err); /* its line number counts from this line */
            if (!line && !newline) return NULL;
            if (!line) return err_new(ERR_FORMAT, "line %zu is not valid JSON", number);
            err = add_line(run, line);
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
        free(run->evals[i].domain);
        free(run->evals[i].loss.points);
    }
    free(run->evals);
    free(run->load.points);
    free(run->load_steps);
    free(run->loads);
    free(run->loss.points);
    for (size_t i = 0; i < PLOT_RATES; i++) free(run->rates[i].points);
    free(run->grad_norm.points);
    free(run->name);
    *run = (PlotRun){0};
}
