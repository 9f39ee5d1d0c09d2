/* graft generate --model DIR (--prompt TEXT | --data FILE) [--adapter DIR]: one answer, printed as it is generated, or
 * many together. Every sample of every prompt is one sequence with a seed of its own, so an answer does not depend on
 * the others. */
#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"
#include "cli/sampling.h"
#include "cli/candidate.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "data/chat/chat.h"
#include "data/text/inflate.h"
#include "data/text/lines.h"
#include "data/text/unicode.h"
#include "infer/answer.h"
#include "infer/generate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    bool help, no_cache, raw, logprobs;
    CandidateSettings candidate;
    char *prompt, *data, *output, *system, *chat_template;
    TextList stop;
    int64_t samples, at_once, group_tokens, unpack_limit;
    SamplingSettings sampling;
} GenerateSettings;

#define AT(field) offsetof(GenerateSettings, field)

static const Option generate_table[] = {
    CANDIDATE_OPTIONS(AT(candidate), "a PEFT directory, a checkpoint or a run; none: the base"),
    {"prompt", OPT_TEXT, AT(prompt), .help = "the message of the user"},
    {"data", OPT_TEXT, AT(data),
     .help = "prompts from a file: JSON Lines with messages, question or prompt; or plain text, one prompt per line"},
    {"unpack_limit", OPT_INT, AT(unpack_limit), .preset = "200", .max = 1e9,
     .help = "how many times its size a packed --data file may become; 0: no limit"},
    {"output", OPT_TEXT, AT(output),
     .help = "file for the answers to --data, as JSON Lines; -, the default: standard output"},
    {"system", OPT_TEXT, AT(system), .help = "a system message"},
    {"raw", OPT_FLAG, AT(raw), .help = "no chat template: the prompt is the beginning of a text"},
    {"chat_template", OPT_TEXT, AT(chat_template), .help = "overrides the one that the model directory ships"},
    {.help = "Sampling; the model's generation_config.json overrides these defaults"},
    SAMPLING_OPTIONS(GenerateSettings, sampling),
    {"stop", OPT_LIST, AT(stop), .help = "strings that end the answer, separated by commas; a number is a token id"},
    {"samples", OPT_INT, AT(samples), .preset = "1", .min = 1, .max = 1e6,
     .help = "answers per prompt, each with a seed of its own"},
    {"logprobs", OPT_FLAG, AT(logprobs), .help = "print the log-probability of every token, before any filter"},
    {.help = "Work"},
    {"at_once", OPT_INT, AT(at_once), .preset = "32", .min = 1, .max = 1e6,
     .help = "sequences that are generated together; never changes one"},
    {"group_tokens", OPT_INT, AT(group_tokens), .preset = "8192", .min = 0, .max = 1e9,
     .help = "tokens that go through a layer together; never changes an answer"},
    CANDIDATE_WORK_OPTIONS(AT(candidate)),
    {"no_cache", OPT_FLAG, AT(no_cache), .help = "recompute everything for every token, to compare with the cache"},
    {"help", OPT_FLAG, AT(help), .help = "print this list"},
    {0}};

/* One answer that is being generated. */
typedef struct {
    Answer answer;
    bool to_stdout; /* print it as it is generated */
    Err *err;
} LiveAnswer;

/* One prompt. */
typedef struct {
    size_t line;
    int32_t *ids;
    size_t n;
} Prompt;

typedef struct {
    GenerateSettings settings;
    Candidate candidate;
    Encoder *encoder;
    ChatTemplate template;
    ChatText chat;
    Tokens tokens;
    Text messages;
    size_t n_prompts, capacity;
    Prompt *prompts;
    size_t n_stop, n_stop_ids;
    char **stop_strings; /* [n_stop] */
    int32_t *stop_ids;
} Writer;

/* ---- prompts -------------------------------------------------------------------------------------------------- */

static Err *add_prompt(Writer *w, const char *text, size_t bytes, size_t line)
{
    w->tokens.n = 0;
    TRY(tokenizer_encode(w->encoder, text, bytes, &w->tokens));
    TRY(mem_grow(&w->prompts, &w->capacity, w->n_prompts + 1, sizeof *w->prompts));
    Prompt *p = &w->prompts[w->n_prompts++];
    *p = (Prompt){.line = line, .n = w->tokens.n};
    TRY(mem_new(&p->ids, p->n, sizeof *p->ids));
    for (size_t i = 0; i < p->n; i++) p->ids[i] = w->tokens.items[i].id;
    return NULL;
}

