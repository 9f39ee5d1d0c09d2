/* graft chat --model DIR [--adapter DIR,...]: talk with the base and its adapters. */
#include "base/log.h"
#include "base/memory.h"
#include "cli/line.h"
#include "cli/sampling.h"
#include "cli/verbs.h"
#include "data/chat.h"
#include "data/reader.h"
#include "infer/adapters.h"
#include "infer/answer.h"
#include "infer/generate.h"
#include "tensor/matmul.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    bool help, hide_thinking;
    char *model, *system, *tools, *chat_template;
    TextList adapter, stop;
    int64_t context;
    SamplingSettings sampling;
} ChatSettings;

#define AT(field) offsetof(ChatSettings, field)

static const Option chat_table[] = {
    {"model", OPT_TEXT, AT(model), .help = "a Hugging Face directory"},
    {"adapter", OPT_LIST, AT(adapter), .help = "PEFT directories or runs, with commas; the talk begins with the first"},
    {"system", OPT_TEXT, AT(system), .help = "a system message"},
    {"tools", OPT_TEXT, AT(tools), .help = "a JSON file with a list of function descriptions; calls are printed, and you type their results"},
    {"hide_thinking", OPT_FLAG, AT(hide_thinking), .help = "do not show the thoughts of --thinking"},
    {"context", OPT_INT, AT(context), .preset = "8192", .min = 16, .max = 1e7, .help = "tokens that the talk may have, at most the model's positions"},
    {"chat_template", OPT_TEXT, AT(chat_template), .help = "overrides the one that the model directory ships"},
    {.help = "Sampling; what the model's generation_config.json says goes before these defaults"},
    SAMPLING_OPTIONS(ChatSettings, sampling),
    {"stop", OPT_LIST, AT(stop), .help = "texts that end an answer, with commas"},
    {"help", OPT_FLAG, AT(help), .help = "this list"},
    {0}};

static const char commands[] = "  /adapter            which there are; /adapter NUMBER or PATH takes one, /adapter 0 the base\n"
                               "  /system TEXT        a system message from here on; without a text: none\n"
                               "  /thinking on|off    let the model think first; /thinking show|hide its thoughts\n"
                               "  /seed NUMBER        of the next answer\n"
                               "  /again              answer the last message anew\n"
                               "  /reset              forget the talk\n"
                               "  /quit               or Ctrl-D; Ctrl-C stops an answer\n";

typedef struct {
    ChatSettings settings;
    Model *model;
    Tokenizer *tokenizer;
    Encoder *encoder;
    ChatTemplate template;
    size_t n_adapters, adapters_capacity, chosen; /* chosen 0: the base; i: adapters[i - 1] */
    struct Loaded {
        char *path;
        Adapter *adapter;
    } *adapters;
    Text tools;
    Json *messages;
    char *system;
    Session session;
    uint64_t answers; /* keys the seeds */
    Answer answer;    /* at work */
    size_t printed;   /* bytes of it that were looked at */
    bool terminal, dim;
    Err *err;
} Chat;

/* ---- showing an answer as it comes ---------------------------------------------------------------------------- */

static void set_dim(Chat *c, bool dim)
{
    if (c->terminal && dim != c->dim) fputs(dim ? "\033[2m" : "\033[0m", stdout);
    c->dim = dim;
}

static void print_bytes(Chat *c, size_t begin, size_t end, bool dim)
{
    if (begin < c->printed) begin = c->printed;
    if (end > c->answer.shown) end = c->answer.shown;
    if (begin >= end) return;
    set_dim(c, dim);
    fwrite(c->answer.text.data + begin, 1, end - begin, stdout);
}

static void show(Chat *c)
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
    Chat *c = context;
    size_t from;
    c->err = answer_put(&c->answer, token, &from);
    if (!c->err && c->answer.shown > from) show(c);
    return !c->err && !c->answer.stopped && !line_interrupted();
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
        for (const Json *a = json_first(arguments); a; a = json_next(a)) printf("%s%s: %s", a == json_first(arguments) ? "" : ", ", json_key(a), json_string(a));
        printf(")\n");
    }
}

