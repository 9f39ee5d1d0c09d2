/* The chat templates that graft knows, their differences, and how to recognise the one that a model directory ships. */
#ifndef GRAFT_DATA_CHAT_TEMPLATE_H
#define GRAFT_DATA_CHAT_TEMPLATE_H

#include "base/err.h"

#include <stdbool.h>

typedef enum {
    CHAT_GLM47,       /* GLM-4.7, GLM-4.7-Flash, GLM-5 */
    CHAT_GLM45,       /* GLM-4.5, GLM-4.6 */
    CHAT_GLM51,       /* GLM-5.1 */
    CHAT_GLM52,       /* GLM-5.2 */
    CHAT_DEEPSEEK_V3, /* conversations without tools */
    CHAT_TEMPLATES,
} ChatTemplate;

typedef struct {
    const char *name, *models;
    const char *sha256;    /* of the released file without white space at its end; NULL: recognised by its words */
    const char *words[5];  /* the file has all of these ... */
    const char *not_words; /* ... and not this one */
    const char *end;       /* the token that closes a document */
    /* only in GLM templates: */
    const char *nl;          /* after role tokens, and between the parts of tool calls and results */
    const char *call_format; /* the end of the tools block */
    bool opens_thinking;     /* a turn without shown thinking has an empty block, not a bare </think> */
    bool since_glm51;        /* a tool is written as its function alone; thinking is not trimmed */
    bool fills_thinking;     /* GLM-5.1: with thinking on, a turn that has none shows an empty block */
    bool states_effort;      /* GLM-5.2: the text begins with the reasoning effort; ... */
    bool names_media;        /* ... media are named that the model cannot see; ... */
    bool lists_outputs;      /* ... a result may be a list of outputs */
} Template;

/* Find a model's template: by `name` when it is given, else by the file in the model's directory (chat_template.jinja,
 * or the chat_template of tokenizer_config.json). A file is recognised by its SHA-256 where that of the released file
 * is known, else by words that only that template has.
 * Fails: ERR_USAGE, when the name is unknown; ERR_FORMAT, when there is no template or an unknown one. Both list the
 * known templates. */
MUST_USE Err *template_recognise(ChatTemplate *template, const char *model_directory, const char *name);

const Template *template_of(ChatTemplate template);

#endif
