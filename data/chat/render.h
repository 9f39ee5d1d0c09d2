/* What the renderers of all templates share: where they write, the conversation's options, text out of content.
 * A renderer (data/chat/glm.h, data/chat/deepseek.h) writes one message at a time and says which part of it the model wrote. */
#ifndef GRAFT_DATA_CHAT_RENDER_H
#define GRAFT_DATA_CHAT_RENDER_H

#include "data/chat/chat.h"

typedef struct {
    Text *out;
    const ChatOptions *options;
    const Template *template;
    JsonView messages, tools; /* tools: an array, or absent */
    size_t last_user;         /* the last message of a user, from 1; 0: there is none */
    bool turn_thinks;         /* since the user's message before: an assistant's message has reasoning_content */
    Text content, reasoning, call_arguments; /* scratch, of the message at hand */
    Text tools_text;                         /* what tools points into when they were a string */
} Render;

typedef enum { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, ROLE_NONE } Role;

typedef struct {
    JsonViewItem item;
    size_t number;     /* from 1 */
    Role role, before; /* its own, and that of the message before */
} ChatMessage;

/* What of a message is scored, in bytes of the rendering. */
typedef struct {
    size_t message_begin;              /* where the message begins */
    size_t begin;                      /* where the model's own words begin; SIZE_MAX: there are none */
    size_t context_begin, context_end; /* thinking that is context */
} MessageSpans;

void render_put(Render *render, const char *words);

/* Fails: ERR_DATA, no object, or a role that is none of the four. */
MUST_USE Err *render_role(JsonView message, Role *role);

/* What the templates call visible_text: a string, or the strings and text parts of a list. */
MUST_USE Err *render_visible(const Render *render, Text *out, JsonView content);

/* A list or an object as itself, or as a string that holds its JSON; `held` keeps the latter's text. */
MUST_USE Err *render_unwrap(JsonView *value, JsonKind kind, const char *what, Text *call_arguments);

#endif
