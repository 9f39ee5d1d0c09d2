/* The speed of text: prefill and decode in tokens per second, and the share of memory bandwidth that decoding alone reaches.
 *
 * Random prompts, greedy texts (infer/speed.h). A token that decodes alone reads every weight of its layers, K experts and
 * the head once; its bytes a second, over what all cores read just before, is the share. More texts share most of them.
 *
 * A "generate" record: model, path, threads, batch, prompt, new, prefill_tokens_per_s, decode_tokens_per_s,
 * weight_bytes_per_token, memory_gbs, neighbour_cores; of one text alone also share_of_bandwidth, and flop, bytes, gflops, gbs of a token. */
#ifndef GRAFT_BENCH_GENERATE_H
#define GRAFT_BENCH_GENERATE_H

#include "base/json.h"
#include "model/model.h"

typedef struct {
    int64_t batch, prompt, new_tokens, rounds, group_tokens; /* the last 0: all */
} GenerateConfig;

/* Measure; prints nothing. Uses the path and the threads that are set. Owner of *record: the caller. */
MUST_USE Err *generate_measure(Json **record, Model *model, const char *name, const GenerateConfig *config);

/* A line for people about a record. */
void generate_print(const Json *record);

#endif
