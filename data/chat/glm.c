/* The GLM templates write the same format, with these differences:
 *   - glm45 has a newline (`nl` below) after role tokens and between the parts of tool calls and results, always
 *     opens a thinking block, and marks a prompt without thinking by /nothink.
 *   - glm51 and glm52 write a tool as its function alone, and do not trim thinking.
 *   - glm51 opens a thinking block only when thinking is on or was shown in that turn.
 *   - glm52 begins with the reasoning effort and always opens a thinking block.
 *
 *   [gMASK]<sop> tools? then for each message
 *     system     <|system|> nl text
 *     user       <|user|> nl text
 *     assistant  <|assistant|> nl thinking, nl content?, nl calls?
 *     tool       <|observation|> at the first of consecutive ones, nl <tool_response> nl text nl </tool_response>
 *   then, on request, the generation prompt
 *
 * Source: data/chat/template.c. */
#include "data/chat/glm.h"

#include "data/chat/glm_tools.h"
#include "data/text/unicode.h"

#include <string.h>

Err *glm_head(Render *r)
{
    render_put(r, "[gMASK]<sop>");
    if (r->template->states_effort && r->options->enable_thinking != CHAT_NO)
        render_put(r, r->options->effort_high ? "<|system|>Reasoning Effort: High" : "<|system|>Reasoning Effort: Max");
    return glm_tools(r);
}

static bool has_reasoning(JsonView message) { return view_is(view_find(message, "reasoning_content"), JSON_STRING); }

/* Whether an assistant's message between `user` and the next user's message has reasoning_content. */
static bool turn_thinks(JsonViewItem user)
{
    for (view_next(&user); user.value.at; view_next(&user)) {
        JsonView role = view_find(user.value, "role");
        if (view_equals(role, "user")) return false;
        if (view_equals(role, "assistant") && has_reasoning(user.value)) return true;
    }
    return false;
}

static Err *write_user(Render *r, const ChatMessage *message)
{
    static const char mark[] = "/nothink";
    r->turn_thinks = r->template->fills_thinking && turn_thinks(message->item);
    render_put(r, "<|user|>");
    render_put(r, r->template->nl);
    TRY(render_visible(r, &r->content, view_find(message->item.value, "content")));
    text_add(r->out, r->content.data, r->content.n);
    if (r->options->template != CHAT_GLM45 || r->options->enable_thinking != CHAT_NO) return NULL;
    size_t n = r->content.n, k = strlen(mark);
    if (n < k || memcmp(r->content.data + n - k, mark, k)) render_put(r, mark);
    return NULL;
}

static const char *find_word(const char *text, size_t n, const char *word, bool last)
{
    size_t k = strlen(word);
    for (size_t i = 0; i + k <= n; i++) {
        size_t at = last ? n - k - i : i;
        if (!memcmp(text + at, word, k)) return text + at;
    }
    return NULL;
}

typedef struct {
    const char *at;
    size_t n;
} ChatPart;

typedef struct {
    ChatPart thinking, content;
    bool has_thinking; /* also when it is empty */
} ChatParts;

/* Split a content that holds </think>. Thinking is the text before the first </think>, from the last <think> on;
 * content is the text after the last </think>. Up to GLM-5, newlines around thinking are removed; those before content
 * always are. */
static void split_content(const Render *r, ChatParts *parts)
{
    ChatPart *thinking = &parts->thinking, *content = &parts->content;
    const char *end = content->at + content->n, *close = find_word(content->at, content->n, "</think>", false);
    bool trim = !r->template->since_glm51;
    if (!close) return;
    parts->has_thinking = true;
    *thinking = (ChatPart){content->at, (size_t)(close - content->at)};
    while (trim && thinking->n && thinking->at[thinking->n - 1] == '\n') thinking->n--;
    const char *open = find_word(thinking->at, thinking->n, "<think>", true);
    if (open) *thinking = (ChatPart){open + 7, thinking->n - (size_t)(open + 7 - thinking->at)};
    for (; trim && thinking->n && *thinking->at == '\n'; thinking->n--) thinking->at++;
    content->at = find_word(content->at, content->n, "</think>", true) + 8;
    while (content->at < end && *content->at == '\n') content->at++;
    content->n = (size_t)(end - content->at);
}

