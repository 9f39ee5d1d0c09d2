/* Everything that is computed from a record alone. Medians over steps are taken from the record's lists, so records
 * of several processes are joined by joining their lists and computing the derived numbers anew. */
#include "bench/step_record.h"

#include "base/byte_size.h"
#include "base/memory.h"
#include "bench/neighbours.h"
#include "bench/report.h"
#include "bench/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { STEADY = 50 }; /* steps at either end of a long run whose times are compared */

/* ---- derived numbers, records of several processes ------------------------------------------------------------ */

/* The median of a list of the record. */
static double median_of(const Json *record, const char *key)
{
    const Json *list = json_find(record, key);
    size_t n = json_count(list), i = 0;
    double *x, median = NAN;
    Err *err = mem_new(&x, n, sizeof *x);
    for (const Json *item = json_first(list); item && !err; item = json_next(item)) x[i++] = json_number(item);
    if (!err && n) median = sample_median(n, x);
    if (!err) free(x);
    err_free(err);
    return median;
}

void step_record_derive(Json *record)
{
    double tokens = report_number(record, "tokens"), step = median_of(record, "seconds_each"),
           peak = median_of(record, "peak_each");
    double flop = report_number(record, "flop_per_token") * tokens, bytes = report_number(record, "bytes"),
           attention_flop = report_number(record, "flop_per_token_attention") * tokens;
    const struct {
        const char *key;
        double value;
    } numbers[] = {{"seconds", step},
                   {"tokens_per_s", tokens / step},
                   {"cpu_ms_per_token", 1e3 * median_of(record, "cpu_seconds_each") / tokens},
                   {"flop", flop},
                   {"gflops", 1e-9 * flop / step},
                   {"gbs", 1e-9 * bytes / step},
                   {"peak_gflops", 1e-9 * peak},
                   {"share", flop / step / peak},
                   {"share_attention", attention_flop / step / peak}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        json_set_number(record, numbers[i].key, numbers[i].value);
}

/* Append a list of b to that of a. */
static void join_list(Json *a, const Json *b, const char *key)
{
    Json *joined = json_new_array();
    for (const Json *item = json_first(json_find(a, key)); item; item = json_next(item))
        json_add_number(joined, NULL, json_number(item));
    for (const Json *item = json_first(json_find(b, key)); item; item = json_next(item))
        json_add_number(joined, NULL, json_number(item));
    json_set(a, key, joined);
}

Err *step_record_join(Json **joined, size_t n, const Json *const *records)
{
    static const char *const lists[] = {"seconds_each", "cpu_seconds_each", "peak_each"};
    static const char *const maxima[] = {"peak_rss_bytes",    "anonymous_bytes", "anonymous_growth_bytes",
                                         "heap_growth_bytes", "faults_per_step", "neighbour_cores"};
    double *first;
    TRY(mem_new(&first, n, sizeof *first));
    *joined = json_duplicate(records[0]);
    for (size_t i = 0; i < n; i++) {
        first[i] = report_number(records[i], "first_step_s");
        if (i == 0) continue;
        for (size_t k = 0; k < sizeof lists / sizeof *lists; k++) join_list(*joined, records[i], lists[k]);
        for (size_t k = 0; k < sizeof maxima / sizeof *maxima; k++)
            if (report_number(records[i], maxima[k]) > report_number(*joined, maxima[k]))
                json_set_number(*joined, maxima[k], report_number(records[i], maxima[k]));
    }
    json_set_number(*joined, "first_step_s", sample_median(n, first));
    free(first);
    step_record_derive(*joined);
    return NULL;
}

double step_record_seconds(const Json *record)
{
    double sum = 0;
    for (const Json *item = json_first(json_find(record, "seconds_each")); item; item = json_next(item))
        sum += json_number(item);
    return sum;
}

/* ---- for people ----------------------------------------------------------------------------------------------- */

/* The median time of counted steps [from, from + STEADY). */
static double median_from(const Json *record, size_t from)
{
    double x[STEADY] = {0};
    size_t i = 0;
    for (const Json *item = json_first(json_find(record, "seconds_each")); item; item = json_next(item), i++)
        if (i >= from && i < from + STEADY) x[i - from] = json_number(item);
    return sample_median(STEADY, x);
}

static void print_steadiness(const Json *record)
{
    size_t n = json_count(json_find(record, "seconds_each"));
    if (n < 2 * STEADY) return;
    double first = median_from(record, 0), last = median_from(record, n - STEADY);
    printf("    steady: the first %d steps take %.3f s, the last %d %.3f s (%+.1f %%)\n", STEADY, first, STEADY, last,
           100 * (last / first - 1));
}

static Err *print_streaming(const Json *record)
{
    const char *parts;
    TRY(json_get_string(record, "parts", &parts));
    printf("    streamed: %s\n", parts);
    printf(
        "    a step: %s read, %.2f s waited; planned: %s read, %.3g s (arithmetic %.3g, disk %.3g) in groups of %.0f\n",
        BYTES(report_number(record, "read_bytes")), report_number(record, "waited_s"),
        BYTES(report_number(record, "planned_read_bytes")), report_number(record, "planned_s"),
        report_number(record, "planned_arithmetic_s"), report_number(record, "planned_disk_s"),
        report_number(record, "planned_group_tokens"));
    printf("    memory: %s at the end, tapes %s; planned: %s, tapes %s\n",
           BYTES(report_number(record, "anonymous_bytes")), BYTES(report_number(record, "tape_bytes")),
           BYTES(report_number(record, "planned_bytes")), BYTES(report_number(record, "planned_tape_bytes")));
    return NULL;
}

Err *step_record_print(const Json *record)
{
    const char *model, *targets, *path;
    TRY(json_get_string(record, "model", &model));
    TRY(json_get_string(record, "targets", &targets));
    TRY(json_get_string(record, "path", &path));
    char documents[48] = "";
    if (report_number(record, "document") < report_number(record, "tokens"))
        snprintf(documents, sizeof documents, " in documents of %.0f", report_number(record, "document"));
    printf("%-5s %-13s %5.0f tokens%s  %8.1f tokens/s  step %7.3f s  %.3f of the peak, %.3f with attention  "
           "(%.0f GFLOP/s, %s)\n",
           model, targets, report_number(record, "tokens"), documents, report_number(record, "tokens_per_s"),
           report_number(record, "seconds"), report_number(record, "share"), report_number(record, "share_attention"),
           report_number(record, "peak_gflops"), path);
    printf("    first step %.2f s after the start; CPU %.2f ms a token; anonymous %.0f MB (growth %+.1f), malloc %+.1f "
           "kB and %.0f fresh pages a step later\n",
           report_number(record, "first_step_s"), report_number(record, "cpu_ms_per_token"),
           1e-6 * report_number(record, "anonymous_bytes"), 1e-6 * report_number(record, "anonymous_growth_bytes"),
           1e-3 * report_number(record, "heap_growth_bytes"), report_number(record, "faults_per_step"));
    if (json_find(record, "read_bytes")) TRY(print_streaming(record));
    print_steadiness(record);
    neighbours_report(report_number(record, "neighbour_cores"));
    fflush(stdout);
    return NULL;
}
