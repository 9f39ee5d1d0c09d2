/* Render tools, tool calls and tool results as the GLM templates do. */
#ifndef GRAFT_DATA_CHAT_GLM_TOOLS_H
#define GRAFT_DATA_CHAT_GLM_TOOLS_H

#include "data/chat/render.h"

/* Write the block that lists the tools; nothing when there are none. */
MUST_USE Err *glm_tools(Render *render);

MUST_USE Err *glm_tool_calls(Render *render, JsonView message);
MUST_USE Err *glm_tool_result(Render *render, const ChatMessage *message);

#endif
