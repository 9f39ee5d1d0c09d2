/* graft bench [DIR] [options]: measure what this machine could do, and which share of it graft reaches. The
 * measurements are in bench/; this file has the options and says what is measured. */
#include "base/options.h"
#include "bench/generate.h"
#include "bench/random_model.h"
#include "bench/report.h"
#include "bench/step_record.h"
#include "bench/steps.h"
#include "bench/suite.h"
#include "cli/candidate.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "infer/cache.h"
#include "tensor/dispatch.h"

#include <omp.h>
#include <stddef.h>
#include <string.h>

typedef struct {
    SuiteConfig suite;
    StepsConfig step;
    GenerateConfig generation;
    char *json, *directory, *compute, *make;
    TextList parts;
    int64_t threads;
    bool timing, generate, help;
} BenchSettings;

#define AT(field) offsetof(BenchSettings, field)
static const Option bench_table[] = {
    {.help = "General"},
    {"json", OPT_TEXT, AT(json), .help = "write the results to this file as JSON Lines; graft plot draws them"},
    {"compute", OPT_TEXT, AT(compute), .preset = "auto", .choices = COMPUTE_CHOICES, .help = "compute path"},
    {"threads", OPT_INT, AT(threads), .preset = "0", .min = 0, .max = 1024, .help = "threads; 0: as OpenMP chooses"},
    {.help = "Without a DIR: products, operations, generation and training steps of random models"},
    {"directory", OPT_TEXT, AT(directory),
     .help = "directory of the random models; they are made there (2.5 GB) if they are missing. Must be given"},
    {"parts", OPT_LIST, AT(parts), .help = "only these of " SUITE_PARTS},
    {"rounds", OPT_INT, AT(suite.rounds), .preset = "3", .min = 1, .max = 16,
     .help = "rounds of training steps; the configurations take turns"},
    {.help = "With a DIR: training steps of this model, one document of random tokens each"},
    {"targets", OPT_TEXT, AT(step.targets), .preset = "attn+experts", .choices = STEPS_TARGETS,
     .help =
         "LoRA on attention; and on 16 experts of each layer, the shared expert, or the shared and all routed experts"},
    {"tokens", OPT_INT, AT(step.tokens), .preset = "512", .min = 2, .max = 1e6, .help = "tokens of a step"},
    {"document", OPT_INT, AT(step.document), .preset = "0", .min = 0, .max = 1e6,
     .help = "tokens of each document; 0: one document of all tokens"},
    {"steps", OPT_INT, AT(step.steps), .preset = "7", .min = 1, .max = 1e6,
     .help = "steps that are measured; 100 and more also show whether their time is constant"},
    {"warm_up", OPT_INT, AT(step.warm_up), .preset = "2", .min = 0, .max = 1e6,
     .help = "steps before the measured ones"},
    {"r", OPT_INT, AT(step.r), .preset = "8", .min = 1, .max = 1024, .help = "inner size of A and B"},
    {"init_adapter", OPT_TEXT, AT(step.init_adapter),
     .help = "start from this PEFT directory, which then decides what is trained"},
    {"keep_layers", OPT_INT, AT(step.keep_layers), .preset = "1000", .min = 0, .max = 1000,
     .help = "topmost layers that are not recomputed in the backward pass"},
    {"recompute_experts", OPT_FLAG, AT(step.recompute_experts), .old = "lean",
     .help = "the backward pass recomputes gate and up of the experts"},
    {"memory_limit", OPT_TEXT, AT(step.memory_limit),
     .help = "as in training; also compares the plan with the run. Default: all weights are mapped"},
    {"group_tokens", OPT_INT, AT(step.group_tokens), .preset = "8192", .min = 0, .max = 1e9,
     .help = "as in training, under a memory limit"},
    {"scratch_dir", OPT_TEXT, AT(step.scratch_dir), .preset = ".",
     .help = "directory for layer inputs under a memory limit"},
    {"seed", OPT_INT, AT(step.seed), .preset = "1", .min = 0, .max = 1e6, .help = "seed of tokens and adapter"},
    {"timing", OPT_FLAG, AT(timing), .old = "profile", .help = "print where the time goes, by operation and by layer"},
    {"generate", OPT_FLAG, AT(generate),
     .help = "measure greedy generation from random prompts instead of training steps"},
    {"batch", OPT_INT, AT(generation.batch), .preset = "1", .min = 1, .max = 1e5, .help = "sequences at once"},
    {"prompt", OPT_INT, AT(generation.prompt), .preset = "512", .min = 1, .max = 1e6, .help = "tokens of each prompt"},
    {"new", OPT_INT, AT(generation.new_tokens), .preset = "64", .min = 2, .max = 1e6,
     .help = "tokens generated after each prompt"},
    {"make", OPT_TEXT, AT(make),
     .help = "only make a random model in DIR, of this shape (S or a config.json) and from the seed"},
    {"help", OPT_FLAG, AT(help), .help = "print this list"},
    {0}};
