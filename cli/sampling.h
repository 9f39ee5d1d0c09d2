/* The options of verbs that write text, and their defaults: the model card's (generation_config.json). */
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

/* Rows of a table whose struct has a SamplingSettings. */
#define SAMPLING_OPTIONS(Struct, field)                                                                                \
    {"temperature", OPT_NUMBER,         offsetof(Struct, field.temperature), .preset = "0.7", .min = 0,                \
     .max = 100,    .help = "0: greedy"},                                                                              \
        {"top_p",                                                                                                      \
         OPT_NUMBER,                                                                                                   \
         offsetof(Struct, field.top_p),                                                                                \
         .preset = "0.95",                                                                                             \
         .min = 0,                                                                                                     \
         .max = 1,                                                                                                     \
         .help = "the likeliest tokens that reach this probability; 1: off"},                                          \
        {"top_k",  OPT_INT,    offsetof(Struct, field.top_k),           .preset = "0",                                 \
         .min = 0, .max = 1e9, .help = "the k likeliest tokens; 0: off"},                                              \
        {"min_p",                                                                                                      \
         OPT_NUMBER,                                                                                                   \
         offsetof(Struct, field.min_p),                                                                                \
         .preset = "0",                                                                                                \
         .min = 0,                                                                                                     \
         .max = 1,                                                                                                     \
         .help = "tokens this likely, as a share of the likeliest; 0: off"},                                           \
        {"repetition_penalty",                                                                                         \
         OPT_NUMBER,                                                                                                   \
         offsetof(Struct, field.repetition_penalty),                                                                   \
         .preset = "1",                                                                                                \
         .min = 0.01,                                                                                                  \
         .max = 100,                                                                                                   \
         .help = "above 1: tokens of the text so far are less likely"},                                                \
        {"max_new_tokens",     OPT_INT, offsetof(Struct, field.max_new_tokens), .preset = "256", .min = 1, .max = 1e7, \
         .help = "at the most"},                                                                                       \
        {"seed",   OPT_INT,     offsetof(Struct, field.seed),          .preset = "0",                                  \
         .min = 0, .max = 9e15, .help = "the same seed, the same text"},                                               \
    {                                                                                                                  \
        "thinking", OPT_FLAG, offsetof(Struct, field.thinking), .help = "let the model think first"                    \
    }

/* Presets, then generation_config.json of the model directory that the arguments name, then the arguments.
 * model_offset: where in `settings` the directory's path lies (a char *). */
MUST_USE Err *sampling_arguments(void *settings, const Option *table, int argc, char **argv, size_t model_offset);

Sampling sampling_of(const SamplingSettings *settings);

#endif
