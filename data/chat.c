/* The two families are one text but for three things: glm45 puts a newline (`nl` below) after role tokens and between
 * the parts of tool calls and results, always opens a thinking block, and marks a prompt without thinking by /nothink.
 *
 *   [gMASK]<sop> tools? then for each message
 *     system     <|system|> nl text
 *     user       <|user|> nl text
 *     assistant  <|assistant|> nl thinking, nl content?, nl calls?
 *     tool       <|observation|> at the first of a run, nl <tool_response> nl text nl </tool_response>
 *   then, when asked for, the generation prompt
 *
 * Source: chat_template.jinja of zai-org/GLM-4.7-Flash (3,120 bytes) and of zai-org/GLM-4.5 (3,242 bytes). */
#include "data/chat.h"

#include "base/digest.h"
#include "base/file.h"
#include "base/memory.h"
#include "data/reader.h"
#include "data/unicode.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name, *models;
    const char *sha256; /* of the released file */
    const char *nl;
    const char *call_format; /* the end of the tools block */
} Family;

static const Family families[CHAT_TEMPLATES] = {
    [CHAT_GLM47] = {"glm47", "GLM-4.7, GLM-4.7-Flash, GLM-5",
                    "d63ad536c3c81880043e22ec7fd08db42b4d8fb7c89c7138bc562bfa25281375", "",
                    "<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key><arg_value>{arg-value-1}</arg_value>"
                    "<arg_key>{arg-key-2}</arg_key><arg_value>{arg-value-2}</arg_value>...</tool_call>"},
    [CHAT_GLM45] = {"glm45", "GLM-4.5, GLM-4.6", "44f815868bf02fa458dd2f741a338046f4bf45f398eb6d067766726b9d96cce3",
                    "\n",
                    "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>\n"
                    "<arg_key>{arg-key-2}</arg_key>\n<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>"},
};

/* ---- which template ---- */

const char *chat_template_name(ChatTemplate template) { return families[template].name; }

static void name_all(Text *text)
{
    for (size_t i = 0; i < CHAT_TEMPLATES; i++) {
        text_put(text, i ? ", " : "");
        text_put(text, families[i].name);
        text_put(text, " (");
        text_put(text, families[i].models);
        text_put(text, ")");
    }
}

static Err *unknown(ErrKind kind, const char *what)
{
    Text known = {0};
    name_all(&known);
    Err *err = text_error(&known);
    if (!err) err = err_new(kind, "%s; chat_template can be one of %s", what, known.data);
    text_free(&known);
    return err;
}

/* The template of tokenizer_config.json, where older models keep it; `text` stays empty when it holds none. */
static Err *read_from_config(Text *text, const char *directory)
{
    char path[PATH_BYTES];
    Json *config;
    const char *template = NULL;
    TRY(file_join(path, directory, "tokenizer_config.json"));
    if (!file_exists(path)) return NULL;
    TRY(json_read_file(&config, path));
    Err *err = err_wrap(json_may_string(config, "chat_template", &template), "%s", path);
    if (!err && template) text_put(text, template);
    json_free(config);
    return err_first(err, text_error(text));
}

static Err *recognise_text(ChatTemplate *template, const Text *text)
{
    unsigned char sum[DIGEST_SUM_BYTES];
    char hex[2 * DIGEST_SUM_BYTES + 1], what[160];
    Digest digest;
    size_t n = text->n;
    while (n && strchr(" \r\n\t", text->data[n - 1])) n--; /* an editor's last newline changes nothing */
    digest_init(&digest);
    digest_add(&digest, text->data, n);
    digest_end(&digest, sum);
    digest_hex(sum, sizeof sum, hex);
    for (size_t i = 0; i < CHAT_TEMPLATES; i++) {
        if (strcmp(hex, families[i].sha256)) continue;
        *template = (ChatTemplate)i;
        return NULL;
    }
    snprintf(what, sizeof what, "the chat template (%zu bytes, SHA-256 %.16s...) is not one that graft knows", text->n,
             hex);
    return unknown(ERR_FORMAT, what);
}

Err *chat_recognise(ChatTemplate *template, const char *directory, const char *name)
{
    char path[PATH_BYTES];
    Text text = {0};
    Err *err = NULL;
    for (size_t i = 0; i < CHAT_TEMPLATES && name; i++) {
        if (strcmp(name, families[i].name)) continue;
        *template = (ChatTemplate)i;
        return NULL;
    }
    if (name) return err_wrap(unknown(ERR_USAGE, "no such template"), "chat_template %s", name);
    TRY(file_join(path, directory, "chat_template.jinja"));
    err = file_exists(path) ? reader_whole(&text, path) : read_from_config(&text, directory);
    if (!err) err = text.n ? recognise_text(template, &text) : unknown(ERR_FORMAT, "the model has no chat template");
    text_free(&text);
    return err_wrap(err, "%s", directory);
}

