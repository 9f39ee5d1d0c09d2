/* Render messages to the text that a model's chat template makes of them, byte for byte, and mark the parts of it that
 * are in the loss.
 *
 * In the loss, of an assistant's turn:
 *   - the thinking with its `</think>`, when there is any; the content; the tool calls
 *   - the role token after the turn, with which a GLM ends it (`<|user|>`, `<|observation|>`)
 *   - after a final turn, the `<|endoftext|>` that end_of_text appends
 *   - the token of its own that ends a DeepSeek turn
 * Not in the loss:
 *   - what the prompt holds (`<|assistant|>`, `<think>`, an empty thinking block)
 *   - a turn whose thinking the template leaves out, because the model did not write it in that context
 *   - the results of tools, whatever train_on says
 * Source: docs/glm5.md; data/chat/template.c. */
#ifndef GRAFT_DATA_CHAT_CHAT_H
#define GRAFT_DATA_CHAT_CHAT_H

#include "data/text/json_view.h"
#include "data/chat/template.h"

typedef enum { CHAT_UNSET, CHAT_NO, CHAT_YES } ChatSwitch; /* a template may treat "not given" as neither */

typedef enum { CHAT_TRAIN_ASSISTANT, CHAT_TRAIN_LAST, CHAT_TRAIN_ALL } ChatTrainOn; /* LAST: the last assistant turn */

typedef struct {
    ChatTemplate template;
    ChatSwitch enable_thinking, clear_thinking;
    bool effort_high; /* glm52: "Reasoning Effort: High" instead of Max */
    bool add_generation_prompt;
    bool end_of_text;  /* append <|endoftext|> after a final assistant turn */
    bool null_as_none; /* write content that is null as `None`, as the released templates do; else it is empty */
    ChatTrainOn train_on;
    ChatSwitch train_on_reasoning; /* NO: the thinking is not in the loss */
    size_t context_messages;       /* the first messages that are a prompt: their turns are not in the loss */
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
    ChatSpan *spans; /* in the loss; in order, disjoint */
    size_t n_spans, span_capacity;
    size_t head;     /* bytes before the first turn: tools and opening system messages */
    ChatTurn *turns; /* where a conversation may be cut; consecutive tool results are one turn */
    size_t n_turns, turn_capacity;
} ChatText;

/* Render to `out`, which is emptied first. `tools` may be absent, null, an array, or a string that holds the array as
 * JSON. The arguments of a tool call may be an object or a string that holds it. A message with `"weight": 0` is not in
 * the loss.
 * Fails: ERR_DATA, naming the message and what was seen. */
MUST_USE Err *chat_render(ChatText *out, const ChatOptions *options, JsonView messages, JsonView tools);
void chat_text_free(ChatText *text);

#endif
