/* Any bytes as a conversation: the first two say which template and which options, the rest is {"messages": ...,
 * "tools": ...}. What is rendered must keep the promises of data/chat/chat.h: spans in the loss in order, disjoint and
 * inside the text; turns in order, after the head. */
#include "data/chat/chat.h"
#include "tests/support/fuzz.h"

#include <stdlib.h>

static void check(const ChatText *chat)
{
    size_t at = 0;
    for (size_t i = 0; i < chat->n_spans; i++) {
        if (chat->spans[i].begin >= chat->spans[i].end || (i && chat->spans[i].begin <= at)) abort();
        at = chat->spans[i].end;
    }
    if (at > chat->text.n || chat->head > chat->text.n) abort();
    for (size_t i = 0; i < chat->n_turns; i++) {
        if (chat->turns[i].begin < (i ? chat->turns[i - 1].begin + 1 : chat->head) ||
            chat->turns[i].begin > chat->text.n)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    JsonView record;
    if (bytes < 2) return 0;
    ChatOptions options = {.template = (ChatTemplate)(data[0] % CHAT_TEMPLATES),
                           .enable_thinking = (ChatSwitch)(data[1] % 3),
                           .clear_thinking = (ChatSwitch)(data[1] / 3 % 3),
                           .train_on = (ChatTrainOn)(data[1] / 9 % 3),
                           .train_on_reasoning = data[0] & 64 ? CHAT_NO : CHAT_UNSET,
                           .end_of_text = data[0] & 128,
                           .null_as_none = data[0] & 32,
                           .add_generation_prompt = data[1] / 27 % 2,
                           .context_messages = data[1] / 54};
    ChatText chat = {0};
    Err *err = view_open(&record, (const char *)data + 2, bytes - 2);
    if (!err) err = chat_render(&chat, &options, view_find(record, "messages"), view_find(record, "tools"));
    if (!err) check(&chat);
    chat_text_free(&chat);
    err_free(err);
    return 0;
}

FUZZ_MAIN("chat")
