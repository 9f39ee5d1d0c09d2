/* The sampling options of verbs that generate, and their defaults from the model card (generation_config.json). */
#ifndef GRAFT_CLI_SAMPLING_H
#define GRAFT_CLI_SAMPLING_H

#include "base/options.h"
#include "infer/sample.h"

#include <stddef.h>

typedef struct {
    double temperature, top_p, min_p, repetition_penalty;
    int64_t top_k, seed, max_new_tokens;
    bool thinking;
} SamplingSettings;

/* Rows for a table whose struct has a SamplingSettings. */
#define SAMPLING_OPTIONS(Struct, field)                                                                 \
    {"temperature", OPT_NUMBER,         offsetof(Struct, field.temperature), .preset = "0.7", .min = 0, \
     .max = 100,    .help = "0: greedy"},                                                               \
        {"top_p",                                                                                       \
         OPT_NUMBER,                                                                                    \
         offsetof(Struct, field.top_p),                                                                 \
         .preset = "0.95",                                                                              \
         .min = 0,                                                                                      \
         .max = 1,                                                                                      \
         .help = "keep the most likely tokens that reach this probability together; 1: off"},           \
        {"top_k",                                                                                       \
         OPT_INT,                                                                                       \
         offsetof(Struct, field.top_k),                                                                 \
         .preset = "0",                                                                                 \
         .min = 0,                                                                                      \
         .max = 1e9,                                                                                    \
         .help = "keep the k most likely tokens; 0: off"},                                              \
        {"min_p",                                                                                       \
         OPT_NUMBER,                                                                                    \
         offsetof(Struct, field.min_p),                                                                 \
         .preset = "0",                                                                                 \
         .min = 0,                                                                                      \
         .max = 1,                                                                                      \
         .help = "keep tokens with this share of the probability of the most likely one; 0: off"},      \
        {"repetition_penalty",                                                                          \
         OPT_NUMBER,                                                                                    \
         offsetof(Struct, field.repetition_penalty),                                                    \
         .preset = "1",                                                                                 \
         .min = 0.01,                                                                                   \
         .max = 100,                                                                                    \
         .help = "above 1: tokens that the sequence already has become less likely"},                   \
        {"max_new_tokens", OPT_INT,    offsetof(Struct, field.max_new_tokens), .preset = "256",         \
         .min = 1,         .max = 1e7, .help = "most tokens of an answer"},                             \
        {"seed",                                                                                        \
         OPT_INT,                                                                                       \
         offsetof(Struct, field.seed),                                                                  \
         .preset = "0",                                                                                 \
         .min = 0,                                                                                      \
         .max = 9e15,                                                                                   \
         .help = "the same seed gives the same answer"},                                                \
    {                                                                                                   \
        "thinking", OPT_FLAG, offsetof(Struct, field.thinking), .help = "let the model think first"     \
    }

/* Set the presets, then generation_config.json of the model directory that the arguments name, then the arguments.
 *   model_offset  of the path of the model directory in `settings` (a char *) */
MUST_USE Err *sampling_arguments(void *settings, const Option *table, int argc, char **argv, size_t model_offset);

Sampling sampling_of(const SamplingSettings *settings);

#endif