/* ---- rendering ---- */

typedef struct {
    ChatText *out;
    const ChatOptions *options;
    const char *nl;
    size_t n_messages, last_user; /* last_user counts from 1; 0: there is none */
    Text content, reasoning, held; /* of the message at hand */
} Render;

static void put(Render *r, const char *words) { text_put(&r->out->text, words); }

static Err *score(ChatText *out, size_t begin, size_t end)
{
    if (begin >= end) return NULL;
    TRY(mem_grow(&out->scored, &out->scored_capacity, out->n_scored + 1, sizeof *out->scored));
    out->scored[out->n_scored++] = (ChatSpan){begin, end};
    return NULL;
}

static void null_content(const Render *r, Text *out) { text_put(out, r->options->null_as_none ? "None" : ""); }

/* What the templates call visible_text: a string, or the strings and text parts of a list. */
static Err *visible(Render *r, Text *out, Raw content)
{
    text_add(out, "", 0);
    if (!content.at) return NULL;
    if (raw_kind(content) == JSON_NULL) null_content(r, out);
    else if (raw_kind(content) == JSON_STRING) raw_string(out, content);
    else if (raw_kind(content) != JSON_ARRAY)
        return err_new(ERR_DATA, "content is %s; expected a string or a list of parts", raw_kind_name(content));
    for (RawItem part = raw_first(content); part.value.at; raw_next(&part)) {
        if (raw_kind(part.value) == JSON_STRING) raw_string(out, part.value);
        if (!raw_equals(raw_find(part.value, "type"), "text")) continue;
        Raw text = raw_find(part.value, "text");
        if (raw_is(text, JSON_STRING)) raw_string(out, text);
        else if (raw_is(text, JSON_NULL)) null_content(r, out);
        else if (text.at) return err_new(ERR_DATA, "a text part holds %s; expected a string", raw_kind_name(text));
    }
    return NULL;
}

/* A list or an object as itself, or as a string that holds its JSON; `held` keeps the latter's text. */
static Err *unwrap(Raw *value, JsonKind kind, const char *what, Text *held)
{
    if (raw_is(*value, JSON_STRING)) {
        text_clear(held);
        raw_string(held, *value);
        TRY(text_error(held));
        Err *err = raw_open(value, held->data, held->n);
        if (err) {
            Err *told = err_new(ERR_DATA, "%s is a string that does not hold %s: %s", what,
                                kind == JSON_ARRAY ? "an array" : "an object", err_message(err));
            err_free(err);
            return told;
        }
    }
    if (raw_is(*value, kind)) return NULL;
    return err_new(ERR_DATA, "%s is %s; expected %s", what, raw_kind_name(*value),
                   kind == JSON_ARRAY ? "an array" : "an object");
}

static Err *render_tools(Render *r, Raw tools)
{
    if (!tools.at || raw_kind(tools) == JSON_NULL) return NULL;
    TRY(unwrap(&tools, JSON_ARRAY, "tools", &r->held));
    RawItem tool = raw_first(tools);
    if (!tool.value.at) return NULL;
    put(r, "<|system|>\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
           "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n");
    for (; tool.value.at; raw_next(&tool)) {
        TRY(err_wrap(raw_python(&r->out->text, tool.value), "tools"));
        put(r, "\n");
    }
    put(r, "</tools>\n\nFor each function call, "
           "output the function name and arguments within the following XML format:\n");
    put(r, families[r->options->template].call_format);
    return NULL;
}

static Err *render_user(Render *r, Raw message)
{
    static const char mark[] = "/nothink";
    put(r, "<|user|>");
    put(r, r->nl);
    TRY(visible(r, &r->content, raw_find(message, "content")));
    text_add(&r->out->text, r->content.data, r->content.n);
    if (r->options->template != CHAT_GLM45 || r->options->enable_thinking != CHAT_NO) return NULL;
    size_t n = r->content.n, k = strlen(mark);
    if (n < k || memcmp(r->content.data + n - k, mark, k)) put(r, mark);
    return NULL;
}

static void render_tool_result(Render *r, Raw content)
{
    put(r, r->nl);
    put(r, "<tool_response>");
    put(r, r->nl);
    raw_string(&r->out->text, content);
    put(r, r->nl);
    put(r, "</tool_response>");
}

