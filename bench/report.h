/* What a benchmark found, for programs: JSON Lines, one record each, beside the tables for people. "kind" says what it is:
 *
 *     machine     cpu, cores, threads, path, fp32_gflops, bf16_gflops (null: none), memory_gbs, disk_gbs (null: not measured)
 *     product     dtype, rows, cols, tokens, way, path; threads 1
 *     operation   operation, shape, tokens, way
 *     step        model, targets, tokens, ... (bench/steps.h)
 *     generate    model, batch, prompt, ... (bench/generate.h)
 *
 * A measured record has flop, bytes (model/count.h), seconds, gflops, gbs, peak_gflops of the same rounds and share, which
 * is gflops / peak_gflops. */
#ifndef GRAFT_BENCH_REPORT_H
#define GRAFT_BENCH_REPORT_H

#include "base/json.h"
#include "model/count.h"

typedef struct Report Report;

/* path NULL: records go nowhere. The file appears whole when the report is closed, or not at all. */
MUST_USE Err *report_open(Report **report, const char *path);

/* A record; takes the object, also when it fails. */
MUST_USE Err *report_add(Report *report, Json *record);

MUST_USE Err *report_close(Report *report);
void report_discard(Report *report); /* NULL is fine */

/* A record's beginning. */
Json *report_record(const char *kind);

/* The measured part: cost over seconds against a peak in FLOP/s. */
void report_measure(Json *record, Cost cost, double seconds, double peak);

const char *report_way(TimingPass way); /* "forward", "backward" */

#endif