#undef AT

static void print_help(void)
{
    puts("graft bench [DIR] [options]\n\n"
         "Measure this machine (arithmetic, memory, disk), and graft as a share of it: products, operations, "
         "generation\n"
         "and training steps. With a DIR: training steps of the model there, or generation with it.\n");
    options_help(stdout, bench_table);
}

/* Switch on the parts of --parts; all of them when it is not given. */
static Err *choose_parts(BenchSettings *s)
{
    SuiteConfig *c = &s->suite;
    struct {
        const char *name;
        bool *on;
    } parts[] = {{"products", &c->products},
                 {"operations", &c->operations},
                 {"steps", &c->steps},
                 {"generate", &c->generate}};
    const size_t n = sizeof parts / sizeof *parts;
    for (size_t i = 0; i < n; i++) *parts[i].on = s->parts.count == 0;
    for (size_t k = 0; k < s->parts.count; k++) {
        size_t i = 0;
        while (i < n && strcmp(parts[i].name, s->parts.items[k]) != 0) i++;
        if (i == n)
            return err_new(ERR_USAGE, "parts: there is no %s; expected some of " SUITE_PARTS, s->parts.items[k]);
        *parts[i].on = true;
    }
    return NULL;
}

static Err *bench_suite(BenchSettings *s)
{
    TRY(choose_parts(s));
    if (!s->directory)
        return err_new(ERR_USAGE, "these measurements write random models of 2.5 GB once and keep them: say where with "
                                  "--directory DIR; graft bench MODEL measures a model that you have");
    s->suite.json = s->json;
    s->suite.directory = s->directory;
    s->suite.compute = s->compute;
    return suite_run(&s->suite);
}

static Err *write_record(const char *path, Json *record)
{
    BenchReport *report;
    Err *err = report_open(&report, path);
    if (err) {
        json_free(record);
        return err;
    }
    err = report_add(report, record);
    if (!err) return report_close(report);
    report_discard(report);
    return err;
}

static Err *bench_model(BenchSettings *s, const char *directory)
{
    Timing timing = {0};
    Json *record;
    s->step.compute = s->compute;
    Err *err = steps_measure(&record, directory, &s->step, s->timing ? &timing : NULL);
    if (!err) {
        double whole = step_record_seconds(record);
        err = step_record_print(record);
        if (!err && s->timing) timing_print(&timing, (size_t)s->step.steps, whole);
        if (!err)
            err = write_record(s->json, record);
        else
            json_free(record);
    }
    timing_free(&timing);
    return err;
}

/* Fit into the memory limit as `graft generate` does. A streamed model gets one round, because a token takes
 * seconds. */
static Err *fit_generation(BenchSettings *s, Model *model)
{
    GenerateConfig *c = &s->generation;
    size_t batch = (size_t)c->batch, prompt = (size_t)c->prompt,
           bytes = cache_bytes(model, batch, prompt + (size_t)c->new_tokens);
    if (!s->step.memory_limit) return NULL;
    Candidate candidate = {.model = model};
    TRY(candidate_fit(&candidate, &(CandidateSettings){.memory_limit = s->step.memory_limit},
                      &(CandidateWork){batch * prompt, prompt, bytes}, &c->group_tokens));
    if (model->stream) c->rounds = 1;
    return NULL;
}

static Err *bench_generation(BenchSettings *s, const char *directory)
{
    Model *model;
    Json *record;
    if (!dispatch_init(s->compute))
        return err_new(ERR_USAGE, "compute %s: this CPU has no such instructions", s->compute);
    TRY(model_open(&model, directory));
    s->generation.rounds = 3;
    Err *err = fit_generation(s, model);
    if (!err) err = generate_measure(&record, model, directory, &s->generation);
    model_close(model);
    if (err) return err;
    generate_print(record);
    return write_record(s->json, record);
}

static Err *bench(BenchSettings *s, int argc, char **argv)
{
    const char *directory = NULL;
    size_t n;
    TRY(options_defaults(s, bench_table));
    TRY(options_arguments(s, bench_table, argc, argv, &directory, 1, &n));
    if (s->help) {
        print_help();
        return NULL;
    }
    if (s->make && !directory) return err_new(ERR_USAGE, "make: in which DIR?");
    if (s->make) return random_model_make(s->make, directory, (uint64_t)s->step.seed);
    if (s->threads) omp_set_num_threads((int)s->threads);
    TRY(output_check("--json", s->json, 2, (const char *[]){directory, s->step.init_adapter}));
    if (!directory) return bench_suite(s);
    return s->generate ? bench_generation(s, directory) : bench_model(s, directory);
}

int verb_bench(int argc, char **argv)
{
    BenchSettings settings = {0};
    Err *err = bench(&settings, argc, argv);
    options_free(&settings, bench_table);
    return err_report("bench", err);
}