static Err *render_tool(Render *r, Raw message, bool run_goes_on)
{
    Raw content = raw_find(message, "content");
    if (content.at && raw_kind(content) != JSON_STRING && raw_kind(content) != JSON_ARRAY)
        return err_new(ERR_DATA, "content is %s; expected a string or a list", raw_kind_name(content));
    if (!raw_is(content, JSON_STRING) || !run_goes_on) put(r, "<|observation|>");
    if (raw_is(content, JSON_STRING)) render_tool_result(r, content);
    for (RawItem item = raw_first(content); item.value.at; raw_next(&item)) {
        Raw output = raw_kind(item.value) == JSON_STRING ? item.value : raw_find(item.value, "output");
        if (!raw_is(output, JSON_STRING)) /* the templates would print Python's view of it */
            return err_new(ERR_DATA, "a part of a tool's content is no string and has no output that is one");
        render_tool_result(r, output);
    }
    return NULL;
}

static Err *render_call(Render *r, Raw call)
{
    Raw function = raw_find(call, "function");
    if (raw_first(function).value.at) call = function; /* wrapped, or bare */
    Raw name = raw_find(call, "name"), arguments = raw_find(call, "arguments");
    if (!raw_is(name, JSON_STRING)) return err_new(ERR_DATA, "name is %s; expected a string", raw_kind_name(name));
    TRY(unwrap(&arguments, JSON_OBJECT, "arguments", &r->held));
    put(r, r->nl);
    put(r, "<tool_call>");
    raw_string(&r->out->text, name);
    put(r, r->nl);
    for (RawItem argument = raw_first(arguments); argument.value.at; raw_next(&argument)) {
        put(r, "<arg_key>");
        raw_string(&r->out->text, argument.key);
        put(r, "</arg_key>");
        put(r, r->nl);
        put(r, "<arg_value>");
        if (raw_kind(argument.value) == JSON_STRING) raw_string(&r->out->text, argument.value);
        else TRY(raw_python(&r->out->text, argument.value));
        put(r, "</arg_value>");
        put(r, r->nl);
    }
    put(r, "</tool_call>");
    text_clear(&r->content); /* content was written before; here it only looks for keys given twice */
    return raw_python(&r->content, arguments);
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
    TRY(visible(r, &r->content, raw_find(message, "content")));
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
    while (*n_thinking && (*thinking)[*n_thinking - 1] == '\n') --*n_thinking;
    const char *open = find(*thinking, *n_thinking, "<think>", true);
    if (open) {
        *n_thinking -= (size_t)(open + 7 - *thinking);
        *thinking = open + 7;
    }
    for (; *n_thinking && **thinking == '\n'; --*n_thinking) ++*thinking;
    *content = find(*content, *n_content, "</think>", true) + 8;
    while (*content < end && **content == '\n') ++*content;
    *n_content = (size_t)(end - *content);
    return NULL;
}

/* *begin is where the scored part of the turn begins; SIZE_MAX: none of it is scored. */
static Err *render_assistant(Render *r, Raw message, size_t number, size_t *begin)
{
    const char *thinking, *content;
    size_t n_thinking, n_content;
    bool glm45 = r->options->template == CHAT_GLM45;
    TRY(split_thinking(r, message, &thinking, &n_thinking, &content, &n_content));
    bool kept = number > r->last_user || (!glm45 && r->options->clear_thinking == CHAT_NO);
    bool shown = kept && n_thinking;
    unicode_strip(&thinking, &n_thinking);
    unicode_strip(&content, &n_content);
    put(r, "<|assistant|>");
    put(r, r->nl);
    if (shown || glm45) put(r, "<think>");
    *begin = r->out->text.n;
    if (shown) text_add(&r->out->text, thinking, n_thinking);
    put(r, "</think>");
    if (!shown || !n_thinking || r->options->train_on_reasoning == CHAT_NO) *begin = r->out->text.n;
    if (n_thinking && !shown) *begin = SIZE_MAX; /* not written in this context */
    if (n_content) put(r, r->nl);
    text_add(&r->out->text, content, n_content);
    Raw calls = raw_find(message, "tool_calls"), weight = raw_find(message, "weight");
    if (calls.at && raw_kind(calls) != JSON_ARRAY && raw_kind(calls) != JSON_NULL)
        return err_new(ERR_DATA, "tool_calls is %s; expected an array", raw_kind_name(calls));
    for (RawItem call = raw_first(calls); call.value.at; raw_next(&call))
        TRY(err_wrap(render_call(r, call.value), "tool_calls"));
    if (!weight.at || raw_kind(weight) == JSON_NULL) return NULL;
    if (weight.bytes != 1 || (*weight.at != '0' && *weight.at != '1'))
        return err_new(ERR_DATA, "weight is %.*s; expected 0 or 1", weight.bytes < 20 ? (int)weight.bytes : 20,
                       weight.at);
    if (*weight.at == '0') *begin = SIZE_MAX;
    return NULL;
}

