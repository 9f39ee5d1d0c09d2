/* Every answer renders all messages anew. The session keeps the tokens that it has in its cache and computes only those
 * after the first difference, so an ordinary turn costs its own tokens only. */
#include "cli/chat_session.h"

#include "base/memory.h"
#include "cli/line_editor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- printing an answer as it is generated ---------------------------------------------------------------------- */

static void set_dim(ChatSession *c, bool dim)
{
    if (c->colors && dim != c->dim) fputs(dim ? "\033[2m" : "\033[0m", stdout);
    c->dim = dim;
}

static void print_bytes(ChatSession *c, size_t begin, size_t end, bool dim)
{
    if (begin < c->printed) begin = c->printed;
    if (end > c->answer.shown) end = c->answer.shown;
    if (begin >= end) return;
    set_dim(c, dim);
    fwrite(c->answer.text.data + begin, 1, end - begin, stdout);
}

static void show(ChatSession *c)
{
    AnswerParts p = answer_parts(&c->answer.text, c->settings.sampling.thinking);
    bool thought = p.thought_end > p.thought;
    if (thought && !c->settings.hide_thinking) print_bytes(c, p.thought, p.thought_end, true);
    if (thought && c->settings.hide_thinking && c->printed == 0) fputs("(thinks)", stdout);
    if (thought && c->printed <= p.content && c->answer.shown > p.content) putchar('\n');
    print_bytes(c, p.content, p.content_end, false);
    c->printed = c->answer.shown;
    fflush(stdout);
}

static bool on_token(void *context, int32_t token)
{
    ChatSession *c = context;
    size_t from;
    c->err = answer_put(&c->answer, token, &from);
    if (!c->err && c->answer.shown > from) show(c);
    return !c->err && !c->answer.stopped && !ferror(stdout) && !line_editor_interrupted();
}

/* ---- tool calls ----------------------------------------------------------------------------------------------- */

static const char *call_name(const Json *call)
{
    const Json *name = json_find(json_find(call, "function"), "name");
    return name ? json_string(name) : "?";
}

static void print_calls(const Json *calls)
{
    for (const Json *call = json_first(calls); call; call = json_next(call)) {
        const Json *arguments = json_find(json_find(call, "function"), "arguments");
        printf("calls %s(", call_name(call));
        for (const Json *a = json_first(arguments); a; a = json_next(a))
            printf("%s%s: %s", a == json_first(arguments) ? "" : ", ", json_key(a), json_string(a));
        printf(")\n");
    }
}

/* ---- messages ------------------------------------------------------------------------------------------------- */

void chat_session_add(ChatSession *c, const char *role, const char *content)
{
    Json *message = json_new_object();
    json_add_string(message, "role", role);
    json_add_string(message, "content", content);
    json_add(c->messages, NULL, message);
}

static void add_part_of_text(Json *object, const char *key, const Text *text, size_t begin, size_t end)
{
    char *copy;
    Err *err = mem_copy_bytes(&copy, text->data + begin, end - begin);
    if (!err) json_add_string(object, key, copy);
    if (!err) free(copy);
    err_free(err);
}

/* Add the answer to the messages. Returns its tool calls. Owner: the caller. */
static Json *keep_answer(ChatSession *c)
{
    AnswerParts p = answer_parts(&c->answer.text, c->settings.sampling.thinking);
    Json *message = json_new_object(), *calls = answer_calls(c->answer.text.data + p.calls);
    json_add_string(message, "role", "assistant");
    if (p.thought_end > p.thought)
        add_part_of_text(message, "reasoning_content", &c->answer.text, p.thought, p.thought_end);
    add_part_of_text(message, "content", &c->answer.text, p.content, p.content_end);
    if (json_count(calls)) json_add(message, "tool_calls", json_duplicate(calls));
    json_add(c->messages, NULL, message);
    return calls;
}

void chat_session_forget(ChatSession *c, size_t n)
{
    Json *kept = json_new_array();
    size_t count = json_count(c->messages), i = 0;
    for (const Json *m = json_first(c->messages); m && i + n < count; m = json_next(m), i++)
        json_add(kept, NULL, json_duplicate(m));
    json_free(c->messages);
    c->messages = kept;
}