/* GLM-5.1 opens an empty block where the model could have thought, or where the turn has thinking elsewhere. */
static bool fills_empty(const Render *r, size_t number)
{
    if (!r->template->fills_thinking) return false;
    return number > r->last_user ? r->options->enable_thinking != CHAT_NO : r->turn_thinks;
}

/* Find thinking and content of a message. Thinking is in reasoning_content, or before </think> in the content. */
static Err *split_message(Render *r, const ChatMessage *message, ChatParts *parts)
{
    JsonView given = view_find(message->item.value, "reasoning_content");
    TRY(render_visible(r, &r->content, view_find(message->item.value, "content")));
    text_add(&r->reasoning, "", 0);
    if (view_is(given, JSON_STRING)) view_string(&r->reasoning, given);
    TRY(text_error(&r->content));
    TRY(text_error(&r->reasoning));
    *parts =
        (ChatParts){{r->reasoning.data, r->reasoning.n}, {r->content.data, r->content.n}, view_is(given, JSON_STRING)};
    if (!parts->has_thinking) split_content(r, parts);
    if (r->template->since_glm51) {
        parts->has_thinking |= fills_empty(r, message->number);
    } else {
        parts->has_thinking = parts->thinking.n > 0; /* empty thinking counts as none */
        unicode_strip(&parts->thinking.at, &parts->thinking.n);
    }
    unicode_strip(&parts->content.at, &parts->content.n);
    return NULL;
}

static bool keeps_thinking(const Render *r, size_t number)
{
    return number > r->last_user || (r->options->template != CHAT_GLM45 && r->options->clear_thinking == CHAT_NO);
}

/* Write the thinking block and set where the model's part of the message begins: at its thinking, or at its content
 * when there is no thinking. When the thinking is left out there is no such part, because the model did not write the
 * rest in that context. */
static void thinking_block(Render *r, const ChatParts *parts, bool shown, MessageSpans *spans)
{
    bool context = r->options->train_on_reasoning == CHAT_NO;
    if (shown || r->template->opens_thinking) render_put(r, "<think>");
    spans->begin = spans->context_begin = r->out->n;
    if (shown) text_add(r->out, parts->thinking.at, parts->thinking.n);
    render_put(r, "</think>");
    spans->context_end = context && shown ? r->out->n : spans->context_begin;
    if (!shown || !parts->thinking.n || context) spans->begin = r->out->n;
    if (parts->thinking.n && !shown) spans->begin = SIZE_MAX;
}

static Err *write_assistant(Render *r, const ChatMessage *message, MessageSpans *spans)
{
    ChatParts parts;
    TRY(split_message(r, message, &parts));
    render_put(r, "<|assistant|>");
    render_put(r, r->template->nl);
    thinking_block(r, &parts, parts.has_thinking && keeps_thinking(r, message->number), spans);
    if (parts.content.n) render_put(r, r->template->nl);
    text_add(r->out, parts.content.at, parts.content.n);
    return glm_tool_calls(r, message->item.value);
}

Err *glm_message(Render *r, const ChatMessage *message, MessageSpans *spans)
{
    switch (message->role) {
    case ROLE_USER: return write_user(r, message);
    case ROLE_ASSISTANT: return write_assistant(r, message, spans);
    case ROLE_TOOL: return glm_tool_result(r, message);
    default:
        render_put(r, "<|system|>");
        render_put(r, r->template->nl);
        return render_visible(r, r->out, view_find(message->item.value, "content"));
    }
}

void glm_prompt(Render *r)
{
    bool off = r->options->enable_thinking == CHAT_NO;
    render_put(r, "<|assistant|>");
    if (r->options->template == CHAT_GLM45)
        render_put(r, off ? "\n<think></think>" : "");
    else
        render_put(r, !off ? "<think>" : r->template->opens_thinking ? "<think></think>" : "</think>");
}

size_t glm_stop(Role next)
{
    return strlen(next == ROLE_USER ? "<|user|>" : next == ROLE_TOOL ? "<|observation|>" : "");
}