/* ---- messages ------------------------------------------------------------------------------------------------- */

static void add_message(Chat *c, const char *role, const char *content)
{
    Json *message = json_new_object();
    json_add_string(message, "role", role);
    json_add_string(message, "content", content);
    json_add(c->messages, NULL, message);
}

static void add_stretch(Json *object, const char *key, const Text *text, size_t begin, size_t end)
{
    char *copy;
    Err *err = mem_copy_bytes(&copy, text->data + begin, end - begin);
    if (!err) json_add_string(object, key, copy);
    if (!err) free(copy);
    err_free(err);
}

/* What the answer said becomes part of the talk; returns its calls. */
static Json *keep_answer(Chat *c)
{
    AnswerParts p = answer_parts(&c->answer.text, c->settings.sampling.thinking);
    Json *message = json_new_object(), *calls = answer_calls(c->answer.text.data + p.calls);
    json_add_string(message, "role", "assistant");
    if (p.thought_end > p.thought) add_stretch(message, "reasoning_content", &c->answer.text, p.thought, p.thought_end);
    add_stretch(message, "content", &c->answer.text, p.content, p.content_end);
    if (json_count(calls)) json_add(message, "tool_calls", json_duplicate(calls));
    json_add(c->messages, NULL, message);
    return calls;
}

/* All messages but the last `n`. */
static void forget_last(Chat *c, size_t n)
{
    Json *kept = json_new_array();
    size_t count = json_count(c->messages), i = 0;
    for (const Json *m = json_first(c->messages); m && i + n < count; m = json_next(m), i++) json_add(kept, NULL, json_duplicate(m));
    json_free(c->messages);
    c->messages = kept;
}

static Err *render_text(Chat *c, ChatText *chat, const char *json)
{
    ChatOptions options = {.template = c->template, .add_generation_prompt = true, .enable_thinking = c->settings.sampling.thinking ? CHAT_YES : CHAT_NO};
    Raw messages, tools = {0};
    TRY(raw_open(&messages, json, strlen(json)));
    if (c->tools.n) TRY(raw_open(&tools, c->tools.data, c->tools.n));
    return chat_render(chat, &options, messages, tools);
}

static Err *render(Chat *c, Tokens *tokens)
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

static Err *write_answer(Chat *c, const int32_t *ids, size_t n)
{
    const ChatSettings *s = &c->settings;
    const ModelConfig *config = &c->model->config;
    int32_t stop[MAX_EOS];
    Generated made = {0};
    size_t from, room = c->session.capacity - n;
    for (int64_t i = 0; i < config->n_eos; i++) stop[i] = (int32_t)config->eos_token_id[i];
    Generation g = {.prompt = ids, .n_prompt = n, .stop = stop, .n_stop = (size_t)config->n_eos, .sampling = sampling_of(&s->sampling),
                    .on_token = on_token, .context = c};
    g.max_new_tokens = (size_t)s->sampling.max_new_tokens < room ? (size_t)s->sampling.max_new_tokens : room;
    g.sampling.seed += c->answers++;
    answer_free(&c->answer);
    answer_open(&c->answer, c->tokenizer, s->stop.count, s->stop.items);
    c->printed = 0;
    line_forget();
    const Adapter *adapter = c->chosen ? c->adapters[c->chosen - 1].adapter : NULL;
    Err *err = generate_in(&c->session, c->model, adapter, &g, &made);
    if (!err) err = c->err;
    c->err = NULL;
    if (!err) err = answer_end(&c->answer, &from);
    if (!err) show(c);
    set_dim(c, false);
    printf("%s\n", line_interrupted() ? " (stopped)" : !err && !made.stopped ? " (cut at max_new_tokens)" : "");
    generated_free(1, &made);
    return err;
}

static Err *answer_messages(Chat *c)
{
    Tokens tokens = {0};
    int32_t *ids = NULL;
    Err *err = render(c, &tokens);
    if (!err && tokens.n >= c->session.capacity)
        err = err_new(ERR_DATA, "the talk has %zu tokens; the context holds %zu (/reset forgets it, --context gives more)", tokens.n, c->session.capacity);
    if (!err) err = mem_new(&ids, tokens.n, sizeof *ids);
    for (size_t i = 0; i < tokens.n && !err; i++) ids[i] = tokens.items[i].id;
    if (!err) err = write_answer(c, ids, tokens.n);
    free(ids);
    tokens_free(&tokens);
    return err;
}

