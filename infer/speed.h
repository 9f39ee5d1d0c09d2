/* How fast sequences are generated: their prompts are read together, then each gets a token per step. */
#ifndef GRAFT_INFER_SPEED_H
#define GRAFT_INFER_SPEED_H

#include "infer/generate.h"

typedef struct {
    size_t batch, prompt, new; /* sequences at once; tokens of each prompt; new tokens of each */
    size_t rounds;             /* that are timed; one more runs first, to warm up */
    size_t group_tokens;       /* as generate_all */
} SpeedConfig;

typedef struct {
    double prefill; /* tokens of prompts per second until every sequence has its first token */
    double decode;  /* further tokens per second, all sequences together */
} GenerationSpeed;

/* Medians over the rounds. Sequences are greedy, prompts are random tokens, and generate_all generates them.
 * Fails: as generate_all does. */
MUST_USE Err *generation_speed(GenerationSpeed *speed, Model *model, const Adapter *adapter, const SpeedConfig *config);

/* Bytes of frozen weights that are read to decode one token of one sequence: all weights but the embedding, and K
 * experts of each sparse layer. */
double generation_bytes(const Model *model);

#endif
