/* graft chat --model DIR [--adapter PATH,...]: a conversation with the base or one of its adapters. This file has the
 * options and the commands; cli/chat_session.c renders the messages and prints the answers. */
#include "base/log.h"
#include "base/memory.h"
#include "cli/line_editor.h"
#include "cli/chat_session.h"
#include "cli/verbs.h"
#include "data/text/lines.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AT(field) offsetof(ChatSettings, field)

static const Option chat_table[] = {
    CANDIDATE_OPTIONS(AT(candidate),
                      "PEFT directories, checkpoints or runs, separated by commas; the first one answers"),
    {"system", OPT_TEXT, AT(system), .help = "a system message"},
    {"tools", OPT_TEXT, AT(tools),
     .help = "a JSON file with a list of function descriptions; calls are printed, and you type their results"},
    {"hide_thinking", OPT_FLAG, AT(hide_thinking), .help = "do not print the thoughts of --thinking"},
    {"context", OPT_INT, AT(context), .preset = "8192", .min = 16, .max = 1e7,
     .help = "tokens of the conversation, at most the positions of the model"},
    {"chat_template", OPT_TEXT, AT(chat_template), .help = "overrides the one that the model directory ships"},
    {.help = "Sampling; the model's generation_config.json overrides these defaults"},
    SAMPLING_OPTIONS(ChatSettings, sampling),
    {"stop", OPT_LIST, AT(stop), .help = "strings that end an answer, separated by commas"},
    {.help = "Work"},
    CANDIDATE_WORK_OPTIONS(AT(candidate)),
    {"help", OPT_FLAG, AT(help), .help = "print this list"},
    {0}};

static const char commands[] =
    "  /adapter            list the adapters; /adapter NUMBER or PATH selects one, /adapter 0 the base\n"
    "  /system TEXT        set the system message; without a text: remove it\n"
    "  /thinking on|off    let the model think first; /thinking show|hide prints its thoughts or not\n"
    "  /seed NUMBER        set the seed of the next answer\n"
    "  /again              answer the last message once more\n"
    "  /reset              forget the conversation\n"
    "  /quit               end, as Ctrl-D does; Ctrl-C stops an answer\n";

/* ---- commands ------------------------------------------------------------------------------------------------- */

static Err *choose_adapter(ChatSession *c, const char *which)
{
    char *end;
    size_t i = (size_t)strtoul(which, &end, 10), n = c->candidate.n;
    if (!*which) {
        for (i = 0; i <= n; i++)
            printf("%s %zu  %s\n", i == c->chosen ? "*" : " ", i, candidate_name(&c->candidate, i));
        return NULL;
    }
    if (strcmp(which, "base") == 0)
        i = 0;
    else if (*end) {
        for (i = 1; i <= n && strcmp(candidate_name(&c->candidate, i), which) != 0;) i++;
        if (i > n) TRY(candidate_add(&c->candidate, which));
    }
    if (i > c->candidate.n)
        return err_new(ERR_USAGE,
                       n ? "there is no adapter %s: 1 to %zu, or 0, the base"
                         : "there is no adapter %s; /adapter PATH opens one",
                       which, n);
    if (i != c->chosen) c->session.seen = 0; /* the cache belongs to the other one */
    c->chosen = i;
    printf("(%s)\n", candidate_name(&c->candidate, i));
    return NULL;
}

static Err *set_thinking(ChatSession *c, const char *word)
{
    if (strcmp(word, "on") == 0 || strcmp(word, "off") == 0)
        c->settings.sampling.thinking = strcmp(word, "on") == 0;
    else if (strcmp(word, "show") == 0 || strcmp(word, "hide") == 0)
        c->settings.hide_thinking = strcmp(word, "hide") == 0;
    else
        return err_new(ERR_USAGE, "/thinking on, off, show or hide");
    return NULL;
}

static Err *set_seed(ChatSession *c, const char *text)
{
    char *end;
    long long seed = strtoll(text, &end, 10);
    if (end == text || *end || seed < 0) return err_new(ERR_USAGE, "/seed NUMBER, not %s", *text ? text : "nothing");
    c->settings.sampling.seed = seed;
    c->answers = 0;
    return NULL;
}

static Err *set_system(ChatSession *c, const char *text)
{
    free(c->system);
    c->system = NULL;
    return *text ? mem_copy_text(&c->system, text) : NULL;
}

static bool last_is(const ChatSession *c, const char *role)
{
    const Json *last = NULL;
    for (const Json *m = json_first(c->messages); m; m = json_next(m)) last = m;
    return last && strcmp(json_string(json_find(last, "role")), role) == 0;
}

static Err *again(ChatSession *c)
{
    while (json_count(c->messages) && !last_is(c, "user")) chat_session_forget(c, 1);
    return json_count(c->messages) ? chat_session_reply(c) : err_new(ERR_USAGE, "there is nothing to answer yet");
}

