/* Rows are kept in the order in which a step first notes them. A step notes the same names in the same order as the
 * step before, so the search begins behind the row that was found last and usually ends at once.
 *
 * Time between two notes belongs to the second; the clocks are read again after the row was found, so that the
 * search is not counted. */
#include "base/timing.h"

#include "base/log.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void timing_layer(Timing *timing, long layer)
{
    if (timing) timing->layer = layer;
}

void timing_mark(Timing *timing)
{
    if (!timing) return;
    timing->mark = log_seconds();
    timing->cpu_mark = log_cpu_seconds();
}

static bool is_row(const Timing *timing, size_t i, const char *name)
{
    return timing->rows[i].layer == timing->layer && strcmp(timing->rows[i].name, name) == 0;
}

/* The row of this name in the current layer; a new one if there is none. NULL without memory. */
static TimingRow *find_or_add_row(Timing *timing, const char *name)
{
    size_t i = timing->next < timing->n ? timing->next : 0;
    for (size_t tried = 0; tried < timing->n && !is_row(timing, i, name); tried++) i = i + 1 < timing->n ? i + 1 : 0;
    if (timing->n == 0 || !is_row(timing, i, name)) {
        Err *err = mem_grow(&timing->rows, &timing->capacity, timing->n + 1, sizeof *timing->rows);
        if (err) {
            err_free(err);
            return NULL;
        }
        i = timing->n++;
        timing->rows[i] = (TimingRow){.name = name, .layer = timing->layer};
    }
    timing->next = i + 1;
    return &timing->rows[i];
}

void timing_note(Timing *timing, const char *name, TimingPass pass)
{
    if (!timing) return;
    double now = log_seconds(), cpu = log_cpu_seconds();
    TimingRow *row = find_or_add_row(timing, name);
    if (row) {
        row->calls[pass]++;
        row->seconds[pass] += now - timing->mark;
        row->cpu += cpu - timing->cpu_mark;
    }
    timing->mark = log_seconds();
    timing->cpu_mark = cpu;
}

void timing_clear(Timing *timing) { timing->n = timing->next = 0; }

void timing_free(Timing *timing)
{
    free(timing->rows);
    *timing = (Timing){0};
}

/* ---- tables --------------------------------------------------------------------------------------------------- */

static void add_row(TimingRow *sum, const TimingRow *row)
{
    for (int pass = 0; pass < TIMING_PASSES; pass++) {
        sum->calls[pass] += row->calls[pass];
        sum->seconds[pass] += row->seconds[pass];
    }
    sum->cpu += row->cpu;
}

/* The sum of all rows that match. */
static TimingRow sum_rows(const Timing *timing, const char *name, long layer)
{
    TimingRow sum = {.name = name, .layer = layer};
    for (size_t i = 0; i < timing->n; i++)
        if ((!name || strcmp(timing->rows[i].name, name) == 0) &&
            (layer == TIMING_ALL || timing->rows[i].layer == layer))
            add_row(&sum, &timing->rows[i]);
    return sum;
}

static double both(const TimingRow *row) { return row->seconds[TIMING_FORWARD] + row->seconds[TIMING_BACKWARD]; }

double timing_seconds(const Timing *timing, const char *name, long layer)
{
    TimingRow sum = sum_rows(timing, name, layer);
    return both(&sum);
}

static void print_row(const char *name, const TimingRow *row, size_t steps, double whole)
{
    double each = 1e3 / (double)steps;
    printf("%-14s %9.2f %9.2f %9.2f %5.1f%% %9.2f %7.1f\n", name, row->seconds[TIMING_FORWARD] * each,
           row->seconds[TIMING_BACKWARD] * each, both(row) * each, 100 * both(row) / whole, row->cpu * each,
           (double)(row->calls[TIMING_FORWARD] + row->calls[TIMING_BACKWARD]) / (double)steps);
}

/* Is row i the first of its name (of its layer)? */
static bool is_first(const Timing *timing, size_t i, bool by_layer)
{
    for (size_t j = 0; j < i; j++)
        if (by_layer ? timing->rows[j].layer == timing->rows[i].layer
                     : strcmp(timing->rows[j].name, timing->rows[i].name) == 0)
            return false;
    return true;
}

static int by_time(const void *a, const void *b)
{
    double x = both(a), y = both(b);
    return (x < y) - (x > y);
}

static int by_layer_number(const void *a, const void *b)
{
    long x = ((const TimingRow *)a)->layer, y = ((const TimingRow *)b)->layer;
    return (x > y) - (x < y);
}

static void print_table(const Timing *timing, bool by_layer, size_t steps, double whole)
{
    TimingRow *sums;
    size_t n = 0;
    Err *err = mem_new(&sums, timing->n, sizeof *sums);
    if (err) {
        err_free(err);
        return;
    }
    for (size_t i = 0; i < timing->n; i++)
        if (is_first(timing, i, by_layer))
            sums[n++] = sum_rows(timing, by_layer ? NULL : timing->rows[i].name,
                                 by_layer ? timing->rows[i].layer : TIMING_ALL);
    qsort(sums, n, sizeof *sums, by_layer ? by_layer_number : by_time);
    printf("%-14s %9s %9s %9s %6s %9s %7s\n", by_layer ? "layer" : "operation", "fwd ms", "bwd ms", "both ms", "share",
           "CPU ms", "calls");
    for (size_t i = 0; i < n; i++) {
        char layer[32] = "outside";
        if (sums[i].layer >= 0) snprintf(layer, sizeof layer, "%ld", sums[i].layer);
        print_row(by_layer ? layer : sums[i].name, &sums[i], steps, whole);
    }
    free(sums);
}

void timing_print(const Timing *timing, size_t steps, double whole)
{
    TimingRow all = sum_rows(timing, NULL, TIMING_ALL);
    print_table(timing, false, steps, whole);
    print_row("all", &all, steps, whole);
    printf("%-14s %29.2f %5.1f%%\n\n", "untimed", 1e3 * (whole - both(&all)) / (double)steps,
           100 * (whole - both(&all)) / whole);
    print_table(timing, true, steps, whole);
}

Json *timing_json(const Timing *timing, size_t steps)
{
    double each = 1e3 / (double)steps;
    Json *rows = json_new_array();
    for (size_t i = 0; i < timing->n; i++) {
        const TimingRow *row = &timing->rows[i];
        Json *object = json_new_object();
        json_add_string(object, "operation", row->name);
        if (row->layer >= 0)
            json_add_number(object, "layer", (double)row->layer);
        else
            json_add_null(object, "layer");
        json_add_number(object, "up_ms", row->seconds[TIMING_FORWARD] * each);
        json_add_number(object, "down_ms", row->seconds[TIMING_BACKWARD] * each);
        json_add_number(object, "cpu_ms", row->cpu * each);
        json_add_number(object, "calls",
                        (double)(row->calls[TIMING_FORWARD] + row->calls[TIMING_BACKWARD]) / (double)steps);
        json_add(rows, NULL, object);
    }
    return rows;
}
