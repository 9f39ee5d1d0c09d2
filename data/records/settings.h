/* What training, evaluation and preview can be told of data: one set of options for the tables of all three.
 *
 *     static const Option table[] = {..., DATA_OPTIONS(offsetof(Config, data)), {0}}; */
#ifndef GRAFT_DATA_RECORDS_SETTINGS_H
#define GRAFT_DATA_RECORDS_SETTINGS_H

#include "base/options.h"
#include "data/records/document.h"

#include <stddef.h>

typedef struct {
    int64_t max_length;
    char *truncation, *data_format, *train_on, *chat_template, *enable_thinking, *clear_thinking, *reasoning_effort;
    bool train_on_reasoning, plain_prompts;
} DataSettings;

#define DATA_AT(at, field) (at) + offsetof(DataSettings, field)
#define DATA_OPTIONS(at)                                                                                             \
    {"max_length", OPT_INT,    DATA_AT(at, max_length),       .preset = "2048",                                      \
     .min = 2,     .max = 1e7, .help = "tokens of a document"},                                                      \
        {"truncation",                                                                                               \
         OPT_TEXT,                                                                                                   \
         DATA_AT(at, truncation),                                                                                    \
         .preset = "right",                                                                                          \
         .choices = "right left drop",                                                                               \
         .help = "what longer ones lose, at turn borders: their end or their beginning; drop: they are left out"},   \
        {"data_format",                                                                                              \
         OPT_TEXT,                                                                                                   \
         DATA_AT(at, data_format),                                                                                   \
         .preset = "auto",                                                                                           \
         .choices = RECORD_CHOICES,                                                                                  \
         .help = "auto: by each record's keys"},                                                                     \
        {"plain_prompts", OPT_FLAG, DATA_AT(at, plain_prompts),                                                      \
         .help =                                                                                                     \
             "prompt and completion strings are one text as it is, instead of a user's and an assistant's message"}, \
        {"train_on",                                                                                                 \
         OPT_TEXT,                                                                                                   \
         DATA_AT(at, train_on),                                                                                      \
         .preset = "assistant",                                                                                      \
         .choices = "assistant last all",                                                                            \
         .help = "what is scored: all assistant turns, the last one, everything but tool results"},                  \
        {"train_on_reasoning", OPT_FLAG, DATA_AT(at, train_on_reasoning), .preset = "true",                          \
         .help = "score the thinking, too"},                                                                         \
        {"chat_template", OPT_TEXT, DATA_AT(at, chat_template),                                                      \
         .help = "overrides the one that the model directory ships"},                                                \
        {"enable_thinking",                                                                                          \
         OPT_TEXT,                                                                                                   \
         DATA_AT(at, enable_thinking),                                                                               \
         .preset = "unset",                                                                                          \
         .choices = "unset yes no",                                                                                  \
         .help = "the template's own switch"},                                                                       \
        {"clear_thinking",                                                                                           \
         OPT_TEXT,                                                                                                   \
         DATA_AT(at, clear_thinking),                                                                                \
         .preset = "unset",                                                                                          \
         .choices = "unset yes no",                                                                                  \
         .help = "the template's own: no keeps the thinking of earlier turns"},                                      \
    {                                                                                                                \
        "reasoning_effort", OPT_TEXT, DATA_AT(at, reasoning_effort), .preset = "max", .choices = "max high",         \
                                                                     .help = "GLM-5.2's own"                         \
    }

/* Settings of a table with its presets -> what data/records/document.h takes. Fails: as template_recognise does. */
MUST_USE Err *data_settings_read(DocumentOptions *options, const DataSettings *settings, const char *model_directory);

#endif