typedef enum { SYSTEM, USER, ASSISTANT, TOOL, NOBODY } Role;

static Err *role_of(Raw message, Role *role)
{
    static const char *const names[] = {"system", "user", "assistant", "tool"};
    *role = NOBODY;
    if (!raw_is(message, JSON_OBJECT)) return err_new(ERR_DATA, "is %s; expected an object", raw_kind_name(message));
    Raw given = raw_find(message, "role");
    for (Role i = SYSTEM; i < NOBODY; i++)
        if (raw_equals(given, names[i])) *role = i;
    if (*role != NOBODY) return NULL;
    if (!raw_is(given, JSON_STRING)) return err_new(ERR_DATA, "role is %s; expected a string", raw_kind_name(given));
    return err_new(ERR_DATA, "role is %.*s; expected system, user, assistant or tool",
                   given.bytes < 40 ? (int)given.bytes : 40, given.at);
}

static Err *render_message(Render *r, Raw message, size_t number, Role role, Role before, size_t *begin)
{
    text_clear(&r->content);
    text_clear(&r->reasoning);
    switch (role) {
    case USER: return render_user(r, message);
    case ASSISTANT: return render_assistant(r, message, number, begin);
    case TOOL: return render_tool(r, message, before == TOOL);
    default:
        put(r, "<|system|>");
        put(r, r->nl);
        return visible(r, &r->out->text, raw_find(message, "content"));
    }
}

/* The role token with which the next message begins ends the turn before it, and is scored with it. */
static const char *stop_token(Role next) { return next == USER ? "<|user|>" : next == TOOL ? "<|observation|>" : ""; }

static Err *render_messages(Render *r, Raw messages)
{
    Role role, before = NOBODY;
    size_t begin = SIZE_MAX, number = 1;
    for (RawItem m = raw_first(messages); m.value.at; raw_next(&m), number++) {
        TRY(err_wrap(role_of(m.value, &role), "message %zu", number));
        TRY(score(r->out, begin, r->out->text.n + strlen(stop_token(role)))); /* the turn before, if it was one */
        begin = SIZE_MAX;
        TRY(err_wrap(render_message(r, m.value, number, role, before, &begin), "message %zu", number));
        before = role;
    }
    if (before == ASSISTANT && r->options->end_of_text) put(r, "<|endoftext|>");
    return score(r->out, begin, r->out->text.n);
}

static Err *count_messages(Render *r, Raw messages)
{
    if (!raw_is(messages, JSON_ARRAY))
        return err_new(ERR_DATA, "messages is %s; expected an array", raw_kind_name(messages));
    for (RawItem m = raw_first(messages); m.value.at; raw_next(&m)) {
        r->n_messages++;
        if (raw_equals(raw_find(m.value, "role"), "user")) r->last_user = r->n_messages;
    }
    return NULL;
}

static void render_prompt(Render *r)
{
    bool off = r->options->enable_thinking == CHAT_NO;
    put(r, "<|assistant|>");
    if (r->options->template == CHAT_GLM47) put(r, off ? "</think>" : "<think>");
    else put(r, off ? "\n<think></think>" : "");
}

static Err *choose_scored(Render *r)
{
    ChatText *out = r->out;
    if (r->options->train_on == CHAT_TRAIN_ALL) {
        out->n_scored = 0;
        return score(out, 0, out->text.n);
    }
    if (r->options->train_on == CHAT_TRAIN_LAST && out->n_scored > 1) {
        out->scored[0] = out->scored[out->n_scored - 1];
        out->n_scored = 1;
    }
    return NULL;
}

Err *chat_render(ChatText *out, const ChatOptions *options, Raw messages, Raw tools)
{
    Render r = {.out = out, .options = options, .nl = families[options->template].nl};
    text_clear(&out->text);
    out->n_scored = 0;
    put(&r, "[gMASK]<sop>");
    Err *err = count_messages(&r, messages);
    if (!err) err = render_tools(&r, tools);
    if (!err) err = render_messages(&r, messages);
    if (!err && options->add_generation_prompt) render_prompt(&r);
    if (!err) err = choose_scored(&r);
    if (!err) err = text_error(&out->text);
    text_free(&r.content);
    text_free(&r.reasoning);
    text_free(&r.held);
    return err;
}

void chat_text_free(ChatText *text)
{
    text_free(&text->text);
    free(text->scored);
    *text = (ChatText){0};
}
