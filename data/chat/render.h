/* What the renderers of all templates share: their output, the conversation with its options, and the text of a
 * content. A renderer (data/chat/glm.h, data/chat/deepseek.h) writes one message at a time and reports which part of it
 * the model wrote. */
#ifndef GRAFT_DATA_CHAT_RENDER_H
#define GRAFT_DATA_CHAT_RENDER_H

#include "data/chat/chat.h"

typedef struct {
    Text *out;
    const ChatOptions *options;
    const Template *template;
    JsonView messages, tools;                /* tools: an array, or absent */
    size_t last_user;                        /* number of the last message of a user, from 1; 0: there is none */
    bool turn_thinks;                        /* an assistant's message of this user's turn has reasoning_content */
    Text content, reasoning, call_arguments; /* scratch of the current message */
    Text tools_text;                         /* the text that `tools` views when they were given as a string */
} Render;

typedef enum { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, ROLE_NONE } Role;

typedef struct {
    JsonViewItem item;
    size_t number;     /* from 1 */
    Role role, before; /* of this message; of the message before */
} ChatMessage;

/* What the model wrote of a message, in bytes of the rendering. */
typedef struct {
    size_t message_begin;              /* where the message begins */
    size_t begin;                      /* where the model's part begins; SIZE_MAX: there is none */
    size_t context_begin, context_end; /* thinking that is not in the loss */
} MessageSpans;

void render_put(Render *render, const char *string);

/* The role of a message. Fails: ERR_DATA, when it is no object or its role is none of the four. */
MUST_USE Err *render_role(JsonView message, Role *role);

/* Add a content's text, which the templates call visible_text: a string, or the strings and text parts of a list. */
MUST_USE Err *render_visible(const Render *render, Text *out, JsonView content);

/* Replace a string that holds JSON by the list or object in it; `text` keeps the string's characters.
 * Fails: ERR_DATA, when the value is neither of that kind nor a string that holds one. */
MUST_USE Err *render_unwrap(JsonView *value, JsonKind kind, const char *what, Text *text);

#endif
