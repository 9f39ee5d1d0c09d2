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
 * DeepSeek-V3:  <｜begin▁of▁sentence｜> every system message, then <｜User｜>text and <｜Assistant｜>text<｜end▁of▁sentence｜>
 *
 * Source: chat_template.jinja of zai-org/GLM-4.7-Flash (3,120 bytes) and of zai-org/GLM-4.5 (3,242 bytes); the
 * chat_template in tokenizer_config.json of deepseek-ai/DeepSeek-V3, whose part for tools is left out. */
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
    const char *sha256;       /* of the released file; NULL: its bytes are not known, so its words tell */
    const char *words[5];     /* all of them in the file ... */
    const char *not_words[2]; /* ... and none of these */
    const char *nl;
    const char *call_format;  /* the end of the tools block */
    const char *end;          /* the token that closes a document */
    bool opens_thinking;      /* a turn without thinking has an empty block, not a bare </think> */
    bool later;               /* as GLM-5.1: tools unwrapped, thinking as it is, media named */
} Family;

#define CALL_FORMAT                                                                                                  \
    "<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key><arg_value>{arg-value-1}</arg_value>"                    \
    "<arg_key>{arg-key-2}</arg_key><arg_value>{arg-value-2}</arg_value>...</tool_call>"
#define GLM_END "<|endoftext|>"
#define BEGIN_SENTENCE "<｜begin▁of▁sentence｜>"
#define END_SENTENCE "<｜end▁of▁sentence｜>"

static const Family families[CHAT_TEMPLATES] = {
    [CHAT_GLM47] = {.name = "glm47", .models = "GLM-4.7, GLM-4.7-Flash, GLM-5", .nl = "", .call_format = CALL_FORMAT, .end = GLM_END,
                    .sha256 = "d63ad536c3c81880043e22ec7fd08db42b4d8fb7c89c7138bc562bfa25281375"},
    [CHAT_GLM45] = {.name = "glm45", .models = "GLM-4.5, GLM-4.6", .nl = "\n", .end = GLM_END, .opens_thinking = true,
                    .sha256 = "44f815868bf02fa458dd2f741a338046f4bf45f398eb6d067766726b9d96cce3",
                    .call_format = "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>\n"
                                   "<arg_key>{arg-key-2}</arg_key>\n<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>"},
    [CHAT_GLM51] = {.name = "glm51", .models = "GLM-5.1", .nl = "", .call_format = CALL_FORMAT, .end = GLM_END, .later = true,
                    .words = {"[gMASK]<sop>", "<arg_key>", "defer_loading"}, .not_words = {"Reasoning Effort", "<|image|>"}},
    [CHAT_GLM52] = {.name = "glm52", .models = "GLM-5.2", .nl = "", .call_format = CALL_FORMAT, .end = GLM_END, .later = true, .opens_thinking = true,
                    .sha256 = "172dc74a35e1752df75ecfb2b2cf9326d2852bb1379868ebeec9571654489679"},
    [CHAT_DEEPSEEK_V3] = {.name = "deepseek_v3", .models = "DeepSeek-V3", .nl = "", .call_format = "", .end = END_SENTENCE,
                          .words = {"<｜User｜>", "<｜Assistant｜>", END_SENTENCE, "ns.system_prompt"}, .not_words = {"think"}},
};

/* ---- which template ---- */

const char *chat_template_name(ChatTemplate template) { return families[template].name; }

const char *chat_end_of_text(ChatTemplate template) { return families[template].end; }

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

static bool says(const Family *family, const Text *text)
{
    if (family->sha256) return false;
    for (size_t i = 0; i < sizeof family->words / sizeof *family->words && family->words[i]; i++)
        if (!strstr(text->data, family->words[i])) return false;
    for (size_t i = 0; i < sizeof family->not_words / sizeof *family->not_words && family->not_words[i]; i++)
        if (strstr(text->data, family->not_words[i])) return false;
    return true;
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
        if (families[i].sha256 ? strcmp(hex, families[i].sha256) != 0 : !says(&families[i], text)) continue;
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
    const Family *family;
    const char *nl;
    size_t n_messages, last_user; /* last_user counts from 1; 0: there is none */
    Text content, reasoning, held; /* of the message at hand */
} Render;

