#include "base/timing.h"

#include "base/log.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void timing_layer(Timing *p, long layer)
{
    if (p) p->layer = layer;
}

void timing_mark(Timing *p)
{
    if (!p) return;
    p->mark = log_seconds();
    p->cpu_mark = log_cpu_seconds();
}

static bool is_row(const Timing *p, size_t i, const char *name)
{
    return p->rows[i].layer == p->layer && strcmp(p->rows[i].name, name) == 0;
}

/* The row of this name in the layer at work, a new one if need be; NULL without memory. */
static TimingRow *row_of(Timing *p, const char *name)
{
    size_t i = p->next < p->n ? p->next : 0;
    for (size_t tried = 0; tried < p->n && !is_row(p, i, name); tried++) i = i + 1 < p->n ? i + 1 : 0;
    if (p->n == 0 || !is_row(p, i, name)) {
        Err *err = mem_grow(&p->rows, &p->capacity, p->n + 1, sizeof *p->rows);
        if (err) {
            err_free(err);
            return NULL;
        }
        i = p->n++;
        p->rows[i] = (TimingRow){.name = name, .layer = p->layer};
    }
    p->next = i + 1;
    return &p->rows[i];
}

void timing_note(Timing *p, const char *name, TimingPass way)
{
    if (!p) return;
    double now = log_seconds(), cpu = log_cpu_seconds();
    TimingRow *row = row_of(p, name);
    if (row) {
        row->calls[way]++;
        row->seconds[way] += now - p->mark;
        row->cpu += cpu - p->cpu_mark;
    }
    p->mark = log_seconds();
    p->cpu_mark = cpu;
}

void timing_clear(Timing *p) { p->n = p->next = 0; }

void timing_free(Timing *p)
{
    free(p->rows);
    *p = (Timing){0};
}

/* ---- tables --------------------------------------------------------------------------------------------------- */

static void add_row(TimingRow *sum, const TimingRow *row)
{
    for (int way = 0; way < TIMING_PASSES; way++) {
        sum->calls[way] += row->calls[way];
        sum->seconds[way] += row->seconds[way];
    }
    sum->cpu += row->cpu;
}

/* The sum of all rows that match. */
static TimingRow sum_of(const Timing *p, const char *name, long layer)
{
    TimingRow sum = {.name = name, .layer = layer};
    for (size_t i = 0; i < p->n; i++)
        if ((!name || strcmp(p->rows[i].name, name) == 0) && (layer == TIMING_ALL || p->rows[i].layer == layer))
            add_row(&sum, &p->rows[i]);
    return sum;
}

static double both(const TimingRow *row) { return row->seconds[TIMING_FORWARD] + row->seconds[TIMING_BACKWARD]; }

double timing_seconds(const Timing *p, const char *name, long layer)
{
    TimingRow sum = sum_of(p, name, layer);
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
static bool is_first(const Timing *p, size_t i, bool by_layer)
{
    for (size_t j = 0; j < i; j++)
        if (by_layer ? p->rows[j].layer == p->rows[i].layer : strcmp(p->rows[j].name, p->rows[i].name) == 0)
            return false;
    return true;
}

static int longest_first(const void *a, const void *b)
{
    double x = both(a), y = both(b);
    return (x < y) - (x > y);
}

static int lowest_layer_first(const void *a, const void *b)
{
    long x = ((const TimingRow *)a)->layer, y = ((const TimingRow *)b)->layer;
    return (x > y) - (x < y);
}

static void print_table(const Timing *p, bool by_layer, size_t steps, double whole)
{
    TimingRow *sums;
    size_t n = 0;
    Err *err = mem_new(&sums, p->n, sizeof *sums);
    if (err) {
        err_free(err);
        return;
    }
    for (size_t i = 0; i < p->n; i++)
        if (is_first(p, i, by_layer))
            sums[n++] = sum_of(p, by_layer ? NULL : p->rows[i].name, by_layer ? p->rows[i].layer : TIMING_ALL);
    qsort(sums, n, sizeof *sums, by_layer ? lowest_layer_first : longest_first);
    printf("%-14s %9s %9s %9s %6s %9s %7s\n", by_layer ? "layer" : "operation", "up ms", "down ms", "both", "share",
           "CPU ms", "calls");
    for (size_t i = 0; i < n; i++) {
        char layer[32] = "outside";
        if (sums[i].layer >= 0) snprintf(layer, sizeof layer, "%ld", sums[i].layer);
        print_row(by_layer ? layer : sums[i].name, &sums[i], steps, whole);
    }
    free(sums);
}

void timing_print(const Timing *p, size_t steps, double whole)
{
    TimingRow all = sum_of(p, NULL, TIMING_ALL);
    print_table(p, false, steps, whole);
    print_row("together", &all, steps, whole);
    printf("%-14s %29.2f %5.1f%%\n\n", "in between", 1e3 * (whole - both(&all)) / (double)steps,
           100 * (whole - both(&all)) / whole);
    print_table(p, true, steps, whole);
}

Json *timing_json(const Timing *p, size_t steps)
{
    double each = 1e3 / (double)steps;
    Json *rows = json_new_array();
    for (size_t i = 0; i < p->n; i++) {
        const TimingRow *row = &p->rows[i];
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
