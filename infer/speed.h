/* How fast text comes: prompts read together, then a token at a time for each. */
#ifndef GRAFT_INFER_SPEED_H
#define GRAFT_INFER_SPEED_H

#include "infer/generate.h"

typedef struct {
    size_t batch, prompt, new; /* texts at once; tokens of each one's prompt, and after it */
    size_t rounds;             /* that count; one before them warms up */
    size_t group_tokens;       /* as generate_all */
} SpeedConfig;

typedef struct {
    double prefill; /* tokens of prompts per second until every text has its first token */
    double decode;  /* further tokens per second, all texts together */
} GenerationSpeed;

/* Medians over the rounds: greedy texts of made-up tokens, through generate_all. Fails as that does. */
MUST_USE Err *generation_speed(GenerationSpeed *speed, Model *model, const Adapter *adapter, const SpeedConfig *config);

/* Bytes of frozen weights that one token reads when it decodes alone: everything but the embedding, of the experts K. */
double generation_bytes(const Model *model);

#endif
