/* The speed of text: prefill and decode in tokens per second, and the share of memory bandwidth that decoding alone reaches.
 *
 *     build/bench/make_model S build/bench/S
 *     build/bench/generate build/bench/S --batch 8
 *
 * Random prompts, greedy texts (infer/speed.h). A token that decodes alone reads every weight of its layers, K experts and
 * the head once; its bytes a second, over what all cores read just before, is the share. More texts share most of them. */
#include "base/log.h"
#include "base/machine.h"
#include "base/options.h"
#include "infer/speed.h"
#include "tensor/matmul.h"

#include <omp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    int64_t batch, prompt, new_tokens, rounds, threads;
    char *path;
    bool help;
} Settings;

#define AT(field) offsetof(Settings, field)

static const Option options[] = {
    {"batch", OPT_INT, AT(batch), .preset = "1", .min = 1, .max = 1e5, .help = "texts at once"},
    {"prompt", OPT_INT, AT(prompt), .preset = "512", .min = 1, .max = 1e6, .help = "tokens of each prompt"},
    {"new", OPT_INT, AT(new_tokens), .preset = "64", .min = 2, .max = 1e6, .help = "tokens of each text after it"},
    {"rounds", OPT_INT, AT(rounds), .preset = "3", .min = 1, .max = 1000, .help = "that are counted, after one that is not"},
    {"threads", OPT_INT, AT(threads), .preset = "0", .min = 0, .max = 1024, .help = "0: as OpenMP chooses"},
    {"path", OPT_TEXT, AT(path), .preset = "auto", .choices = MATMUL_CHOICES, .help = "of computation"},
    {"help", OPT_FLAG, AT(help), .help = "this list"},
    {0}};

static Err *report(const Settings *s, const Model *model, const GenerationSpeed *speed, const Machine *machine)
{
    double bytes = generation_bytes(model), share = 1e-9 * bytes * speed->decode / machine->memory_gbs;
    char *text;
    Json *json = json_new_object();
    json_add_string(json, "path", matmul_path());
    json_add_number(json, "threads", omp_get_max_threads());
    json_add_number(json, "batch", (double)s->batch);
    json_add_number(json, "prompt", (double)s->prompt);
    json_add_number(json, "new", (double)s->new_tokens);
    json_add_number(json, "prefill_tokens_per_s", speed->prefill);
    json_add_number(json, "decode_tokens_per_s", speed->decode);
    json_add_number(json, "weight_bytes_per_token", bytes);
    json_add_number(json, "memory_gbs", machine->memory_gbs);
    if (s->batch == 1) json_add_number(json, "share_of_bandwidth", share);
    json_add_number(json, "peak_rss_bytes", (double)log_peak_bytes());
    Err *err = json_print(json, false, &text);
    json_free(json);
    if (err) return err;
    printf("%s\nbatch %-3lld prefill %7.1f tokens/s   decode %7.1f tokens/s", text, (long long)s->batch, speed->prefill, speed->decode);
    if (s->batch == 1) printf("   %.0f MB of weights a token: %.0f%% of %.1f GB/s", 1e-6 * bytes, 100 * share, machine->memory_gbs);
    printf("   %s, %d threads   RSS %.0f MB\n", matmul_path(), omp_get_max_threads(), (double)log_peak_bytes() / 1e6);
    free(text);
    return NULL;
}

static Err *measure(const Settings *s, const char *directory)
{
    Model *model;
    Machine machine;
    GenerationSpeed speed;
    if (s->threads) omp_set_num_threads((int)s->threads);
    if (!matmul_init(s->path)) return err_new(ERR_USAGE, "this CPU has no %s", s->path);
    TRY(model_open(&model, directory));
    machine_measure(&machine);
    SpeedConfig config = {(size_t)s->batch, (size_t)s->prompt, (size_t)s->new_tokens, (size_t)s->rounds};
    Err *err = generation_speed(&speed, model, NULL, &config);
    if (!err) err = report(s, model, &speed, &machine);
    model_close(model);
    return err;
}

static Err *run(int argc, char **argv)
{
    Settings settings = {0};
    const char *directory;
    size_t n_words;
    TRY(options_defaults(&settings, options));
    Err *err = options_arguments(&settings, options, argc, argv, &directory, 1, &n_words);
    if (!err && settings.help) {
        printf("generate DIR [options]\n");
        options_help(stdout, options);
    } else if (!err) {
        err = n_words ? measure(&settings, directory) : err_new(ERR_USAGE, "which model? generate DIR");
    }
    options_free(&settings, options);
    return err;
}

int main(int argc, char **argv)
{
    matmul_prepare(argv);
    return err_report("generate", run(argc - 1, argv + 1));
}
