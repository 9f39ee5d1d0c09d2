/* Render a conversation as the GLM templates do. */
#ifndef GRAFT_DATA_CHAT_GLM_H
#define GRAFT_DATA_CHAT_GLM_H

#include "data/chat/render.h"

MUST_USE Err *glm_head(Render *render);
MUST_USE Err *glm_message(Render *render, const ChatMessage *message, MessageSpans *spans);
void glm_prompt(Render *render);

/* The bytes of the role token that begins the next message. It ends the turn before it and is in the loss with that
 * turn. */
size_t glm_stop(Role next);

#endif
