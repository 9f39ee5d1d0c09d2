/* The renderers (glm, deepseek) write one message at a time and report in MessageSpans which bytes of it the model
 * wrote. This file calls them in order and decides what is in the loss.
 *
 *   - The spans of a message are added when the role of the next message is known, because the role token that
 *     follows may belong to them.
 *   - Spans are in order and disjoint: adjacent or overlapping ones are joined. */
#include "data/chat/chat.h"

#include "base/memory.h"
#include "data/chat/deepseek.h"
#include "data/chat/glm.h"

#include <stdlib.h>

typedef struct { /* how a family of templates writes a conversation */
    Err *(*head)(Render *render);
    Err *(*message)(Render *render, const ChatMessage *message, MessageSpans *spans);
    void (*prompt)(Render *render);
    size_t (*stop)(Role next);
} TemplateWriter;

static size_t no_stop(Role next)
{
    (void)next;
    return 0; /* a turn has an end token of its own */
}

static const TemplateWriter glm = {glm_head, glm_message, glm_prompt, glm_stop},
                            deepseek = {deepseek_head, deepseek_message, deepseek_prompt, no_stop};

/* ---- what is in the loss ---- */

static Err *add_span(ChatText *out, size_t begin, size_t end)
{
    if (begin >= end) return NULL;
    ChatSpan *last = out->n_spans ? &out->spans[out->n_spans - 1] : NULL;
    if (last && begin <= last->end) { /* the role token that ends one turn begins the next */
        last->end = end;
        return NULL;
    }
    TRY(mem_grow(&out->spans, &out->span_capacity, out->n_spans + 1, sizeof *out->spans));
    out->spans[out->n_spans++] = (ChatSpan){begin, end};
    return NULL;
}

/* Add the spans of one message, which ends at `end`. `stop`: bytes of the role token that follows it. */
static Err *add_message_spans(ChatText *out, const ChatOptions *options, const MessageSpans *spans, size_t end,
                              size_t stop)
{
    if (options->train_on != CHAT_TRAIN_ALL)
        return add_span(out, spans->begin, end + (spans->begin == SIZE_MAX ? 0 : stop));
    TRY(add_span(out, spans->message_begin,
                 spans->context_end > spans->context_begin ? spans->context_begin : end + stop));
    return spans->context_end > spans->context_begin ? add_span(out, spans->context_end, end + stop) : NULL;
}

static void keep_last_span(ChatText *out)
{
    if (out->n_spans < 2) return;
    out->spans[0] = out->spans[out->n_spans - 1];
    out->n_spans = 1;
}

static Err *has_weight_zero(JsonView message, bool *yes)
{
    JsonView weight = view_find(message, "weight");
    *yes = false;
    if (!weight.at || view_kind(weight) == JSON_NULL) return NULL;
    if (weight.bytes != 1 || (*weight.at != '0' && *weight.at != '1'))
        return err_new(ERR_DATA, "weight is %.*s; expected 0 or 1", weight.bytes < 20 ? (int)weight.bytes : 20,
                       weight.at);
    *yes = *weight.at == '0';
    return NULL;
}

static Err *is_in_loss(const ChatOptions *options, const ChatMessage *message, bool *yes)
{
    bool out;
    TRY(has_weight_zero(message->item.value, &out));
    *yes = !out && (options->train_on == CHAT_TRAIN_ALL ? message->role != ROLE_TOOL
                                                        : message->number > options->context_messages);
    return NULL;
}

/* ---- messages in order ---- */

/* A message that writes something begins a turn, except for a tool result after another one and for opening system
 * messages. */
static Err *add_turn(ChatText *out, const ChatMessage *message, size_t begin)
{
    if (out->text.n == begin || (message->role == ROLE_SYSTEM && !out->n_turns)) return NULL;
    if (message->role == ROLE_TOOL && message->before == ROLE_TOOL) return NULL;
    if (!out->n_turns) out->head = begin;
    TRY(mem_grow(&out->turns, &out->turn_capacity, out->n_turns + 1, sizeof *out->turns));
    out->turns[out->n_turns++] = (ChatTurn){begin, message->role == ROLE_USER};
    return NULL;
}

static Err *write_message(Render *r, const TemplateWriter *writer, ChatText *out, const ChatMessage *message,
                          MessageSpans *spans, bool *in_loss)
{
    *spans = (MessageSpans){.message_begin = out->text.n, .begin = SIZE_MAX};
    text_clear(&r->content);
    text_clear(&r->reasoning);
    TRY(is_in_loss(r->options, message, in_loss));
    TRY(writer->message(r, message, spans));
    return add_turn(out, message, spans->message_begin);
}

static Err *write_messages(Render *r, const TemplateWriter *writer, ChatText *out)
{
    ChatMessage message = {.item = view_first(r->messages), .number = 1, .before = ROLE_NONE};
    bool all = r->options->train_on == CHAT_TRAIN_ALL, in_loss = all;
    MessageSpans spans = {.begin = SIZE_MAX}; /* before the first message */
    for (; message.item.value.at; view_next(&message.item), message.number++, message.before = message.role) {
        TRY(err_wrap(render_role(message.item.value, &message.role), "message %zu", message.number));
        if (in_loss) TRY(add_message_spans(out, r->options, &spans, out->text.n, writer->stop(message.role)));
        TRY(err_wrap(write_message(r, writer, out, &message, &spans, &in_loss), "message %zu", message.number));
    }
    if (message.before == ROLE_ASSISTANT && r->options->end_of_text && writer != &deepseek)
        render_put(r, r->template->end);
    return in_loss ? add_message_spans(out, r->options, &spans, out->text.n, 0) : NULL;
}

static Err *open_conversation(Render *r, JsonView messages, JsonView tools)
{
    size_t number = 1;
    if (!view_is(messages, JSON_ARRAY))
        return err_new(ERR_DATA, "messages is %s; expected an array", view_kind_name(messages));
    r->messages = messages;
    for (JsonViewItem m = view_first(messages); m.value.at; view_next(&m), number++)
        if (view_equals(view_find(m.value, "role"), "user")) r->last_user = number;
    if (!tools.at || view_is(tools, JSON_NULL)) return NULL;
    r->tools = tools;
    return render_unwrap(&r->tools, JSON_ARRAY, "tools", &r->tools_text);
}

Err *chat_render(ChatText *out, const ChatOptions *options, JsonView messages, JsonView tools)
{
    Render r = {.out = &out->text, .options = options, .template = template_of(options->template)};
    const TemplateWriter *writer = options->template == CHAT_DEEPSEEK_V3 ? &deepseek : &glm;
    text_clear(&out->text);
    out->n_spans = out->n_turns = out->head = 0;
    Err *err = open_conversation(&r, messages, tools);
    if (!err) err = writer->head(&r);
    if (!err) err = write_messages(&r, writer, out);
    if (!err && options->add_generation_prompt) writer->prompt(&r);
    if (!err && options->train_on == CHAT_TRAIN_LAST) keep_last_span(out);
    if (!err) err = text_error(&out->text);
    text_free(&r.content);
    text_free(&r.reasoning);
    text_free(&r.call_arguments);
    text_free(&r.tools_text);
    return err;
}

void chat_text_free(ChatText *text)
{
    text_free(&text->text);
    free(text->spans);
    free(text->turns);
    *text = (ChatText){0};
}