/* Answer, and as long as the answer calls tools, ask for their results and answer again. */
static Err *reply(Chat *c)
{
    for (;;) {
        TRY(answer_messages(c));
        Json *calls = keep_answer(c);
        print_calls(calls);
        bool more = json_count(calls) > 0;
        for (const Json *call = json_first(calls); call && more; call = json_next(call)) {
            char prompt[160], *result;
            snprintf(prompt, sizeof prompt, "result of %.100s> ", call_name(call));
            result = line_read(prompt);
            more = result != NULL;
            if (more) add_message(c, "tool", result);
            free(result);
        }
        json_free(calls);
        if (!more) return NULL;
    }
}

/* ---- commands ------------------------------------------------------------------------------------------------- */

static Err *load_adapter(Chat *c, const char *path)
{
    TRY(mem_grow(&c->adapters, &c->adapters_capacity, c->n_adapters + 1, sizeof *c->adapters));
    struct Loaded *to = &c->adapters[c->n_adapters];
    TRY(adapter_open(&to->adapter, c->model, path));
    c->n_adapters++;
    return mem_copy_text(&to->path, path);
}

static const char *adapter_name(const Chat *c, size_t i) { return i ? c->adapters[i - 1].path : "the base"; }

static Err *choose_adapter(Chat *c, const char *which)
{
    char *end;
    size_t i = (size_t)strtoul(which, &end, 10);
    if (!*which) {
        for (i = 0; i <= c->n_adapters; i++) printf("%s %zu  %s\n", i == c->chosen ? "*" : " ", i, adapter_name(c, i));
        return NULL;
    }
    if (strcmp(which, "base") == 0) i = 0;
    else if (*end) {
        for (i = 1; i <= c->n_adapters && strcmp(c->adapters[i - 1].path, which) != 0;) i++;
        if (i > c->n_adapters) TRY(load_adapter(c, which));
    }
    if (i > c->n_adapters) return err_new(ERR_USAGE, "there are adapters 1 to %zu, and 0, the base", c->n_adapters);
    if (i != c->chosen) c->session.seen = 0; /* the cache is of the other one */
    c->chosen = i;
    printf("(%s)\n", adapter_name(c, i));
    return NULL;
}

static Err *set_thinking(Chat *c, const char *word)
{
    if (strcmp(word, "on") == 0 || strcmp(word, "off") == 0) c->settings.sampling.thinking = strcmp(word, "on") == 0;
    else if (strcmp(word, "show") == 0 || strcmp(word, "hide") == 0) c->settings.hide_thinking = strcmp(word, "hide") == 0;
    else return err_new(ERR_USAGE, "/thinking on, off, show or hide");
    return NULL;
}

static Err *set_system(Chat *c, const char *text)
{
    free(c->system);
    c->system = NULL;
    return *text ? mem_copy_text(&c->system, text) : NULL;
}

static bool last_is(const Chat *c, const char *role)
{
    const Json *last = NULL;
    for (const Json *m = json_first(c->messages); m; m = json_next(m)) last = m;
    return last && strcmp(json_string(json_find(last, "role")), role) == 0;
}

static Err *again(Chat *c)
{
    while (json_count(c->messages) && !last_is(c, "user")) forget_last(c, 1);
    return json_count(c->messages) ? reply(c) : err_new(ERR_USAGE, "there is nothing to answer yet");
}

