/* graft generate --model DIR --prompt TEXT [--adapter DIR]: one answer to one message, as it comes. */
#include "base/memory.h"
#include "cli/verbs.h"
#include "data/chat.h"
#include "data/tokenizer.h"
#include "infer/adapters.h"
#include "infer/cache.h"
#include "infer/generate.h"
#include "tensor/matmul.h"
#include "train/budget.h"

#include <omp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT_TOKENS = 2048 }; /* that memory is kept for */

typedef struct {
    bool help, thinking, no_cache;
    char *model, *prompt, *system, *adapter, *chat_template, *memory_limit;
    int64_t max_new_tokens, top_k, seed;
    double temperature, top_p;
} GenerateSettings;

static const Option generate_table[] = {
    {"model", OPT_TEXT, offsetof(GenerateSettings, model), .help = "a Hugging Face directory"},
    {"prompt", OPT_TEXT, offsetof(GenerateSettings, prompt), .help = "the user's message"},
    {"system", OPT_TEXT, offsetof(GenerateSettings, system), .help = "a system message before it"},
    {"adapter", OPT_TEXT, offsetof(GenerateSettings, adapter), .help = "a PEFT directory"},
    {"max_new_tokens", OPT_INT, offsetof(GenerateSettings, max_new_tokens), .preset = "256", .min = 1, .max = 1e7, .help = "at the most"},
    {"temperature", OPT_NUMBER, offsetof(GenerateSettings, temperature), .preset = "0.7", .min = 0, .max = 100, .help = "0: greedy"},
    {"top_p", OPT_NUMBER, offsetof(GenerateSettings, top_p), .preset = "0.95", .min = 0, .max = 1, .help = "the likeliest tokens that reach this probability"},
    {"top_k", OPT_INT, offsetof(GenerateSettings, top_k), .preset = "0", .min = 0, .max = 1e9, .help = "the k likeliest tokens; 0: off"},
    {"seed", OPT_INT, offsetof(GenerateSettings, seed), .preset = "0", .min = 0, .max = 9e15, .help = "the same seed, the same text"},
    {"thinking", OPT_FLAG, offsetof(GenerateSettings, thinking), .help = "let the model think first"},
    {"chat_template", OPT_TEXT, offsetof(GenerateSettings, chat_template), .help = "overrides the one that the model directory ships"},
    {"memory_limit", OPT_TEXT, offsetof(GenerateSettings, memory_limit), .help = "for everything: 8GiB; what is free less a tenth when not given"},
    {"no_cache", OPT_FLAG, offsetof(GenerateSettings, no_cache), .help = "compute everything again for every token: to compare"},
    {"help", OPT_FLAG, offsetof(GenerateSettings, help), .help = "this list"},
    {0}};

typedef struct {
    GenerateSettings settings;
    Model *model;
    Adapter *adapter;
    Tokenizer *tokenizer;
    Encoder *encoder;
    TokenStream stream;
    Text shown;
    ChatText chat;
    Tokens prompt;
    int32_t *ids; /* [prompt.n] */
} Writer;

/* The conversation as a JSON array, for the template. */
static Err *messages_of(const GenerateSettings *s, char **text)
{
    Json *messages = json_new_array(), *message;
    const char *const role[] = {"system", "user"}, *const content[] = {s->system, s->prompt};
    for (size_t i = 0; i < 2; i++) {
        if (!content[i]) continue;
        message = json_new_object();
        json_add_string(message, "role", role[i]);
        json_add_string(message, "content", content[i]);
        json_add(messages, NULL, message);
    }
    Err *err = json_print(messages, false, text);
    json_free(messages);
    return err;
}