static Err *add_messages(Writer *w, JsonView messages, JsonView tools, size_t line)
{
    ChatOptions options = {.template = w->template,
                           .add_generation_prompt = true,
                           .enable_thinking = w->settings.sampling.thinking ? CHAT_YES : CHAT_NO};
    TRY(chat_render(&w->chat, &options, messages, tools));
    return add_prompt(w, w->chat.text.data, w->chat.text.n, line);
}

/* A template takes whole characters; the tokenizer of a raw prompt takes any bytes. */
static Err *check_utf8(const char *what, const char *text, size_t bytes)
{
    size_t valid = unicode_valid(text, bytes);
    if (valid == bytes) return NULL;
    return err_new(ERR_DATA, "%s is not UTF-8: byte %zu of %zu is \\x%02x", what, valid + 1, bytes,
                   (unsigned char)text[valid]);
}

/* One message of the user, after --system. content is a JSON string. */
static Err *add_content(Writer *w, const char *content, size_t bytes, JsonView tools, size_t line)
{
    JsonView messages;
    text_clear(&w->messages);
    text_put(&w->messages, "[");
    if (w->settings.system) {
        TRY(check_utf8("--system", w->settings.system, strlen(w->settings.system)));
        Json *system = json_new_object();
        char *text;
        json_add_string(system, "role", "system");
        json_add_string(system, "content", w->settings.system);
        Err *err = json_print(system, false, &text);
        json_free(system);
        if (err) return err;
        text_put(&w->messages, text);
        text_put(&w->messages, ",");
        free(text);
    }
    text_put(&w->messages, "{\"role\":\"user\",\"content\":");
    text_add(&w->messages, content, bytes);
    text_put(&w->messages, "}]");
    TRY(text_error(&w->messages));
    TRY(view_open(&messages, w->messages.data, w->messages.n));
    return add_messages(w, messages, tools, line);
}

static Err *add_plain(Writer *w, const char *text, size_t bytes, size_t line)
{
    char *copy, *quoted;
    if (w->settings.raw) return add_prompt(w, text, bytes, line);
    TRY(check_utf8(w->settings.data ? "the prompt" : "--prompt", text, bytes));
    TRY(mem_copy_bytes(&copy, text, bytes));
    Json *list = json_new_array();
    json_add_string(list, NULL, copy);
    free(copy);
    Err *err = json_print(list, false, &quoted);
    json_free(list);
    if (err) return err;
    err = add_content(w, quoted + 1, strlen(quoted) - 2, (JsonView){0}, line); /* without the brackets */
    free(quoted);
    return err;
}

static Err *add_record(Writer *w, const char *text, size_t bytes, size_t line)
{
    static const char *const keys[] = {"messages", "question", "prompt", "tools"};
    JsonView record, of[4];
    if (bytes == 0 || text[0] != '{') return add_plain(w, text, bytes, line);
    TRY(view_open(&record, text, bytes));
    view_find_all(record, 4, keys, of);
    if (of[0].at) return add_messages(w, of[0], of[3], line);
    JsonView content = of[1].at ? of[1] : of[2];
    if (!view_is(content, JSON_STRING)) return err_new(ERR_DATA, "the record has no messages, question or prompt");
    return add_content(w, content.at, content.bytes, of[3], line);
}

static Err *read_prompts(Writer *w, LineReader *reader)
{
    const char *line;
    size_t bytes;
    for (;;) {
        TRY(lines_next(reader, &line, &bytes));
        if (!line) return w->n_prompts ? NULL : err_new(ERR_DATA, "%s has no prompts", w->settings.data);
        if (!json_line_is_blank(line, bytes))
            TRY(err_wrap(add_record(w, line, bytes, lines_number(reader)), "%s: line %zu", w->settings.data,
                         lines_number(reader)));
    }
}

