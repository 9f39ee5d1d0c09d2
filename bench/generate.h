/* The speed of generation: prefill and decoding in tokens per second, and the share of the memory bandwidth that
 * decoding a single sequence reaches.
 *
 * Prompts are random, decoding is greedy (infer/speed.h). A token of a single sequence reads once every weight of its
 * layers, of K experts and of the head. The share is these bytes per second over the bandwidth of all cores, measured
 * just before. Several sequences share most of the weights that they read.
 *
 * A "generate" record has model, path, threads, batch (sequences), prompt, new, prefill_tokens_per_s,
 * decode_tokens_per_s, weight_bytes_per_token, memory_gbs, neighbour_cores; for a single sequence also
 * share_of_bandwidth, and flop, bytes, gflops, gbs of a token. */
#ifndef GRAFT_BENCH_GENERATE_H
#define GRAFT_BENCH_GENERATE_H

#include "base/json.h"
#include "model/model.h"

typedef struct {
    int64_t batch, prompt, new_tokens, rounds, group_tokens; /* group_tokens 0: all */
} GenerateConfig;

/* Measure; prints nothing. Uses the current path and number of threads. Owner of *record: the caller. */
MUST_USE Err *generate_measure(Json **record, Model *model, const char *name, const GenerateConfig *config);

/* Print a record as one line. */
void generate_print(const Json *record);

#endif
