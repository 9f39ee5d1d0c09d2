/* Writes records to a file that is replaced when the report is closed (base/file). Without a path records are printed
 * into memory and dropped, so callers need not distinguish the two. */
#include "bench/report.h"

#include "base/file.h"
#include "base/memory.h"

#include <stdlib.h>

struct BenchReport {
    char *path; /* NULL: records are dropped */
    FileWriter writer;
};

Err *report_open(BenchReport **report, const char *path)
{
    TRY(mem_new(report, 1, sizeof **report));
    Err *err = path ? mem_copy_text(&(*report)->path, path) : NULL;
    if (!err && path) err = file_writer_open(&(*report)->writer, (*report)->path);
    if (!err) return NULL;
    report_discard(*report);
    *report = NULL;
    return err;
}

Err *report_add(BenchReport *report, Json *record)
{
    char *text;
    Err *err = json_print(record, false, &text);
    json_free(record);
    if (err) return err;
    if (report->path && fprintf(report->writer.stream, "%s\n", text) < 0) err = err_errno("write %s", report->path);
    free(text);
    return err;
}

Err *report_close(BenchReport *report)
{
    Err *err = report->path ? file_writer_close(&report->writer) : NULL;
    report_discard(report);
    return err;
}

void report_discard(BenchReport *report)
{
    if (!report) return;
    file_writer_discard(&report->writer);
    free(report->path);
    free(report);
}

Json *report_record(const char *kind)
{
    Json *record = json_new_object();
    json_add_string(record, "kind", kind);
    return record;
}

void report_measure(Json *record, Cost cost, double seconds, double peak)
{
    json_add_number(record, "flop", cost.flop);
    json_add_number(record, "bytes", cost.bytes);
    json_add_number(record, "seconds", seconds);
    json_add_number(record, "gflops", 1e-9 * cost.flop / seconds);
    json_add_number(record, "gbs", 1e-9 * cost.bytes / seconds);
    json_add_number(record, "peak_gflops", 1e-9 * peak);
    json_add_number(record, "share", cost.flop / seconds / peak);
}

double report_number(const Json *record, const char *key) { return json_number(json_find(record, key)); }

const char *report_pass(TimingPass pass) { return pass == TIMING_FORWARD ? "forward" : "backward"; }
