/* graft eval --model DIR --data FILE [--adapter PATH,...]: base and adapters side by side. */
#include "base/log.h"
#include "base/memory.h"
#include "cli/verbs.h"
#include "data/dataset.h"
#include "data/settings.h"
#include "infer/adapters.h"
#include "tensor/matmul.h"
#include "train/budget.h"
#include "train/evaluate.h"

#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    bool help, json;
    char *model, *data, *memory_limit;
    DataSettings how;
    TextList adapter;
    int64_t group_tokens;
} EvalSettings;

static const Option eval_table[] = {
    {"model", OPT_TEXT, offsetof(EvalSettings, model), .help = "a Hugging Face directory"},
    {"data", OPT_TEXT, offsetof(EvalSettings, data), .help = "JSON Lines, plain, .gz or .zst"},
    {"adapter", OPT_LIST, offsetof(EvalSettings, adapter), .help = "PEFT directories; none: the base alone"},
    DATA_OPTIONS(offsetof(EvalSettings, how)),
    {"group_tokens", OPT_INT, offsetof(EvalSettings, group_tokens), .preset = "8192", .min = 1, .max = 1e9, .help = "tokens run through a layer together"},
    {"memory_limit", OPT_TEXT, offsetof(EvalSettings, memory_limit), .help = "for everything: 8GiB; what is free less a tenth when not given"},
    {"json", OPT_FLAG, offsetof(EvalSettings, json), .help = "one JSON object instead of a table"},
    {"help", OPT_FLAG, offsetof(EvalSettings, help), .help = "this list"},
    {0}};

typedef struct {
    EvalSettings settings;
    Model *model;
    Tokenizer *tokenizer;
    Dataset *data;
    Step *step;
    Budget budget;
    Dp dp;
    Json *rows;
} Eval;

static Err *open_parts(Eval *e)
{
    const EvalSettings *s = &e->settings;
    char path[PATH_BYTES];
    DocumentOptions options;
    if (!s->model || !s->data) return err_new(ERR_USAGE, "--%s is missing", s->model ? "data" : "model");
    matmul_init(NULL);
    TRY(model_open(&e->model, s->model));
    TRY(file_join(path, s->model, "tokenizer.json"));
    TRY(tokenizer_open(&e->tokenizer, path));
    TRY(data_settings_read(&options, &s->how, s->model));
    TRY(dataset_open_file(&e->data, e->tokenizer, s->data, &options));
    e->rows = json_new_array();
    size_t group = (size_t)e->settings.group_tokens, longest = dataset_totals(e->data).longest;
    Work work = {.ranks = 1, .local_ranks = 1, .threads = (size_t)omp_get_max_threads(), .step_tokens = group > longest ? group : longest, .longest = longest,
                 .micro_batch_tokens = 1024, .group_tokens = group, .data_bytes = 8 * dataset_totals(e->data).tokens};
    TRY(budget_apply(&e->budget, e->model, NULL, &work, s->memory_limit));
    return step_new(&e->step, &e->dp, e->model, NULL, &(StepConfig){0});
}

static Err *one(Eval *e, const char *name, const Adapter *adapter)
{
    Evaluation v;
    TRY(evaluate_dataset(e->step, &e->dp, adapter, e->data, 1024, e->budget.group_tokens, &v));
    double loss = v.nll / (double)v.scored, accuracy = (double)v.right / (double)v.scored;
    Json *row = json_new_object();
    json_add_string(row, "name", name);
    json_add_number(row, "loss", loss);
    json_add_number(row, "perplexity", exp(loss));
    json_add_number(row, "token_accuracy", accuracy);
    json_add_number(row, "scored", (double)v.scored);
    json_add_number(row, "documents", (double)v.documents);
    json_add(e->rows, NULL, row);
    if (!e->settings.json) printf("%-40s %9.4f %12.2f %9.1f%% %9zu %10zu\n", name, loss, exp(loss), 100 * accuracy, v.scored, v.documents);
    return NULL;
}

static Err *compare(Eval *e)
{
    if (!e->settings.json) printf("%-40s %9s %12s %10s %9s %10s\n", "", "loss", "perplexity", "accuracy", "scored", "documents");
    TRY(one(e, "base", NULL));
    for (size_t i = 0; i < e->settings.adapter.count; i++) {
        Adapter *adapter;
        TRY(adapter_open(&adapter, e->model, e->settings.adapter.items[i]));
        Err *err = one(e, e->settings.adapter.items[i], adapter);
        adapter_free(adapter);
        if (err) return err;
    }
    if (!e->settings.json) return NULL;
    char *text;
    TRY(json_print(e->rows, true, &text));
    puts(text);
    free(text);
    return NULL;
}

static Err *eval(Eval *e, int argc, char **argv)
{
    size_t n;
    TRY(options_defaults(&e->settings, eval_table));
    TRY(options_arguments(&e->settings, eval_table, argc, argv, NULL, 0, &n));
    if (e->settings.help) {
        printf("graft eval --model DIR --data FILE [--adapter DIR,DIR,...]\n");
        options_help(stdout, eval_table);
        return NULL;
    }
    TRY(open_parts(e));
    return compare(e);
}

int verb_eval(int argc, char **argv)
{
    Eval e = {.dp = {.size = 1}};
    Err *err = eval(&e, argc, argv);
    step_free(e.step);
    dataset_close(e.data);
    tokenizer_close(e.tokenizer);
    model_close(e.model);
    json_free(e.rows);
    options_free(&e.settings, eval_table);
    return err_report("eval", err);
}
