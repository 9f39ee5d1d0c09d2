/* A conversation as the GLM templates write it. */
#ifndef GRAFT_DATA_CHAT_GLM_H
#define GRAFT_DATA_CHAT_GLM_H

#include "data/chat/render.h"

MUST_USE Err *glm_head(Render *render);
MUST_USE Err *glm_message(Render *render, const ChatMessage *message, MessageSpans *spans);
void glm_prompt(Render *render);

/* The role token with which the next message begins ends the turn before it, and is scored with it: its bytes. */
size_t glm_stop(Role next);

#endif
