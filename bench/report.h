/* The results of `graft bench` for programs: JSON Lines, one record a line, in addition to the tables for people. The
 * "kind" of a record is one of
 *
 *     machine     cpu, cores, threads, path, fp32_gflops, bf16_gflops (null: none), memory_gbs,
 *                 disk_gbs (null: not measured)
 *     product     dtype, rows, cols, tokens, way, path; threads 1
 *     operation   operation, shape, tokens, way
 *     step        model, targets, tokens, ... (bench/step_record.h)
 *     generate    model, batch, prompt, ... (bench/generate.h)
 *
 * "way" is the pass, "forward" or "backward". A measured record has flop, bytes (model/count.h), seconds, gflops,
 * gbs, peak_gflops (measured in the same rounds) and share, which is gflops / peak_gflops. */
#ifndef GRAFT_BENCH_REPORT_H
#define GRAFT_BENCH_REPORT_H

#include "base/json.h"
#include "model/count.h"

typedef struct BenchReport BenchReport;

/* Open a report. path NULL: records are dropped. The file appears, complete, when the report is closed. */
MUST_USE Err *report_open(BenchReport **report, const char *path);

/* Write a record. The report takes ownership of it, also when it fails. */
MUST_USE Err *report_add(BenchReport *report, Json *record);

MUST_USE Err *report_close(BenchReport *report);
void report_discard(BenchReport *report); /* closes without a file; accepts NULL */

/* A new record with its kind. Owner: the caller. */
Json *report_record(const char *kind);

/* Add the measured part of a record: a cost, the seconds that it took, and the peak in FLOP/s. */
void report_measure(Json *record, Cost cost, double seconds, double peak);

/* A number of a record, which has it. */
double report_number(const Json *record, const char *key);

const char *report_pass(TimingPass pass); /* "forward", "backward" */

#endif
