/* Starting graft train, and comparing what it wrote. Only the last `state_sha256` of metrics.jsonl counts; members from
 * "seconds" on depend on the clock and are cut off. */
#define _GNU_SOURCE
#include "tests/support/shared_runs.h"

#include "base/file.h"
#include "base/memory.h"

#include <fcntl.h>
#include <ftw.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_WORDS = 96, MAX_WORD_BYTES = 8192 };

extern char **environ;

/* A setting of every run, and its value. */
static const char *const common[][2] = {
    {"--r", "4"},
    {"--lora_alpha", "8"},
    {"--lora_dropout", "0.1"},
    {"--target_modules", "all-linear"},
    {"--train_router", "true"},
    {"--train_batch_size", "7"},
    {"--micro_batch_tokens", "200"},
    {"--max_length", "160"},
    {"--learning_rate", "1e-3"},
    {"--seq_aux_loss_coef", "0.01"},
    {"--aux_loss_coef", "0.01"},
    {"--load_balancing_loss_coef", "0.01"},
    {"--z_loss_coef", "0.001"},
    {"--warmup_ratio", "0.25"},
    {"--weight_decay", "0.01"},
    {"--router_bias_update_rate", "0.001"},
    {"--loraplus_lr_ratio", "4"},
    {"--router_learning_rate", "1e-4"},
    {"--tensorboard", "false"},
    {"--save_steps", "2"},
    {"--save_total_limit", "0"},
    {"--seed", "7"},
    {"--max_steps", "4"},
};

pid_t runs_spawn(const char *const *words, const char *log)
{
    /* posix_spawn takes words that can be written to. */
    char *copies[MAX_WORDS + 1], text[MAX_WORD_BYTES];
    size_t n = 0, at = 0;
    for (; words[n]; n++) {
        size_t bytes = strlen(words[n]) + 1;
        if (n == MAX_WORDS || at + bytes > sizeof text) return -1;
        copies[n] = memcpy(text + at, words[n], bytes);
        at += bytes;
    }
    copies[n] = NULL;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 2, log, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    pid_t child;
    bool started = posix_spawn(&child, copies[0], &actions, NULL, copies, environ) == 0;
    posix_spawn_file_actions_destroy(&actions);
    return started ? child : -1;
}

pid_t runs_start(const SharedRuns *runs, const char *directory, const Sharing *sharing, const char *const *extra)
{
    char ranks[16], threads[16], keep[16], log[PATH_BYTES];
    const char *words[MAX_WORDS + 1] = {runs->graft,    "train",        "--model_name_or_path",
                                        runs->model,    "--train_file", runs->data,
                                        "--output_dir", directory,      "--group_tokens",
                                        sharing->group, "--ranks",      ranks,
                                        "--threads",    threads,        "--keep_layers",
                                        keep,           "--compute",    runs->compute};
    size_t n = 18;
    snprintf(ranks, sizeof ranks, "%d", sharing->ranks);
    snprintf(threads, sizeof threads, "%d", sharing->threads);
    snprintf(keep, sizeof keep, "%d", sharing->keep_layers);
    snprintf(log, sizeof log, "%s.log", directory);
    for (size_t i = 0; i < sizeof common / sizeof *common; i++)
        for (size_t j = 0; j < 2; j++) words[n++] = common[i][j];
    for (; extra && *extra && n < MAX_WORDS; extra++) words[n++] = *extra;
    words[n] = NULL;
    return runs_spawn(words, log);
}

int runs_wait(pid_t child)
{
    int status = -1;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void runs_print_log(const char *directory)
{
    char log[PATH_BYTES], *text;
    size_t bytes;
    snprintf(log, sizeof log, "%s.log", directory);
    Err *err = file_read(&text, &bytes, log);
    if (!err) {
        printf("%s", text);
        free(text);
    }
    err_free(err);
}

int runs_train(const SharedRuns *runs, const char *directory, const Sharing *sharing, const char *const *extra)
{
    int code = runs_wait(runs_start(runs, directory, sharing, extra));
    if (code != 0) runs_print_log(directory);
    return code;
}

/* ---- results -------------------------------------------------------------------------------------------------- */

/* Owner of *metrics: the caller. */
static Err *result_of(const SharedRuns *runs, const char *directory, char state[80], char **metrics)
{
    char path[PATH_BYTES], *text, *line, *rest = NULL;
    size_t bytes, capacity = 0, n = 0;
    TRY(file_join(path, directory, "metrics.jsonl"));
    TRY(file_read(&text, &bytes, path));
    *metrics = NULL;
    state[0] = 0;
    Err *err = NULL;
    for (line = strtok_r(text, "\n", &rest); line && !err; line = strtok_r(NULL, "\n", &rest)) {
        const char *clock = strstr(line, ",\"seconds\""), *digest = strstr(line, "\"state_sha256\":\"");
        if (!runs->evaluates && strstr(line, "\"eval_loss\"")) continue;
        size_t length = clock ? (size_t)(clock - line) : strlen(line);
        err = mem_grow(metrics, &capacity, n + length + 2, 1);
        if (err) break;
        memcpy(*metrics + n, line, length);
        n += length;
        (*metrics)[n++] = '\n';
        if (digest) snprintf(state, 80, "%.64s", digest + strlen("\"state_sha256\":\""));
    }
    free(text);
    return err;
}

void runs_count(SharedRuns *runs, const char *what, const char *outcome, bool passed)
{
    printf("  %-58s %.16s%s\n", what, outcome, passed ? "" : "  FAIL");
    fflush(stdout);
    runs->passed += passed;
    runs->failed += !passed;
}

void runs_compare(SharedRuns *runs, const char *what, const char *directory, int code)
{
    char state[80] = "", *metrics = NULL;
    Err *err = code ? NULL : result_of(runs, directory, state, &metrics);
    if (!runs->metrics && !err && *state) {
        snprintf(runs->state, sizeof runs->state, "%s", state);
        runs->metrics = metrics ? strdup(metrics) : NULL;
    }
    bool same = !code && !err && *state && strcmp(state, runs->state) == 0 && metrics && runs->metrics &&
                strcmp(metrics, runs->metrics) == 0;
    runs_count(runs, what, *state ? state : "(no result)", same);
    err_free(err);
    free(metrics);
}

void runs_control(SharedRuns *runs, const char *what, const char *key, const char *value)
{
    char directory[RUN_DIRECTORY], line[RUN_DESCRIPTION], state[80] = "", *metrics = NULL;
    snprintf(directory, sizeof directory, "%s/control-%s", runs->scratch, key + 2);
    snprintf(line, sizeof line, "control, must differ: %s", what);
    int code = runs_train(runs, directory, &(Sharing){"0", 1, 1, 0, NULL}, (const char *const[]){key, value, NULL});
    Err *err = code ? NULL : result_of(runs, directory, state, &metrics);
    runs_count(runs, line, *state ? state : "(no result)", !code && !err && *state && strcmp(state, runs->state) != 0);
    err_free(err);
    free(metrics);
}

/* ---- files and clock ------------------------------------------------------------------------------------------ */

bool runs_has_checkpoint(const char *directory, int step)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/checkpoint-%06d.h5", directory, step);
    return file_exists(path);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *where)
{
    (void)st;
    (void)flag;
    (void)where;
    return remove(path);
}

void runs_remove(const char *directory) { nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

uint64_t runs_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