static Err *make_prompts(Writer *w)
{
    LineReader *reader;
    if (!w->settings.data) return add_plain(w, w->settings.prompt, strlen(w->settings.prompt), 1);
    inflate_limit((size_t)w->settings.unpack_limit);
    TRY(lines_open(&reader, w->settings.data));
    Err *err = read_prompts(w, reader);
    lines_close(reader);
    return err;
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

/* Fails when it does not arrive, so that the answer ends there and not after hours. */
static Err *print_from(const LiveAnswer *live, size_t from)
{
    size_t n = live->answer.shown - from;
    if (fwrite(live->answer.text.data + from, 1, n, stdout) == n && !fflush(stdout)) return NULL;
    Err *err = err_errno("write standard output");
    clearerr(stdout); /* or the end of the program would say it again */
    return err;
}

static bool on_token(void *context, int32_t token)
{
    LiveAnswer *live = context;
    size_t from;
    live->err = answer_put(&live->answer, token, &from);
    if (!live->err && live->to_stdout) live->err = print_from(live, from);
    return !live->err && !live->answer.stopped;
}

static Err *write_line(FILE *stream, const Writer *w, size_t i, const LiveAnswer *live, const Generated *made)
{
    Json *line = json_new_object();
    char *text;
    json_add_number(line, "line", (double)w->prompts[i / (size_t)w->settings.samples].line);
    json_add_number(line, "sample", (double)(i % (size_t)w->settings.samples));
    json_add_string(line, "text", live->answer.text.data);
    json_add_number(line, "tokens", (double)made->n);
    json_add_string(line, "finish_reason", made->stopped ? "stop" : "length");
    if (w->settings.logprobs) {
        Json *list = json_new_array(), *entry;
        for (size_t t = 0; t < made->n; t++) {
            const char *token = tokenizer_token(w->candidate.tokenizer, made->tokens[t]);
            entry = json_new_object();
            json_add_number(entry, "id", made->tokens[t]);
            json_add_string(entry, "token", token ? token : "");
            json_add_number(entry, "logprob", made->log_probabilities[t]);
            json_add(list, NULL, entry);
        }
        json_add(line, "logprobs", list);
    }
    Err *err = json_print(line, false, &text);
    json_free(line);
    if (err) return err;
    fprintf(stream, "%s\n", text);
    free(text);
    return NULL;
}

static Err *write_all(const Writer *w, size_t n, LiveAnswer *answers, const Generated *made)
{
    FileWriter out;
    TRY(file_writer_open(&out, w->settings.output ? w->settings.output : "-"));
    Err *err = NULL;
    for (size_t i = 0; i < n && !err; i++) {
        size_t from;
        err = answers[i].err;
        answers[i].err = NULL;
        if (!err) err = answer_end(&answers[i].answer, &from);
        if (!err && answers[i].to_stdout) err = print_from(&answers[i], from);
        if (!err && answers[i].to_stdout) putchar('\n');
        if (!err && (!answers[i].to_stdout || w->settings.logprobs))
            err = write_line(out.stream, w, i, &answers[i], &made[i]);
    }
    if (!err) return file_writer_close(&out);
    file_writer_discard(&out);
    return err;
}

static void set_generation(Writer *w, size_t i, Generation *g, LiveAnswer *live)
{
    const GenerateSettings *s = &w->settings;
    size_t samples = (size_t)s->samples;
    const Prompt *p = &w->prompts[i / samples];
    *g = (Generation){.prompt = p->ids,
                      .n_prompt = p->n,
                      .max_new_tokens = (size_t)s->sampling.max_new_tokens,
                      .stop = w->stop_ids,
                      .n_stop = w->n_stop_ids,
                      .no_cache = s->no_cache,
                      .sampling = sampling_of(&s->sampling),
                      .on_token = on_token,
                      .context = live};
    if (samples > 1) g->sampling.seed = rng_key(rng_name(g->sampling.seed, "sample of a prompt"), i % samples);
    *live = (LiveAnswer){.to_stdout = !s->data && samples == 1};
    answer_open(&live->answer, w->candidate.tokenizer, w->n_stop, w->stop_strings);
}

static Err *write_answers(Writer *w)
{
    const GenerateSettings *s = &w->settings;
    size_t n = w->n_prompts * (size_t)s->samples;
    Generation *generations = NULL;
    Generated *made = NULL;
    LiveAnswer *answers = NULL;
    Err *err = mem_new(&generations, n, sizeof *generations);
    if (!err) err = mem_new(&made, n, sizeof *made);
    if (!err) err = mem_new(&answers, n, sizeof *answers);
    for (size_t i = 0; i < n && !err; i++) set_generation(w, i, &generations[i], &answers[i]);
    double began = log_seconds();
    if (!err)
        err = generate_all(w->candidate.model, candidate_adapter(&w->candidate, w->candidate.n), n, generations,
                           (size_t)s->at_once, (size_t)s->group_tokens, made);
    double seconds = log_seconds() - began;
    if (!err) err = write_all(w, n, answers, made);
    size_t tokens = 0;
    for (size_t i = 0; i < n && !err; i++) tokens += made[i].n;
    if (!err && s->data)
        log_line("%zu answers, %zu tokens in %.1f s with the prompts: %.1f tokens/s", n, tokens, seconds,
                 (double)tokens / seconds);
    for (size_t i = 0; i < n && answers; i++) {
        answer_free(&answers[i].answer);
        err_free(answers[i].err);
    }
    if (made) generated_free(n, made);
    free(generations);
    free(made);
    free(answers);
    return err;
}

/* ---- open and close ------------------------------------------------------------------------------------------- */

/* The end tokens of the model, and --stop: a number is a token id. */
static Err *set_stops(Writer *w)
{
    const ModelConfig *c = &w->candidate.model->config;
    const TextList *stop = &w->settings.stop;
    TRY(mem_new(&w->stop_ids, MAX_EOS + stop->count, sizeof *w->stop_ids));
    TRY(mem_new(&w->stop_strings, stop->count, sizeof *w->stop_strings));
    for (int64_t i = 0; i < c->n_eos; i++) w->stop_ids[w->n_stop_ids++] = (int32_t)c->eos_token_id[i];
    for (size_t i = 0; i < stop->count; i++) {
        char *end;
        long id = strtol(stop->items[i], &end, 10);
        if (end != stop->items[i] && !*end && id >= 0)
            w->stop_ids[w->n_stop_ids++] = (int32_t)id;
        else
            w->stop_strings[w->n_stop++] = stop->items[i];
    }
    return NULL;
}

/* Memory for prompts of PROMPT_TOKENS tokens and the answers to them. */
static CandidateWork work_of(const Writer *w)
{
    enum { PROMPT_TOKENS = 2048 };
    const GenerateSettings *s = &w->settings;
    size_t capacity = PROMPT_TOKENS + (size_t)s->sampling.max_new_tokens,
           at_once = s->data || s->samples > 1 ? (size_t)s->at_once : 1;
    return (CandidateWork){at_once * PROMPT_TOKENS, PROMPT_TOKENS, cache_bytes(w->candidate.model, at_once, capacity)};
}

static Err *check_output(const GenerateSettings *s)
{
    const TextList *adapters = &s->candidate.adapter;
    TRY(output_check("--output", s->output, adapters->count, (const char *const *)adapters->items));
    return output_check("--output", s->output, 3, (const char *[]){s->data, s->candidate.model, s->chat_template});
}

static Err *open_parts(Writer *w)
{
    GenerateSettings *s = &w->settings;
    if (!s->prompt == !s->data) return err_new(ERR_USAGE, "give --prompt or --data");
    if (s->candidate.adapter.count > 1)
        return err_new(ERR_USAGE, "--adapter: %zu are given; generate takes one", s->candidate.adapter.count);
    TRY(check_output(s));
    TRY(candidate_open(&w->candidate, &s->candidate));
    CandidateWork work = work_of(w);
    TRY(candidate_fit(&w->candidate, &s->candidate, &work, &s->group_tokens));
    TRY(candidate_add_all(&w->candidate, &s->candidate));
    if (!s->raw) TRY(template_recognise(&w->template, s->candidate.model, s->chat_template));
    TRY(set_stops(w));
    return encoder_new(&w->encoder, w->candidate.tokenizer);
}

static Err *run(Writer *w, int argc, char **argv)
{
    TRY(sampling_arguments(&w->settings, generate_table, argc, argv, AT(candidate.model)));
    if (w->settings.help) {
        printf("graft generate --model DIR --prompt TEXT [--adapter PATH]\n");
        options_help(stdout, generate_table);
        return NULL;
    }
    TRY(open_parts(w));
    TRY(make_prompts(w));
    return write_answers(w);
}

int verb_generate(int argc, char **argv)
{
    Writer w = {0};
    Err *err = run(&w, argc, argv);
    for (size_t i = 0; i < w.n_prompts; i++) free(w.prompts[i].ids);
    free(w.prompts);
    free(w.stop_ids);
    free(w.stop_strings);
    tokens_free(&w.tokens);
    text_free(&w.messages);
    chat_text_free(&w.chat);
    encoder_free(w.encoder);
    candidate_close(&w.candidate);
    options_free(&w.settings, generate_table);
    return err_report("generate", err);
}