static Err *command(ChatSession *c, const char *line, bool *quit)
{
    size_t n = strcspn(line, " ");
    const char *rest = line + n + strspn(line + n, " ");
    char word[24];
    snprintf(word, sizeof word, "%.*s", (int)(n < 23 ? n : 23), line);
    if (strcmp(word, "/quit") == 0)
        *quit = true;
    else if (strcmp(word, "/help") == 0)
        fputs(commands, stdout);
    else if (strcmp(word, "/adapter") == 0)
        return choose_adapter(c, rest);
    else if (strcmp(word, "/system") == 0)
        return set_system(c, rest);
    else if (strcmp(word, "/thinking") == 0)
        return set_thinking(c, rest);
    else if (strcmp(word, "/again") == 0)
        return again(c);
    else if (strcmp(word, "/reset") == 0)
        chat_session_forget(c, json_count(c->messages));
    else if (strcmp(word, "/seed") == 0)
        return set_seed(c, rest);
    else
        return err_new(ERR_USAGE, "there is no %s; /help lists what there is", word);
    return NULL;
}

/* Print an error that the user can correct; the conversation continues. Returns other errors. */
static Err *report_mistake(Err *err)
{
    if (!err || (err_kind(err) != ERR_USAGE && err_kind(err) != ERR_DATA && err_kind(err) != ERR_FORMAT &&
                 err_kind(err) != ERR_IO))
        return err;
    printf("(%s)\n", err_message(err));
    err_free(err);
    return NULL;
}

static Err *send_message(ChatSession *c, const char *line)
{
    size_t before = json_count(c->messages);
    chat_session_add(c, "user", line);
    Err *err = chat_session_reply(c);
    if (err) chat_session_forget(c, json_count(c->messages) - before);
    return err;
}

static Err *converse(ChatSession *c)
{
    char *line;
    bool quit = false;
    while (!quit && !ferror(stdout) && (line = line_editor_read("> "))) {
        Err *err = *line == '/' ? command(c, line, &quit) : *line ? send_message(c, line) : NULL;
        free(line);
        TRY(report_mistake(err));
    }
    return NULL;
}

/* ---- open and close ------------------------------------------------------------------------------------------- */

static Err *open_session(ChatSession *c)
{
    ChatSettings *s = &c->settings;
    int64_t positions = c->candidate.model->config.max_position_embeddings, group = 0;
    size_t context = (size_t)(s->context < positions ? s->context : positions),
           bytes = cache_bytes(c->candidate.model, 1, context);
    TRY(candidate_fit(&c->candidate, &s->candidate, &(CandidateWork){context, context, bytes}, &group));
    TRY(candidate_add_all(&c->candidate, &s->candidate));
    c->chosen = c->candidate.n ? 1 : 0;
    TRY(session_open(&c->session, c->candidate.model, context, true));
    log_line("%s, %s; %zu tokens of context in %.0f MiB; /help lists the commands", s->candidate.model,
             candidate_name(&c->candidate, c->chosen), context, (double)bytes / 1048576);
    return NULL;
}

static Err *read_tools(ChatSession *c)
{
    const char *path = c->settings.tools;
    JsonView tools;
    TRY(lines_read_file(&c->tools, path));
    TRY(err_wrap(view_open(&tools, c->tools.data, c->tools.n), "tools: %s", path));
    return view_is(tools, JSON_ARRAY)
               ? NULL
               : err_new(
                     ERR_DATA,
                     "tools: %s is no list of function descriptions: [{\"type\": \"function\", \"function\": {...}}]",
                     path);
}

static Err *open_parts(ChatSession *c)
{
    const ChatSettings *s = &c->settings;
    TRY(candidate_open(&c->candidate, &s->candidate));
    TRY(encoder_new(&c->encoder, c->candidate.tokenizer));
    TRY(template_recognise(&c->template, s->candidate.model, s->chat_template));
    if (s->tools) TRY(read_tools(c));
    if (s->system) TRY(mem_copy_text(&c->system, s->system));
    c->messages = json_new_array();
    c->colors = log_has_colors(STDOUT_FILENO);
    return open_session(c);
}

static Err *chat(ChatSession *c, int argc, char **argv)
{
    TRY(sampling_arguments(&c->settings, chat_table, argc, argv, AT(candidate.model)));
    if (c->settings.help) {
        printf("graft chat --model DIR [--adapter PATH,...]\n");
        options_help(stdout, chat_table);
        printf("\nCommands:\n%s", commands);
        return NULL;
    }
    TRY(open_parts(c));
    line_editor_open();
    return converse(c);
}

int verb_chat(int argc, char **argv)
{
    ChatSession c = {0};
    Err *err = chat(&c, argc, argv);
    session_close(&c.session);
    answer_free(&c.answer);
    json_free(c.messages);
    free(c.system);
    text_free(&c.tools);
    encoder_free(c.encoder);
    candidate_close(&c.candidate);
    options_free(&c.settings, chat_table);
    return err_report("chat", err);
}
