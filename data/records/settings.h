/* The options about data that training, evaluation and preview share: one set for the option tables of all three.
 *
 *     static const Option table[] = {..., DATA_OPTIONS(offsetof(Config, data)), {0}}; */
#ifndef GRAFT_DATA_RECORDS_SETTINGS_H
#define GRAFT_DATA_RECORDS_SETTINGS_H

#include "base/options.h"
#include "data/records/document.h"

#include <stddef.h>

typedef struct {
    int64_t max_length, unpack_limit;
    char *truncation, *data_format, *train_on, *chat_template, *enable_thinking, *clear_thinking, *reasoning_effort;
    bool train_on_reasoning, plain_prompts;
} DataSettings;

#define DATA_AT(at, field) (at) + offsetof(DataSettings, field)
#define DATA_OPTIONS(at)                                                                                               \
    {"max_length",                                                                                                     \
     OPT_INT,                                                                                                          \
     DATA_AT(at, max_length),                                                                                          \
     .preset = "2048",                                                                                                 \
     .min = 2,                                                                                                         \
     .max = 1e7,                                                                                                       \
     .help = "largest number of tokens of a document"},                                                                \
        {"truncation",                                                                                                 \
         OPT_TEXT,                                                                                                     \
         DATA_AT(at, truncation),                                                                                      \
         .preset = "right",                                                                                            \
         .choices = "right left drop",                                                                                 \
         .help = "which part of a longer document is kept, in whole turns: right cuts its end, left its beginning; "   \
                 "drop leaves it out"},                                                                                \
        {"data_format",                                                                                                \
         OPT_TEXT,                                                                                                     \
         DATA_AT(at, data_format),                                                                                     \
         .preset = "auto",                                                                                             \
         .choices = RECORD_CHOICES,                                                                                    \
         .help = "format of records; auto: recognised by each record's keys"},                                         \
        {"plain_prompts", OPT_FLAG, DATA_AT(at, plain_prompts),                                                        \
         .help = "prompt and completion strings form one plain text instead of a user's and an assistant's message"},  \
        {"train_on",                                                                                                   \
         OPT_TEXT,                                                                                                     \
         DATA_AT(at, train_on),                                                                                        \
         .preset = "assistant",                                                                                        \
         .choices = "assistant last all",                                                                              \
         .help = "which tokens are in the loss: all assistant turns, the last one, or everything but tool results"},   \
        {"train_on_reasoning", OPT_FLAG, DATA_AT(at, train_on_reasoning), .preset = "true",                            \
         .help = "the thinking is in the loss, too"},                                                                  \
        {"unpack_limit",  OPT_INT,    DATA_AT(at, unpack_limit),                                                       \
         .preset = "200", .max = 1e9, .help = "how many times its size a packed file may become; 0: no limit"},        \
        {"chat_template", OPT_TEXT, DATA_AT(at, chat_template),                                                        \
         .help = "name of a chat template; default: the one in the model directory"},                                  \
        {"enable_thinking",                                                                                            \
         OPT_TEXT,                                                                                                     \
         DATA_AT(at, enable_thinking),                                                                                 \
         .preset = "unset",                                                                                            \
         .choices = "unset yes no",                                                                                    \
         .help = "the chat template's variable of that name"},                                                         \
        {"clear_thinking",                                                                                             \
         OPT_TEXT,                                                                                                     \
         DATA_AT(at, clear_thinking),                                                                                  \
         .preset = "unset",                                                                                            \
         .choices = "unset yes no",                                                                                    \
         .help = "the chat template's variable; no keeps the thinking of earlier turns"},                              \
    {                                                                                                                  \
        "reasoning_effort", OPT_TEXT, DATA_AT(at, reasoning_effort), .preset = "max", .choices = "max high",           \
                                                                     .help = "the variable of GLM-5.2's chat template" \
    }

/* Convert settings to what data/records/document.h takes. Fails: as template_recognise. */
MUST_USE Err *data_settings_read(DocumentOptions *options, const DataSettings *settings, const char *model_directory);

#endif
