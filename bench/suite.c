/* Runs all measurements in order and prints a table for each.
 *
 * Training steps run in child processes, `graft bench DIR ...`, one for each configuration and round, so that the
 * time from the start and the memory are those of a program that only trains. Rounds are interleaved over
 * configurations, and the records of a configuration are joined. */
#define _GNU_SOURCE
#include "bench/suite.h"

#include "base/log.h"
#include "base/machine.h"
#include "base/memory.h"
#include "base/peak.h"
#include "bench/generate.h"
#include "bench/neighbours.h"
#include "bench/operations.h"
#include "bench/products.h"
#include "bench/random_model.h"
#include "bench/sample.h"
#include "bench/step_record.h"
#include "tensor/dispatch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PEAK_REPEATS = 5, MAX_ROUNDS = 16 };

typedef struct {
    const SuiteConfig *config;
    BenchReport *report;
    Machine machine;
} Suite;

/* ---- the machine ---------------------------------------------------------------------------------------------- */

/* FLOP/s of all threads. */
static double peak(bool bf16)
{
    double rates[PEAK_REPEATS];
    for (int i = 0; i < PEAK_REPEATS; i++) rates[i] = 2 * peak_of_team(bf16, 2 * PEAK_ROUNDS);
    return sample_median(PEAK_REPEATS, rates);
}

static Err *measure_machine(Suite *s, const char *file)
{
    char name[MACHINE_NAME_BYTES];
    bool direct, bf16;
    machine_cpu_name(name);
    machine_measure(&s->machine);
    TRY(machine_disk(file, 4, &s->machine.disk_gbs, &direct));
    bf16 = dispatch_init("bf16");
    double fp32_rate = 1e-9 * peak(false), bf16_rate = bf16 ? 1e-9 * peak(true) : 0;
    if (!dispatch_init(s->config->compute))
        return err_new(ERR_USAGE, "compute: this CPU has no %s", s->config->compute);
    printf("%s, %.0f cores in use, %d threads, %s\npeak of all threads %.0f GFLOP/s in fp32", name, s->machine.cores,
           omp_get_max_threads(), dispatch_path(), fp32_rate);
    if (bf16) printf(", %.0f in bf16", bf16_rate);
    printf("; memory %.1f GB/s, disk %.2f GB/s (%s, %s)\n\n", s->machine.memory_gbs, s->machine.disk_gbs, file,
           direct ? "past the page cache" : "direct reads refused");
    fflush(stdout);
    Json *record = report_record("machine");
    json_add_string(record, "cpu", name);
    json_add_number(record, "cores", s->machine.cores);
    json_add_number(record, "threads", omp_get_max_threads());
    json_add_string(record, "path", dispatch_path());
    json_add_number(record, "fp32_gflops", fp32_rate);
    if (bf16)
        json_add_number(record, "bf16_gflops", bf16_rate);
    else
        json_add_null(record, "bf16_gflops");
    json_add_number(record, "memory_gbs", s->machine.memory_gbs);
    json_add_number(record, "disk_gbs", s->machine.disk_gbs);
    return report_add(s->report, record);
}

/* ---- steps ---------------------------------------------------------------------------------------------------- */

/* A configuration, and its steps per round. */
typedef struct {
    const char *shape, *targets, *tokens, *document, *warm_up, *steps;
} StepCase;

static const StepCase step_cases[] = {
    {"S", "attn+experts", "512", "512", "2", "4"},      {"S", "attn", "512", "512", "2", "4"},
    {"S256", "attn+experts", "512", "512", "2", "3"},   {"S", "attn+experts", "4096", "512", "1", "1"},
    {"S256", "attn+experts", "4096", "512", "1", "1"},  {"S", "attn+experts", "4096", "4096", "1", "1"},
    {"S256", "attn+experts", "4096", "4096", "1", "1"},
};
enum { N_STEP_CASES = sizeof step_cases / sizeof *step_cases };

/* Run this program with these arguments, NULL last; what it prints on stdout is dropped. */
static Err *run_child(char **arguments)
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) return err_errno("start a process that measures steps");
    if (pid == 0) {
        if (freopen("/dev/null", "w", stdout)) execv("/proc/self/exe", arguments);
        _exit(ERR_IO);
    }
    if (waitpid(pid, &status, 0) < 0) return err_errno("wait for a process that measures steps");
    if (WIFSIGNALED(status))
        return err_new(ERR_IO, "the process that measured steps was ended by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status)
               ? err_new((ErrKind)WEXITSTATUS(status), "the process that measured steps failed, as it says above")
               : NULL;
}

