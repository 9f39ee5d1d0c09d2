/* Messages -> the text that a model's chat template makes of them, byte for byte, and which of it is trained on.
 *
 * Scored in an assistant's turn: the thinking with its `</think>` when there is any, the content, the tool calls, and
 * the role token after it, by which a GLM ends its turn (`<|user|>`, `<|observation|>`); after a final turn the
 * `<|endoftext|>` that end_of_text appends. A DeepSeek turn ends with a token of its own, which is scored.
 * Not scored: what the prompt holds (`<|assistant|>`, `<think>`, an empty thinking block), and a turn whose thinking
 * the template leaves out, for it was not written in that context. What a tool answers never is.
 * Source: docs/glm5.md; data/chat/template.c. */
#ifndef GRAFT_DATA_CHAT_CHAT_H
#define GRAFT_DATA_CHAT_CHAT_H

#include "data/text/json_view.h"
#include "data/chat/template.h"

typedef enum { CHAT_UNSET, CHAT_NO, CHAT_YES } ChatSwitch; /* a template tells "not given" from both */

typedef enum { CHAT_TRAIN_ASSISTANT, CHAT_TRAIN_LAST, CHAT_TRAIN_ALL } ChatTrainOn; /* LAST: the last assistant turn */

typedef struct {
    ChatTemplate template;
    ChatSwitch enable_thinking, clear_thinking;
    bool effort_high; /* glm52: "Reasoning Effort: High" instead of Max */
    bool add_generation_prompt;
    bool end_of_text;  /* append <|endoftext|> after a final assistant turn */
    bool null_as_none; /* write content that is null as `None`, as the released templates do; else it is empty */
    ChatTrainOn train_on;
    ChatSwitch train_on_reasoning; /* NO: the thinking is context */
    size_t context_messages;       /* so many at the start are a prompt: their turns are not scored */
} ChatOptions;

typedef struct {
    size_t begin, end; /* bytes */
} ChatSpan;

typedef struct {
    size_t begin; /* byte at which a turn begins, with its role token */
    bool user;
} ChatTurn;

typedef struct {
    Text text;
    ChatSpan *spans; /* in order, apart */
    size_t n_spans, span_capacity;
    size_t head;     /* bytes of what stands before the first turn: tools, opening system messages */
    ChatTurn *turns; /* where a conversation may be cut; a run of tool results is one turn */
    size_t n_turns, turn_capacity;
} ChatText;

/* Render into `out`, which is emptied first. `tools` may be absent, null, or a string that holds the array; so may a
 * tool call's arguments be a string that holds the object. A message with `"weight": 0` is not scored.
 * Fails: ERR_DATA, naming the message and what was seen. */
MUST_USE Err *chat_render(ChatText *out, const ChatOptions *options, JsonView messages, JsonView tools);
void chat_text_free(ChatText *text);

#endif
