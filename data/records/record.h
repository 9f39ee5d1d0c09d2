/* Read one line of a data file: a conversation, a text, or tokens. The format is recognised by the record's keys (a key
 * that is null counts as absent). A record that fits no format, or two, is refused.
 *
 *     messages            messages (tools): OpenAI's; a content is a string or a list of parts
 *     sharegpt            conversations (system, tools): elements {from, value}, or messages
 *     prompt_completion   prompt, completion: two strings or two lists of messages; the prompt is never in the loss
 *     alpaca              instruction, output (input, system, history)
 *     text                text: as it is, all of it in the loss
 *     tokens              input_ids (labels): -100 in labels means not in the loss
 *
 * Every format may have `domain`, a word for reports, and `chat_template_kwargs` (enable_thinking, clear_thinking,
 * reasoning_effort), which override the options for this record. */
#ifndef GRAFT_DATA_RECORDS_RECORD_H
#define GRAFT_DATA_RECORDS_RECORD_H

#include "data/chat/chat.h"

#define RECORD_CHOICES "auto messages sharegpt prompt_completion alpaca text tokens"

typedef enum {
    RECORD_AUTO,
    RECORD_MESSAGES,
    RECORD_SHAREGPT,
    RECORD_PROMPT_COMPLETION,
    RECORD_ALPACA,
    RECORD_TEXT,
    RECORD_TOKENS,
    RECORD_FORMATS,
} RecordFormat;

const char *record_format_name(RecordFormat format);
RecordFormat record_format_of(const char *name); /* RECORD_FORMATS: unknown */

/* A zeroed struct is valid, and may be used for any number of records. */
typedef struct {
    RecordFormat format;
    JsonView messages, tools;                   /* a conversation, when messages is present; ... */
    size_t context_messages;                    /* the first messages that are a prompt */
    JsonView input_ids, labels;                 /* ... or tokens, when input_ids is present; ... */
    Text text;                                  /* ... or a text, */
    size_t context_bytes;                       /* its first bytes that are a prompt */
    JsonView domain;                            /* absent, or a string */
    ChatSwitch enable_thinking, clear_thinking; /* CHAT_UNSET: not given */
    bool effort_given, effort_high;
    Text built, decoded; /* the text that `messages` views when it was built here */
} Record;

/* `plain_prompts`: prompt and completion strings are one text instead of a user's and an assistant's message. The line
 * is borrowed as long as the record is used. Fails: ERR_DATA, with what was seen. */
MUST_USE Err *record_read(Record *record, const char *line, size_t bytes, RecordFormat expected, bool plain_prompts);
void record_free(Record *record);

#endif