static Err *measure_case(const Suite *s, const StepCase *c, const char *model, Json **record)
{
    char file[PATH_BYTES], name[64];
    snprintf(name, sizeof name, "steps.%ld.json", (long)getpid());
    TRY(file_join(file, s->config->directory, name));
    const char *words[] = {"graft",    "bench",   model,        "--targets", c->targets,
                           "--tokens", c->tokens, "--document", c->document, "--warm_up",
                           c->warm_up, "--steps", c->steps,     "--compute", s->config->compute,
                           "--timing", "--json",  file,         NULL};
    char *arguments[sizeof words / sizeof *words] = {0}; /* execv takes texts that it may write to */
    Err *err = NULL;
    for (size_t i = 0; words[i] && !err; i++) err = mem_copy_text(&arguments[i], words[i]);
    if (!err) err = run_child(arguments);
    if (!err) err = json_read_file(record, file);
    for (size_t i = 0; words[i]; i++) free(arguments[i]);
    unlink(file);
    return err;
}

static Err *report_case(Suite *s, size_t n, Json *const *records)
{
    Json *joined;
    TRY(step_record_join(&joined, n, (const Json *const *)records));
    Err *err = step_record_print(joined);
    if (!err) return report_add(s->report, joined);
    json_free(joined);
    return err;
}

static Err *measure_steps(Suite *s, char models[N_STEP_CASES][PATH_BYTES])
{
    Json *records[N_STEP_CASES][MAX_ROUNDS] = {0};
    size_t rounds = (size_t)s->config->rounds;
    Err *err = NULL;
    printf("Training steps: LoRA of r 8, AdamW; shares of the path's peak count the products with frozen "
           "weights: forward, and for the gradient of their input\n");
    fflush(stdout);
    for (size_t round = 0; round < rounds && !err; round++)
        for (size_t i = 0; i < N_STEP_CASES && !err; i++)
            err = measure_case(s, &step_cases[i], models[i], &records[i][round]);
    for (size_t i = 0; i < N_STEP_CASES && !err; i++) err = report_case(s, rounds, records[i]);
    for (size_t i = 0; i < N_STEP_CASES; i++)
        for (size_t round = 0; round < rounds; round++) json_free(records[i][round]);
    printf("\n");
    return err;
}

/* ---- generation ------------------------------------------------------------------------------------------------ */

static Err *generate_case(Suite *s, Model *model, int64_t batch)
{
    Json *record;
    GenerateConfig config = {.batch = batch, .prompt = 512, .new_tokens = 64, .rounds = 3};
    TRY(generate_measure(&record, model, "S", &config));
    generate_print(record);
    return report_add(s->report, record);
}

static Err *measure_generation(Suite *s, const char *directory)
{
    Model *model;
    Err *err = NULL;
    printf("Generation: prompts of 512 tokens, 64 new tokens each, greedy\n");
    TRY(model_open(&model, directory));
    for (int64_t batch = 1; batch <= 32 && !err; batch = batch == 1 ? 8 : 4 * batch)
        err = generate_case(s, model, batch);
    model_close(model);
    printf("\n");
    return err;
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

static Err *measure(Suite *s)
{
    char models[N_STEP_CASES][PATH_BYTES], weights[PATH_BYTES];
    for (size_t i = 0; i < N_STEP_CASES; i++)
        TRY(random_model_have(models[i], s->config->directory, step_cases[i].shape, 0));
    TRY(file_join(weights, models[0], "model.safetensors"));
    TRY(measure_machine(s, weights));
    Neighbours neighbours = neighbours_begin();
    if (s->config->products)
        TRY(products_measure(s->report, strcmp(s->config->compute, "auto") ? s->config->compute : NULL));
    if (s->config->operations) TRY(operations_measure(s->report, models[0], s->machine.memory_gbs));
    if (s->config->generate) TRY(measure_generation(s, models[0]));
    neighbours_report(neighbours_end(&neighbours));
    return s->config->steps ? measure_steps(s, models) : NULL;
}

Err *suite_run(const SuiteConfig *config)
{
    Suite suite = {.config = config};
    TRY(report_open(&suite.report, config->json));
    Err *err = measure(&suite);
    if (!err) return report_close(suite.report);
    report_discard(suite.report);
    return err;
}