static void put(Render *r, const char *words) { text_put(&r->out->text, words); }

static Err *score(ChatText *out, size_t begin, size_t end)
{
    if (begin >= end) return NULL;
    ChatSpan *last = out->n_scored ? &out->scored[out->n_scored - 1] : NULL;
    if (last && begin <= last->end) { /* the role token that ends one turn begins the next */
        last->end = end;
        return NULL;
    }
    TRY(mem_grow(&out->scored, &out->scored_capacity, out->n_scored + 1, sizeof *out->scored));
    out->scored[out->n_scored++] = (ChatSpan){begin, end};
    return NULL;
}

static void null_content(const Render *r, Text *out) { text_put(out, r->options->null_as_none ? "None" : ""); }

/* The later templates tell the model what it cannot see. */
static void name_media(Text *out, Raw part)
{
    static const char *const media[][2] = {{"image", "image"}, {"image_url", "image"}, {"video", "video"}, {"video_url", "video"},
                                           {"audio", "audio"}, {"audio_url", "audio"}, {"input_audio", "audio"}};
    Raw type = raw_find(part, "type");
    for (size_t i = 0; i < sizeof media / sizeof *media; i++) {
        if (!raw_equals(type, media[i][0])) continue;
        text_put(out, "<reminder>You are unable to process this ");
        text_put(out, media[i][1]);
        text_put(out, " because you don't have multi-modal input ability. Try different methods.</reminder>");
    }
}

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
        if (r->family->later) name_media(out, part.value);
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

static bool is_true(Raw value) { return raw_is(value, JSON_BOOL) && *value.at == 't'; }

/* GLM-5.1's line of a tool: its function alone, without two keys; a tool to be loaded later has none. */
static Err *render_function(Render *r, Raw tool)
{
    Raw function = raw_find(tool, "function");
    if (!raw_is(function, JSON_OBJECT)) function = tool;
    if (!raw_is(function, JSON_OBJECT)) return err_new(ERR_DATA, "a tool is %s; expected an object", raw_kind_name(function));
    if (is_true(raw_find(tool, "defer_loading")) || is_true(raw_find(function, "defer_loading"))) return NULL;
    const char *comma = "";
    put(r, "{");
    for (RawItem item = raw_first(function); item.value.at; raw_next(&item)) {
        if (raw_equals(item.key, "defer_loading") || raw_equals(item.key, "strict")) continue;
        put(r, comma);
        comma = ", ";
        TRY(raw_python(&r->out->text, item.key));
        put(r, ": ");
        TRY(raw_python(&r->out->text, item.value));
    }
    put(r, "}\n");
    return NULL;
}

