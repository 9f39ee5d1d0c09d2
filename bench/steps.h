/* Training steps of a model in this process: documents of random tokens, LoRA, AdamW; under a memory limit as training is.
 *
 * A "step" record holds what was asked (model, targets, tokens, path, threads), per step the lists "seconds_each",
 * "cpu_seconds_each", "peak_each" (FLOP/s, measured before each step, fp32 or bf16 as the path: neighbours and clocks move
 * it), for all steps "losses" and "grad_norms", warm-up included, and
 *
 *     first_step_s            from the start of the process to the end of the first step
 *     neighbour_cores         that other programs kept busy meanwhile
 *     anonymous_bytes         at the end; file pages are not counted
 *     anonymous_growth_bytes  since the second step; heap_growth_bytes: the same of what malloc has handed out
 *     faults_per_step         fresh pages, minor page faults of the counted steps
 *     flop_per_token, flop_per_token_attention   count_frozen, and count_with_attention at 512 tokens
 *     share, share_attention  of the peak, by either count
 *     planned_...             under a memory limit: what the plan says of memory, tapes, bytes and seconds
 *     profile                 timing_json of the counted steps, where asked for
 *
 * Tokens are those of a stream: number i is splitmix64((seed << 40) + (i + 1) 0x9E3779B97F4A7C15) mod the vocabulary. */
#ifndef GRAFT_BENCH_STEPS_H
#define GRAFT_BENCH_STEPS_H

#include "base/timing.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    char *targets, *compute, *memory_limit, *scratch_dir, *init_adapter; /* memory_limit, init_adapter NULL: none */
    int64_t tokens, document, group_tokens, steps, warm_up, r, keep_layers, seed;
    bool recompute_experts;
} StepsConfig;

#define STEPS_TARGETS "attn attn+16 attn+shared attn+experts"

/* Measure; prints nothing. profile NULL: none. Owner of *record: the caller. */
MUST_USE Err *steps_measure(Json **record, const char *directory, const StepsConfig *config, Timing *timing);

/* Lines for people about a record. */
MUST_USE Err *steps_print(const Json *record);

/* Of all counted steps together. */
double steps_seconds(const Json *record);

/* The same measurement made by n processes as one: lists are joined, medians and shares taken anew, of memory and neighbours the most.
 * Owner of *joined: the caller. */
MUST_USE Err *steps_join(Json **joined, size_t n, const Json *const *records);

#endif