static Err *render(Writer *w)
{
    const GenerateSettings *s = &w->settings;
    ChatOptions options = {.add_generation_prompt = true, .enable_thinking = s->thinking ? CHAT_YES : CHAT_NO};
    char *json;
    Raw messages;
    TRY(chat_recognise(&options.template, s->model, s->chat_template));
    TRY(messages_of(s, &json));
    Err *err = raw_open(&messages, json, strlen(json));
    if (!err) err = chat_render(&w->chat, &options, messages, (Raw){0});
    free(json); /* what was rendered is a copy */
    if (!err) err = tokenizer_encode(w->encoder, w->chat.text.data, w->chat.text.n, &w->prompt);
    if (!err) err = mem_new(&w->ids, w->prompt.n, sizeof *w->ids);
    for (size_t i = 0; i < w->prompt.n && !err; i++) w->ids[i] = w->prompt.items[i].id;
    return err;
}

static void print_shown(Writer *w)
{
    fwrite(w->shown.data, 1, w->shown.n, stdout);
    fflush(stdout);
    text_clear(&w->shown);
}

static bool on_token(void *context, int32_t token)
{
    Writer *w = context;
    Err *err = stream_put(&w->stream, token, &w->shown);
    if (!err) print_shown(w);
    err_free(err);
    return true;
}

static Err *write_text(Writer *w)
{
    const GenerateSettings *s = &w->settings;
    const ModelConfig *c = &w->model->config;
    int32_t stop[MAX_EOS], *tokens = NULL;
    size_t n;
    for (int64_t i = 0; i < c->n_eos; i++) stop[i] = (int32_t)c->eos_token_id[i];
    w->stream = (TokenStream){.tokenizer = w->tokenizer, .skip_special = true};
    Generation g = {.prompt = w->ids, .n_prompt = w->prompt.n, .max_new_tokens = (size_t)s->max_new_tokens, .stop = stop,
                    .n_stop = (size_t)c->n_eos, .no_cache = s->no_cache, .on_token = on_token, .context = w,
                    .sampling = {s->temperature, s->top_p, s->top_k, (uint64_t)s->seed}};
    Err *err = generate(w->model, w->adapter, &g, &tokens, &n);
    free(tokens);
    if (!err) err = stream_end(&w->stream, &w->shown);
    if (!err) print_shown(w);
    putchar('\n');
    return err;
}

static Err *open_parts(Writer *w)
{
    const GenerateSettings *s = &w->settings;
    char path[PATH_BYTES];
    if (!s->model || !s->prompt) return err_new(ERR_USAGE, "--%s is missing", s->model ? "prompt" : "model");
    matmul_init(NULL);
    TRY(model_open(&w->model, s->model));
    if (s->adapter) TRY(adapter_open(&w->adapter, w->model, s->adapter));
    Work work = {.ranks = 1, .local_ranks = 1, .threads = (size_t)omp_get_max_threads(), .step_tokens = PROMPT_TOKENS, .longest = PROMPT_TOKENS,
                 .micro_batch_tokens = 1, .data_bytes = cache_bytes(w->model, 1, PROMPT_TOKENS + (size_t)s->max_new_tokens)};
    Budget budget;
    TRY(budget_apply(&budget, w->model, NULL, &work, s->memory_limit));
    TRY(file_join(path, s->model, "tokenizer.json"));
    TRY(tokenizer_open(&w->tokenizer, path));
    return encoder_new(&w->encoder, w->tokenizer);
}

static Err *run(Writer *w, int argc, char **argv)
{
    size_t n;
    TRY(options_defaults(&w->settings, generate_table));
    TRY(options_arguments(&w->settings, generate_table, argc, argv, NULL, 0, &n));
    if (w->settings.help) {
        printf("graft generate --model DIR --prompt TEXT [--adapter DIR]\n");
        options_help(stdout, generate_table);
        return NULL;
    }
    TRY(open_parts(w));
    TRY(render(w));
    return write_text(w);
}

int verb_generate(int argc, char **argv)
{
    Writer w = {0};
    Err *err = run(&w, argc, argv);
    tokens_free(&w.prompt);
    free(w.ids);
    chat_text_free(&w.chat);
    text_free(&w.shown);
    encoder_free(w.encoder);
    tokenizer_close(w.tokenizer);
    adapter_free(w.adapter);
    model_close(w.model);
    options_free(&w.settings, generate_table);
    return err_report("generate", err);
}
