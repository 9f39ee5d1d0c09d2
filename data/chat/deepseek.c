/* The format: <｜begin▁of▁sentence｜>, every system message, then <｜User｜>text and <｜Assistant｜>text<｜end▁of▁sentence｜>
 *
 * Source: the chat_template in tokenizer_config.json of deepseek-ai/DeepSeek-V3, without its part for tools. */
#include "data/chat/deepseek.h"

static Err *refuse_unsupported(JsonView message, Role role)
{
    static const char *const keys[] = {"tool_calls", "reasoning_content"};
    if (role == ROLE_TOOL) return err_new(ERR_DATA, "the deepseek_v3 template supports no tools");
    for (size_t i = 0; i < 2; i++) {
        JsonView value = view_find(message, keys[i]);
        if (value.at && view_kind(value) != JSON_NULL && value.bytes > 2)
            return err_new(ERR_DATA, "the deepseek_v3 template cannot render %s", keys[i]);
    }
    return NULL;
}

/* All system messages are written at the start, with two newlines between them. */
Err *deepseek_head(Render *r)
{
    bool first = true;
    if (view_first(r->tools).value.at) return err_new(ERR_DATA, "the deepseek_v3 template supports no tools");
    render_put(r, "<｜begin▁of▁sentence｜>");
    for (JsonViewItem m = view_first(r->messages); m.value.at; view_next(&m)) {
        if (!view_equals(view_find(m.value, "role"), "system")) continue;
        if (!first) render_put(r, "\n\n");
        first = false;
        TRY(render_visible(r, r->out, view_find(m.value, "content")));
    }
    return NULL;
}

Err *deepseek_message(Render *r, const ChatMessage *message, MessageSpans *spans)
{
    TRY(refuse_unsupported(message->item.value, message->role));
    if (message->role == ROLE_SYSTEM) return NULL;
    render_put(r, message->role == ROLE_USER ? "<｜User｜>" : "<｜Assistant｜>");
    size_t begin = r->out->n;
    TRY(render_visible(r, r->out, view_find(message->item.value, "content")));
    if (message->role == ROLE_USER) return NULL;
    render_put(r, r->template->end);
    spans->begin = spans->context_begin = spans->context_end = begin;
    return NULL;
}

void deepseek_prompt(Render *r) { render_put(r, "<｜Assistant｜>"); }