static Err *command(Chat *c, const char *line, bool *quit)
{
    size_t n = strcspn(line, " ");
    const char *rest = line + n + strspn(line + n, " ");
    char word[24];
    snprintf(word, sizeof word, "%.*s", (int)(n < 23 ? n : 23), line);
    if (strcmp(word, "/quit") == 0) *quit = true;
    else if (strcmp(word, "/help") == 0) fputs(commands, stdout);
    else if (strcmp(word, "/adapter") == 0) return choose_adapter(c, rest);
    else if (strcmp(word, "/system") == 0) return set_system(c, rest);
    else if (strcmp(word, "/thinking") == 0) return set_thinking(c, rest);
    else if (strcmp(word, "/again") == 0) return again(c);
    else if (strcmp(word, "/reset") == 0) forget_last(c, json_count(c->messages));
    else if (strcmp(word, "/seed") == 0) {
        c->settings.sampling.seed = (int64_t)strtoll(rest, NULL, 10);
        c->answers = 0;
    } else return err_new(ERR_USAGE, "there is no %s; /help lists what there is", word);
    return NULL;
}

/* What a person can mend is told, and the talk goes on. */
static Err *tell(Err *err)
{
    if (!err || (err_kind(err) != ERR_USAGE && err_kind(err) != ERR_DATA && err_kind(err) != ERR_FORMAT && err_kind(err) != ERR_IO)) return err;
    printf("(%s)\n", err_message(err));
    err_free(err);
    return NULL;
}

static Err *say(Chat *c, const char *line)
{
    size_t before = json_count(c->messages);
    add_message(c, "user", line);
    Err *err = reply(c);
    if (err) forget_last(c, json_count(c->messages) - before);
    return err;
}

static Err *talk(Chat *c)
{
    char *line;
    bool quit = false;
    while (!quit && (line = line_read("> "))) {
        Err *err = *line == '/' ? command(c, line, &quit) : *line ? say(c, line) : NULL;
        free(line);
        TRY(tell(err));
    }
    return NULL;
}

/* ---- all ------------------------------------------------------------------------------------------------------ */

static Err *open_parts(Chat *c)
{
    const ChatSettings *s = &c->settings;
    char path[PATH_BYTES];
    if (!s->model) return err_new(ERR_USAGE, "--model is missing");
    matmul_init(NULL);
    TRY(model_open(&c->model, s->model));
    for (size_t i = 0; i < s->adapter.count; i++) TRY(load_adapter(c, s->adapter.items[i]));
    c->chosen = c->n_adapters ? 1 : 0;
    TRY(file_join(path, s->model, "tokenizer.json"));
    TRY(tokenizer_open(&c->tokenizer, path));
    TRY(encoder_new(&c->encoder, c->tokenizer));
    TRY(template_recognise(&c->template, s->model, s->chat_template));
    if (s->tools) TRY(reader_whole(&c->tools, s->tools));
    if (s->system) TRY(mem_copy_text(&c->system, s->system));
    c->messages = json_new_array();
    c->terminal = isatty(STDOUT_FILENO);
    int64_t positions = c->model->config.max_position_embeddings, context = s->context < positions ? s->context : positions;
    TRY(session_open(&c->session, c->model, (size_t)context, true));
    log_line("%s, %s; %lld tokens of context in %.0f MiB; /help", s->model, adapter_name(c, c->chosen), (long long)context,
             (double)cache_bytes(c->model, 1, (size_t)context) / 1048576);
    return NULL;
}

static Err *chat(Chat *c, int argc, char **argv)
{
    TRY(sampling_arguments(&c->settings, chat_table, argc, argv, AT(model)));
    if (c->settings.help) {
        printf("graft chat --model DIR [--adapter DIR,...]\n");
        options_help(stdout, chat_table);
        printf("\nIn the talk:\n%s", commands);
        return NULL;
    }
    TRY(open_parts(c));
    line_open();
    return talk(c);
}

int verb_chat(int argc, char **argv)
{
    Chat c = {0};
    Err *err = chat(&c, argc, argv);
    session_close(&c.session);
    answer_free(&c.answer);
    json_free(c.messages);
    free(c.system);
    text_free(&c.tools);
    for (size_t i = 0; i < c.n_adapters; i++) {
        adapter_free(c.adapters[i].adapter);
        free(c.adapters[i].path);
    }
    free(c.adapters);
    encoder_free(c.encoder);
    tokenizer_close(c.tokenizer);
    model_close(c.model);
    options_free(&c.settings, chat_table);
    return err_report("chat", err);
}
