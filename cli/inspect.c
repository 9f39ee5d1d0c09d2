/* graft inspect PATH: what a model is, how large, and whether its files are whole; what a run, a checkpoint or an
 * adapter holds. */
#include "base/options.h"
#include "cli/verbs.h"
#include "model/model.h"
#include "model/report.h"
#include "train/inspect.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    bool json, check, help;
} InspectConfig;

static const Option inspect_options[] = {
    {"json", OPT_FLAG, offsetof(InspectConfig, json), .help = "print JSON instead of text"},
    {"check", OPT_FLAG, offsetof(InspectConfig, check),
     .help = "also read every weight of a model and name the first number that is not finite"},
    {"help", OPT_FLAG, offsetof(InspectConfig, help), .help = "print this list"},
    {0}};

static Err *check_numbers(const char *path)
{
    Model *model;
    TRY(model_open(&model, path));
    Err *err = weights_check_finite(model->weights);
    model_close(model);
    return err;
}

static Err *inspect(int argc, char **argv)
{
    InspectConfig config = {0};
    const char *path;
    char *text;
    size_t n_paths;
    TRY(options_arguments(&config, inspect_options, argc, argv, &path, 1, &n_paths));
    if (config.help) {
        printf("graft inspect MODEL|RUN|CHECKPOINT|ADAPTER [options]\n");
        options_help(stdout, inspect_options);
        return NULL;
    }
    if (n_paths == 0) return err_new(ERR_USAGE, "no path given: graft inspect MODEL|RUN|CHECKPOINT|ADAPTER [--json]");
    bool known;
    Err *err = inspect_path(path, config.json, &text, &known);
    if (!err && !known) err = model_report(path, config.json, &text);
    if (text) printf("%s%s", text, config.json ? "\n" : ""); /* what is faulty is described before it is refused */
    free(text);
    if (err || !config.check) return err;
    return known ? err_new(ERR_USAGE, "--check is for models; %s is not one", path) : check_numbers(path);
}

int verb_inspect(int argc, char **argv) { return err_report("inspect", inspect(argc, argv)); }
