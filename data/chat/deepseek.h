/* Render a conversation as the template of DeepSeek-V3 does. */
#ifndef GRAFT_DATA_CHAT_DEEPSEEK_H
#define GRAFT_DATA_CHAT_DEEPSEEK_H

#include "data/chat/render.h"

MUST_USE Err *deepseek_head(Render *render);
MUST_USE Err *deepseek_message(Render *render, const ChatMessage *message, MessageSpans *spans);
void deepseek_prompt(Render *render);

#endif
