/* graft plot RUN... [options]: training curves, or one file of `graft bench`, as a PNG. */
#include "base/log.h"
#include "base/memory.h"
#include "base/options.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "plot/picture.h"
#include "plot/timing.h"
#include "plot/roofline.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *output, *title, *kind;
    bool help;
} PlotConfig;

static const Option plot_options[] = {
    {"kind", OPT_TEXT, offsetof(PlotConfig, kind), .preset = "curves", .choices = "curves roofline timing profile",
     .help = "roofline and timing draw a file of graft bench --json; timing also draws timing.jsonl of a run"},
    {"output", OPT_TEXT, offsetof(PlotConfig, output), .preset = "loss.png",
     .help = "PNG file to write; -: standard output"},
    {"title", OPT_TEXT, offsetof(PlotConfig, title), .help = "title of the picture; default: the name of the run"},
    {"help", OPT_FLAG, offsetof(PlotConfig, help), .help = "print this list"},
    {0}};

static void print_help(void)
{
    puts("graft plot RUN... [options]\n\n"
         "Draw training runs over each other: loss (training, evaluation, by domain), learning rate, gradient norm, "
         "expert load.\n"
         "A single run also has its expert load as a heat map over layers and steps.\n"
         "A RUN is a directory that holds metrics.jsonl, or such a file itself. --kind roofline and --kind timing\n"
         "draw one file of graft bench --json: its roofline, or the time of its first training step with --timing.\n");
    options_help(stdout, plot_options);
}

static Err *plot(PlotConfig *config, int argc, char **argv, const char **runs)
{
    size_t n_runs;
    TRY(options_defaults(config, plot_options));
    TRY(options_arguments(config, plot_options, argc, argv, runs, (size_t)argc, &n_runs));
    if (config->help) {
        print_help();
        return NULL;
    }
    if (strcmp(config->kind, "profile") == 0)
        log_line("--kind profile is called --kind timing now; the old name still works");
    if (n_runs == 0) return err_new(ERR_USAGE, "no run given; see graft plot --help");
    bool curves = strcmp(config->kind, "curves") == 0;
    if (!curves && n_runs != 1) return err_new(ERR_USAGE, "kind %s takes one file, not %zu", config->kind, n_runs);
    TRY(output_check("--output", config->output, n_runs, runs));
    if (curves)
        TRY(plot_runs(config->output, config->title, n_runs, runs));
    else
        TRY((strcmp(config->kind, "roofline") == 0 ? plot_roofline : plot_timing)(config->output, config->title,
                                                                                  runs[0]));
    if (strcmp(config->output, "-") != 0) log_line("wrote %s", config->output);
    return NULL;
}

int verb_plot(int argc, char **argv)
{
    PlotConfig config = {0};
    const char **runs = NULL;
    Err *err = mem_new(&runs, (size_t)argc, sizeof *runs);
    if (!err) err = plot(&config, argc, argv, runs);
    options_free(&config, plot_options);
    free(runs);
    return err_report("plot", err);
}
