/* Training steps of a model in this process: documents of random tokens, LoRA, AdamW; under a memory limit as in
 * training.
 *
 * Tokens are a stream: number i is splitmix64((seed << 40) + (i + 1) 0x9E3779B97F4A7C15) mod the vocabulary. */
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

/* Measure, without printing, and make a record (bench/step_record.h). timing NULL: without timing of operations.
 * Owner of *record: the caller. */
MUST_USE Err *steps_measure(Json **record, const char *directory, const StepsConfig *config, Timing *timing);

#endif
