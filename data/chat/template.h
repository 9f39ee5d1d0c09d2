/* The chat templates that graft knows, what tells one from another, and which one a model directory ships. */
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
    const char *sha256;    /* of the released file, without white space at its end; NULL: its words tell */
    const char *words[5];  /* all of them in the file ... */
    const char *not_words; /* ... and not this */
    const char *end;       /* the token that closes a document */
    /* of the GLM templates */
    const char *nl;          /* after role tokens, and between the parts of tool calls and results */
    const char *call_format; /* the end of the tools block */
    bool opens_thinking;     /* a turn whose thinking is not shown has an empty block, not a bare </think> */
    bool since_glm51;        /* GLM-5.1 on: a tool is its function alone, thinking stands as it is */
    bool fills_thinking;     /* GLM-5.1: where thinking is on, a turn that has none shows an empty block */
    bool states_effort;      /* GLM-5.2: begins with the reasoning effort; ... */
    bool names_media;        /* ... tells the model what it cannot see; ... */
    bool lists_outputs;      /* ... a result may be a list of outputs */
} Template;

/* A model's: by `name` when given, else by what its directory ships (chat_template.jinja, or the chat_template of
 * tokenizer_config.json): by its SHA-256 where the released file's is known, else by words that only that template has.
 * Fails: ERR_USAGE, an unknown name; ERR_FORMAT, none there or an unknown one; both name the known ones. */
MUST_USE Err *template_recognise(ChatTemplate *template, const char *model_directory, const char *name);

const Template *template_of(ChatTemplate template);

#endif
