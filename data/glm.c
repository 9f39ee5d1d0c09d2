/* The GLM families are one text but for a few things: glm45 puts a newline (`nl` below) after role tokens and between
 * the parts of tool calls and results, always opens a thinking block, and marks a prompt without thinking by /nothink.
 * glm51 and glm52 write a tool as its function alone and thinking as it is; glm52 begins with the reasoning effort and
 * always opens a thinking block.
 *
 *   [gMASK]<sop> tools? then for each message
 *     system     <|system|> nl text
 *     user       <|user|> nl text
 *     assistant  <|assistant|> nl thinking, nl content?, nl calls?
 *     tool       <|observation|> at the first of a run, nl <tool_response> nl text nl </tool_response>
 *   then, when asked for, the generation prompt
 *
 * Source: chat_template.jinja of zai-org/GLM-4.7-Flash (3,120 bytes) and of zai-org/GLM-4.5 (3,242 bytes). */
#include "data/glm.h"

#include "data/glm_tools.h"
#include "data/unicode.h"

#include <string.h>

Err *glm_head(Render *r)
{
    render_put(r, "[gMASK]<sop>");
    if (r->options->template == CHAT_GLM52 && r->options->enable_thinking != CHAT_NO)
        render_put(r, r->options->effort_high ? "<|system|>Reasoning Effort: High" : "<|system|>Reasoning Effort: Max");
    return glm_tools(r);
}

static Err *user(Render *r, Raw message)
{
    static const char mark[] = "/nothink";
    render_put(r, "<|user|>");
    render_put(r, r->template->nl);
    TRY(render_visible(r, &r->content, raw_find(message, "content")));
    text_add(r->out, r->content.data, r->content.n);
    if (r->options->template != CHAT_GLM45 || r->options->enable_thinking != CHAT_NO) return NULL;
    size_t n = r->content.n, k = strlen(mark);
    if (n < k || memcmp(r->content.data + n - k, mark, k)) render_put(r, mark);
    return NULL;
}

static const char *find(const char *text, size_t n, const char *word, bool last)
{
    size_t k = strlen(word);
    for (size_t i = 0; i + k <= n; i++) {
        size_t at = last ? n - k - i : i;
        if (!memcmp(text + at, word, k)) return text + at;
    }
    return NULL;
}

/* Thinking and content of a turn: from reasoning_content, or from what stands around </think> in the content. */
static Err *split_thinking(Render *r, Raw message, const char **thinking, size_t *n_thinking, const char **content,
                           size_t *n_content)
{
    Raw given = raw_find(message, "reasoning_content");
    TRY(render_visible(r, &r->content, raw_find(message, "content")));
    text_add(&r->reasoning, "", 0);
    if (raw_is(given, JSON_STRING)) raw_string(&r->reasoning, given);
    TRY(text_error(&r->content));
    TRY(text_error(&r->reasoning));
    *thinking = r->reasoning.data;
    *n_thinking = r->reasoning.n;
    *content = r->content.data;
    *n_content = r->content.n;
    const char *close = find(*content, *n_content, "</think>", false);
    if (raw_is(given, JSON_STRING) || !close) return NULL;
    const char *end = *content + *n_content;
    *thinking = *content;
    *n_thinking = (size_t)(close - *content);
    bool trim = !r->template->later;
    while (trim && *n_thinking && (*thinking)[*n_thinking - 1] == '\n') --*n_thinking;
    const char *open = find(*thinking, *n_thinking, "<think>", true);
    if (open) {
        *n_thinking -= (size_t)(open + 7 - *thinking);
        *thinking = open + 7;
    }
    for (; trim && *n_thinking && **thinking == '\n'; --*n_thinking) ++*thinking;
    *content = find(*content, *n_content, "</think>", true) + 8;
    while (*content < end && **content == '\n') ++*content;
    *n_content = (size_t)(end - *content);
    return NULL;
}

/* A later template shows thinking that is there at all, an earlier one thinking that is not empty. */
static bool thinking_is_given(const Render *r, Raw message, size_t n_thinking, bool inside)
{
    return n_thinking || (r->template->later && (inside || raw_is(raw_find(message, "reasoning_content"), JSON_STRING)));
}

static Err *assistant(Render *r, Raw message, size_t number, Turn *turn)
{
    const char *thinking, *content;
    size_t n_thinking, n_content;
    bool glm45 = r->options->template == CHAT_GLM45;
    TRY(split_thinking(r, message, &thinking, &n_thinking, &content, &n_content));
    bool kept = number > r->last_user || (!glm45 && r->options->clear_thinking == CHAT_NO);
    bool given = thinking_is_given(r, message, n_thinking, content != r->content.data), shown = kept && given;
    if (!r->template->later) unicode_strip(&thinking, &n_thinking);
    unicode_strip(&content, &n_content);
    render_put(r, "<|assistant|>");
    render_put(r, r->template->nl);
    if (shown || r->template->opens_thinking) render_put(r, "<think>");
    turn->begin = turn->held_from = r->out->n;
    if (shown) text_add(r->out, thinking, n_thinking);
    render_put(r, "</think>");
    turn->held_to = r->options->train_on_reasoning == CHAT_NO && shown ? r->out->n : turn->held_from;
    if (!shown || !n_thinking || r->options->train_on_reasoning == CHAT_NO) turn->begin = r->out->n;
    if (given && n_thinking && !shown) turn->begin = SIZE_MAX; /* not written in this context */
    if (n_content) render_put(r, r->template->nl);
    text_add(r->out, content, n_content);
    return glm_tool_calls(r, message);
}

Err *glm_message(Render *r, const Message *message, Turn *turn)
{
    switch (message->role) {
    case ROLE_USER: return user(r, message->item.value);
    case ROLE_ASSISTANT: return assistant(r, message->item.value, message->number, turn);
    case ROLE_TOOL: return glm_tool_result(r, message);
    default:
        render_put(r, "<|system|>");
        render_put(r, r->template->nl);
        return render_visible(r, r->out, raw_find(message->item.value, "content"));
    }
}

void glm_prompt(Render *r)
{
    bool off = r->options->enable_thinking == CHAT_NO;
    render_put(r, "<|assistant|>");
    if (r->options->template == CHAT_GLM45) render_put(r, off ? "\n<think></think>" : "");
    else render_put(r, !off ? "<think>" : r->template->opens_thinking ? "<think></think>" : "</think>");
}

size_t glm_stop(Role next) { return strlen(next == ROLE_USER ? "<|user|>" : next == ROLE_TOOL ? "<|observation|>" : ""); }
