/* A "step" record: training steps of one configuration (bench/steps measures them).
 *
 * It has the configuration (model, targets, tokens, document, path, threads), one number per counted step in the lists
 * "seconds_each", "cpu_seconds_each", "peak_each" (FLOP/s, measured before each step in the numbers of the path, since
 * it changes with the clock and with other programs), one per step including the warm-up in "losses" and "grad_norms",
 * and
 *
 *     first_step_s            from the start of the process to the end of the first step
 *     neighbour_cores         cores that other programs used meanwhile
 *     anonymous_bytes         at the end; file pages are not counted
 *     anonymous_growth_bytes  since the second step; heap_growth_bytes: the same for what malloc has handed out
 *     faults_per_step         minor page faults of the counted steps
 *     flop_per_token, flop_per_token_attention   count_frozen, and count_with_attention at 512 tokens
 *     share, share_attention  of the peak, by either count
 *     read_bytes, waited_s, planned_...   under a memory limit: per step; what the plan predicts
 *     "profile"               timing_json of the counted steps, if it was asked for */
#ifndef GRAFT_BENCH_STEP_RECORD_H
#define GRAFT_BENCH_STEP_RECORD_H

#include "base/json.h"

/* Compute the numbers that follow from the lists and the counts: seconds (the median), tokens_per_s,
 * cpu_ms_per_token, flop, gflops, gbs, peak_gflops, share, share_attention. */
void step_record_derive(Json *record);

/* Join records of the same measurement, made by n processes: lists are appended, derived numbers are derived anew;
 * memory and neighbour_cores are the maximum, first_step_s is the median. Owner of *joined: the caller. */
MUST_USE Err *step_record_join(Json **joined, size_t n, const Json *const *records);

/* Seconds of all counted steps together. */
double step_record_seconds(const Json *record);

/* Print a record for people. */
MUST_USE Err *step_record_print(const Json *record);

#endif