static Err *render_text(ChatSession *c, ChatText *chat, const char *json)
{
    ChatOptions options = {.template = c->template,
                           .add_generation_prompt = true,
                           .enable_thinking = c->settings.sampling.thinking ? CHAT_YES : CHAT_NO};
    JsonView messages, tools = {0};
    TRY(view_open(&messages, json, strlen(json)));
    if (c->tools.n) TRY(view_open(&tools, c->tools.data, c->tools.n));
    return chat_render(chat, &options, messages, tools);
}

static Err *render(ChatSession *c, Tokens *tokens)
{
    ChatText chat = {0};
    Json *all = json_new_array(), *system;
    char *text;
    if (c->system) {
        system = json_new_object();
        json_add_string(system, "role", "system");
        json_add_string(system, "content", c->system);
        json_add(all, NULL, system);
    }
    for (const Json *m = json_first(c->messages); m; m = json_next(m)) json_add(all, NULL, json_duplicate(m));
    Err *err = json_print(all, false, &text);
    json_free(all);
    if (err) return err;
    err = render_text(c, &chat, text);
    if (!err) err = tokenizer_encode(c->encoder, chat.text.data, chat.text.n, tokens);
    free(text);
    chat_text_free(&chat);
    return err;
}

/* ---- an answer ------------------------------------------------------------------------------------------------ */

static Err *write_answer(ChatSession *c, const int32_t *ids, size_t n)
{
    const ChatSettings *s = &c->settings;
    const ModelConfig *config = &c->candidate.model->config;
    int32_t stop[MAX_EOS];
    Generated made = {0};
    size_t from, remaining = c->session.capacity - n;
    for (int64_t i = 0; i < config->n_eos; i++) stop[i] = (int32_t)config->eos_token_id[i];
    Generation g = {.prompt = ids,
                    .n_prompt = n,
                    .stop = stop,
                    .n_stop = (size_t)config->n_eos,
                    .sampling = sampling_of(&s->sampling),
                    .on_token = on_token,
                    .context = c};
    g.max_new_tokens = (size_t)s->sampling.max_new_tokens < remaining ? (size_t)s->sampling.max_new_tokens : remaining;
    g.sampling.seed += c->answers++;
    answer_free(&c->answer);
    answer_open(&c->answer, c->candidate.tokenizer, s->stop.count, s->stop.items);
    c->printed = 0;
    line_editor_clear_interrupt();
    Err *err = generate_in(&c->session, c->candidate.model, candidate_adapter(&c->candidate, c->chosen), &g, &made);
    if (!err) err = c->err;
    c->err = NULL;
    if (!err) err = answer_end(&c->answer, &from);
    if (!err) show(c);
    set_dim(c, false);
    printf("%s\n", line_editor_interrupted() ? " (stopped)" : !err && !made.stopped ? " (cut at max_new_tokens)" : "");
    generated_free(1, &made);
    return err;
}

static Err *answer_messages(ChatSession *c)
{
    Tokens tokens = {0};
    int32_t *ids = NULL;
    Err *err = render(c, &tokens);
    if (!err && tokens.n >= c->session.capacity)
        err =
            err_new(ERR_DATA,
                    "the conversation has %zu tokens; the context holds %zu (/reset forgets it, --context gives more)",
                    tokens.n, c->session.capacity);
    if (!err) err = mem_new(&ids, tokens.n, sizeof *ids);
    for (size_t i = 0; i < tokens.n && !err; i++) ids[i] = tokens.items[i].id;
    if (!err) err = write_answer(c, ids, tokens.n);
    free(ids);
    tokens_free(&tokens);
    return err;
}

Err *chat_session_reply(ChatSession *c)
{
    for (;;) {
        TRY(answer_messages(c));
        Json *calls = keep_answer(c);
        print_calls(calls);
        bool more = json_count(calls) > 0;
        for (const Json *call = json_first(calls); call && more; call = json_next(call)) {
            char prompt[160], *result;
            snprintf(prompt, sizeof prompt, "result of %.100s> ", call_name(call));
            result = line_editor_read(prompt);
            more = result != NULL;
            if (more) chat_session_add(c, "tool", result);
            free(result);
        }
        json_free(calls);
        if (!more) return NULL;
    }
}