static Err *render_tools(Render *r, Raw tools)
{
    if (!tools.at || raw_kind(tools) == JSON_NULL) return NULL;
    TRY(unwrap(&tools, JSON_ARRAY, "tools", &r->held));
    RawItem tool = raw_first(tools);
    if (!tool.value.at) return NULL;
    if (r->options->template == CHAT_DEEPSEEK_V3) return err_new(ERR_DATA, "the deepseek_v3 template is known without tools only");
    put(r, "<|system|>\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
           "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n");
    for (; tool.value.at; raw_next(&tool)) {
        if (r->family->later) {
            TRY(err_wrap(render_function(r, tool.value), "tools"));
            continue;
        }
        TRY(err_wrap(raw_python(&r->out->text, tool.value), "tools"));
        put(r, "\n");
    }
    put(r, "</tools>\n\nFor each function call, "
           "output the function name and arguments within the following XML format:\n");
    put(r, r->family->call_format);
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

static void render_tool_result(Render *r, const Text *result)
{
    put(r, r->nl);
    put(r, "<tool_response>");
    put(r, r->nl);
    text_add(&r->out->text, result->data, result->n);
    put(r, r->nl);
    put(r, "</tool_response>");
}

static void render_result_string(Render *r, Raw string)
{
    text_clear(&r->content);
    raw_string(&r->content, string);
    render_tool_result(r, &r->content);
}

/* A list of GLM-5.1 and later that is no list of outputs is text like any other. */
static bool is_visible_list(const Render *r, Raw content)
{
    if (!r->family->later || !raw_is(content, JSON_ARRAY)) return false;
    for (RawItem item = raw_first(content); item.value.at; raw_next(&item))
        if (raw_find(item.value, "output").at) return false;
    return true;
}

static Err *render_tool(Render *r, Raw message, bool run_goes_on)
{
    Raw content = raw_find(message, "content");
    if (content.at && raw_kind(content) != JSON_STRING && raw_kind(content) != JSON_ARRAY)
        return err_new(ERR_DATA, "content is %s; expected a string or a list", raw_kind_name(content));
    bool visible_list = is_visible_list(r, content);
    if ((!visible_list && !raw_is(content, JSON_STRING)) || !run_goes_on) put(r, "<|observation|>");
    if (raw_is(content, JSON_STRING)) render_result_string(r, content);
    for (RawItem item = raw_first(content); item.value.at; raw_next(&item)) {
        if (raw_equals(raw_find(item.value, "type"), "tool_reference"))
            return err_new(ERR_DATA, "a tool_reference in a tool's content is not supported");
        if (visible_list) continue;
        Raw output = raw_kind(item.value) == JSON_STRING ? item.value : raw_find(item.value, "output");
        if (!raw_is(output, JSON_STRING)) /* the templates would print Python's view of it */
            return err_new(ERR_DATA, "a part of a tool's content is no string and has no output that is one");
        render_result_string(r, output);
    }
    if (!visible_list) return NULL;
    text_clear(&r->content);
    TRY(visible(r, &r->content, content));
    render_tool_result(r, &r->content);
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
    bool trim = !r->family->later;
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

/* What of a message is scored, in bytes of the rendering. */
typedef struct {
    size_t whole;               /* where the message begins */
    size_t begin;               /* where the model's own words begin; SIZE_MAX: there are none */
    size_t held_from, held_to;  /* thinking that is context */
} Turn;

/* A later template shows thinking that is there at all, an earlier one thinking that is not empty. */
static bool thinking_is_given(const Render *r, Raw message, size_t n_thinking, bool inside)
{
    return n_thinking || (r->family->later && (inside || raw_is(raw_find(message, "reasoning_content"), JSON_STRING)));
}

static Err *render_calls(Render *r, Raw message)
{
    Raw calls = raw_find(message, "tool_calls");
    if (calls.at && raw_kind(calls) != JSON_ARRAY && raw_kind(calls) != JSON_NULL)
        return err_new(ERR_DATA, "tool_calls is %s; expected an array", raw_kind_name(calls));
    for (RawItem call = raw_first(calls); call.value.at; raw_next(&call))
        TRY(err_wrap(render_call(r, call.value), "tool_calls"));
    return NULL;
}

static Err *render_assistant(Render *r, Raw message, size_t number, Turn *turn)
{
    const char *thinking, *content;
    size_t n_thinking, n_content;
    bool glm45 = r->options->template == CHAT_GLM45;
    TRY(split_thinking(r, message, &thinking, &n_thinking, &content, &n_content));
    bool kept = number > r->last_user || (!glm45 && r->options->clear_thinking == CHAT_NO);
    bool given = thinking_is_given(r, message, n_thinking, content != r->content.data), shown = kept && given;
    if (!r->family->later) unicode_strip(&thinking, &n_thinking);
    unicode_strip(&content, &n_content);
    put(r, "<|assistant|>");
    put(r, r->nl);
    if (shown || r->family->opens_thinking) put(r, "<think>");
    turn->begin = turn->held_from = r->out->text.n;
    if (shown) text_add(&r->out->text, thinking, n_thinking);
    put(r, "</think>");
    turn->held_to = r->options->train_on_reasoning == CHAT_NO && shown ? r->out->text.n : turn->held_from;
    if (!shown || !n_thinking || r->options->train_on_reasoning == CHAT_NO) turn->begin = r->out->text.n;
    if (given && n_thinking && !shown) turn->begin = SIZE_MAX; /* not written in this context */
    if (n_content) put(r, r->nl);
    text_add(&r->out->text, content, n_content);
    return render_calls(r, message);
}

static Err *is_weighed_out(Raw message, bool *yes)
{
    Raw weight = raw_find(message, "weight");
    *yes = false;
    if (!weight.at || raw_kind(weight) == JSON_NULL) return NULL;
    if (weight.bytes != 1 || (*weight.at != '0' && *weight.at != '1'))
        return err_new(ERR_DATA, "weight is %.*s; expected 0 or 1", weight.bytes < 20 ? (int)weight.bytes : 20,
                       weight.at);
    *yes = *weight.at == '0';
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

/* ---- DeepSeek-V3 ---- */

static Err *refuse_for_deepseek(Raw message, Role role)
{
    static const char *const keys[] = {"tool_calls", "reasoning_content"};
    if (role == TOOL) return err_new(ERR_DATA, "the deepseek_v3 template is known without tools only");
    for (size_t i = 0; i < 2; i++) {
        Raw value = raw_find(message, keys[i]);
        if (value.at && raw_kind(value) != JSON_NULL && value.bytes > 2)
            return err_new(ERR_DATA, "the deepseek_v3 template has no place for %s", keys[i]);
    }
    return NULL;
}

/* All system messages stand at the start, two newlines between them. */
static Err *render_deepseek_system(Render *r, Raw messages)
{
    bool first = true;
    for (RawItem m = raw_first(messages); m.value.at; raw_next(&m)) {
        if (!raw_equals(raw_find(m.value, "role"), "system")) continue;
        if (!first) put(r, "\n\n");
        first = false;
        TRY(visible(r, &r->out->text, raw_find(m.value, "content")));
    }
    return NULL;
}

static Err *render_deepseek(Render *r, Raw message, Role role, Turn *turn)
{
    TRY(refuse_for_deepseek(message, role));
    if (role == SYSTEM) return NULL;
    put(r, role == USER ? "<｜User｜>" : "<｜Assistant｜>");
    size_t begin = r->out->text.n;
    TRY(visible(r, &r->out->text, raw_find(message, "content")));
    if (role == USER) return NULL;
    put(r, END_SENTENCE);
    turn->begin = turn->held_from = turn->held_to = begin;
    return NULL;
}

/* ---- the conversation ---- */

static Err *render_message(Render *r, Raw message, size_t number, Role role, Role before, Turn *turn)
{
    text_clear(&r->content);
    text_clear(&r->reasoning);
    if (r->options->template == CHAT_DEEPSEEK_V3) return render_deepseek(r, message, role, turn);
    switch (role) {
    case USER: return render_user(r, message);
    case ASSISTANT: return render_assistant(r, message, number, turn);
    case TOOL: return render_tool(r, message, before == TOOL);
    default:
        put(r, "<|system|>");
        put(r, r->nl);
        return visible(r, &r->out->text, raw_find(message, "content"));
    }
}

/* The role token with which the next message begins ends the turn before it, and is scored with it. */
static size_t stop_bytes(const Render *r, Role next)
{
    if (r->options->template == CHAT_DEEPSEEK_V3) return 0;
    return strlen(next == USER ? "<|user|>" : next == TOOL ? "<|observation|>" : "");
}

static Err *note_turn(Render *r, Role role, Role before)
{
    ChatText *out = r->out;
    if (role == SYSTEM && !out->n_turns) return NULL; /* part of the head */
    if (role == TOOL && before == TOOL) return NULL;
    if (role == SYSTEM && r->options->template == CHAT_DEEPSEEK_V3) return NULL;
    if (!out->n_turns) out->head = out->text.n;
    TRY(mem_grow(&out->turns, &out->turn_capacity, out->n_turns + 1, sizeof *out->turns));
    out->turns[out->n_turns++] = (ChatTurn){out->text.n, role == USER};
    return NULL;
}

/* `stop`: bytes of the role token that follows. */
static Err *score_turn(Render *r, const Turn *turn, bool scored, size_t end, size_t stop)
{
    if (!scored) return NULL;
    if (r->options->train_on != CHAT_TRAIN_ALL) return score(r->out, turn->begin, end + (turn->begin == SIZE_MAX ? 0 : stop));
    TRY(score(r->out, turn->whole, turn->held_to > turn->held_from ? turn->held_from : end + stop));
    return turn->held_to > turn->held_from ? score(r->out, turn->held_to, end + stop) : NULL;
}

static Err *render_messages(Render *r, Raw messages)
{
    Role role, before = NOBODY;
    bool all = r->options->train_on == CHAT_TRAIN_ALL, scored = all, out;
    Turn turn = {.begin = SIZE_MAX}; /* in front of the first message */
    size_t number = 1;
    for (RawItem m = raw_first(messages); m.value.at; raw_next(&m), number++, before = role) {
        TRY(err_wrap(role_of(m.value, &role), "message %zu", number));
        TRY(score_turn(r, &turn, scored, r->out->text.n, stop_bytes(r, role)));
        TRY(note_turn(r, role, before));
        turn = (Turn){.whole = r->out->text.n, .begin = SIZE_MAX};
        TRY(err_wrap(is_weighed_out(m.value, &out), "message %zu", number));
        TRY(err_wrap(render_message(r, m.value, number, role, before, &turn), "message %zu", number));
        scored = !out && (all ? role != TOOL : number > r->options->context_messages);
    }
    if (before == ASSISTANT && r->options->end_of_text && r->options->template != CHAT_DEEPSEEK_V3) put(r, GLM_END);
    return score_turn(r, &turn, scored, r->out->text.n, 0);
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
    if (r->options->template == CHAT_DEEPSEEK_V3) {
        put(r, "<｜Assistant｜>");
        return;
    }
    put(r, "<|assistant|>");
    if (r->options->template == CHAT_GLM45) put(r, off ? "\n<think></think>" : "");
    else put(r, !off ? "<think>" : r->family->opens_thinking ? "<think></think>" : "</think>");
}

static void choose_scored(Render *r)
{
    ChatText *out = r->out;
    if (r->options->train_on == CHAT_TRAIN_LAST && out->n_scored > 1) {
        out->scored[0] = out->scored[out->n_scored - 1];
        out->n_scored = 1;
    }
}

static Err *render_head(Render *r, Raw messages, Raw tools)
{
    put(r, r->options->template == CHAT_DEEPSEEK_V3 ? BEGIN_SENTENCE : "[gMASK]<sop>");
    if (r->options->template == CHAT_GLM52 && r->options->enable_thinking != CHAT_NO)
        put(r, r->options->effort_high ? "<|system|>Reasoning Effort: High" : "<|system|>Reasoning Effort: Max");
    TRY(render_tools(r, tools));
    return r->options->template == CHAT_DEEPSEEK_V3 ? render_deepseek_system(r, messages) : NULL;
}

Err *chat_render(ChatText *out, const ChatOptions *options, Raw messages, Raw tools)
{
    Render r = {.out = out, .options = options, .family = &families[options->template]};
    r.nl = r.family->nl;
    text_clear(&out->text);
    out->n_scored = out->n_turns = out->head = 0;
    Err *err = count_messages(&r, messages);
    if (!err) err = render_head(&r, messages, tools);
    if (!err) err = render_messages(&r, messages);
    if (!err && options->add_generation_prompt) render_prompt(&r);
    if (!err) choose_scored(&r);
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
    free(text->turns);
    *text = (ChatText){0};
}
