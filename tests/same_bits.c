/* same_bits GRAFT MODEL DATA [COMPUTE [KILLS]]: one result, however a run is shared out and whatever befalls it.
 *
 * Trains a small adapter (dropout, balance losses, moving biases, router and experts on) over every combination of
 * group, ranks, threads and kept tapes; stops runs half-way and resumes them with other ranks and threads; kills them at
 * random moments (KILLS times) and while a checkpoint is written; sends signals; fills the disk; evaluates and draws.
 * Compares the SHA-256 of adapter and moments that each run reports, and its metrics without what depends on the clock.
 * Two controls show that the comparison can fail. Then, in one process: a document's hidden states and gradients alone
 * and among others. With KILLS given, only what may befall a run, with that many kills. */
#define _GNU_SOURCE
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/rng.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"
#include "train/step.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STEPS = 4, STOP_AFTER = 2, MOST_WORDS = 64 };

extern char **environ;

typedef struct {
    const char *graft, *model, *data, *compute;
    char scratch[64];
    char state[80]; /* of the first run; the others must equal it */
    char *metrics;
    bool evaluates;            /* lines of evaluations count, too */
    uint64_t kill_key, run_ms; /* run_ms: what the first run took, start to end */
    size_t passed, failed;
} Bits;

typedef struct {
    const char *group; /* group_tokens */
    int ranks, threads, keep;
    const char *memory; /* memory_limit; NULL: none */
} Way;

static const char *const common[] = {"--r",
                                     "4",
                                     "--lora_alpha",
                                     "8",
                                     "--lora_dropout",
                                     "0.1",
                                     "--target_modules",
                                     "all-linear",
                                     "--train_router",
                                     "--train_batch_size",
                                     "7",
                                     "--micro_batch_tokens",
                                     "200",
                                     "--max_length",
                                     "160",
                                     "--learning_rate",
                                     "1e-3",
                                     "--seq_aux_loss_coef",
                                     "0.01",
                                     "--aux_loss_coef",
                                     "0.01",
                                     "--load_balancing_loss_coef",
                                     "0.01",
                                     "--z_loss_coef",
                                     "0.001",
                                     "--warmup_ratio",
                                     "0.25",
                                     "--weight_decay",
                                     "0.01",
                                     "--router_bias_update_rate",
                                     "0.001",
                                     "--loraplus_lr_ratio",
                                     "4",
                                     "--router_learning_rate",
                                     "1e-4",
                                     "--tensorboard",
                                     "false",
                                     "--save_steps",
                                     "2",
                                     "--save_total_limit",
                                     "0",
                                     "--seed",
                                     "7",
                                     "--max_steps",
                                     "4"};

/* Start graft train in a directory; extra words are added. Returns its process, or -1. */
static pid_t start(const Bits *bits, const char *directory, const Way *way, const char *const *extra)
{
    char ranks[16], threads[16], keep[16];
    const char *words[MOST_WORDS + 32] = {bits->graft,    "train",        "--model_name_or_path",
                                          bits->model,    "--train_file", bits->data,
                                          "--output_dir", directory,      "--group_tokens",
                                          way->group,     "--ranks",      ranks,
                                          "--threads",    threads,        "--keep_layers",
                                          keep,           "--compute",    bits->compute};
    size_t n = 18;
    snprintf(ranks, sizeof ranks, "%d", way->ranks);
    snprintf(threads, sizeof threads, "%d", way->threads);
    snprintf(keep, sizeof keep, "%d", way->keep);
    for (size_t i = 0; i < sizeof common / sizeof *common; i++) words[n++] = common[i];
    for (; extra && *extra; extra++) words[n++] = *extra;
    words[n] = NULL;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    char log[PATH_BYTES];
    snprintf(log, sizeof log, "%s.log", directory);
    posix_spawn_file_actions_addopen(&actions, 2, log, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    pid_t child;
    bool started = posix_spawn(&child, bits->graft, &actions, NULL, (char *const *)(size_t)words, environ) == 0;
    posix_spawn_file_actions_destroy(&actions);
    return started ? child : -1;
}

/* The exit code; -1 when a signal ended it, or it did not start. */
static int wait_for(pid_t child)
{
    int status = -1;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void show_log(const char *directory)
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

/* Run graft train to its end; returns the exit code. */
static int train(const Bits *bits, const char *directory, const Way *way, const char *const *extra)
{
    int code = wait_for(start(bits, directory, way, extra));
    if (code != 0) show_log(directory);
    return code;
}

/* The run's state digest, and its metrics without the clock's members; without evaluations unless they count.
 * Owner of *metrics: the caller. */
static Err *result_of(const Bits *bits, const char *directory, char state[80], char **metrics)
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
        if (!bits->evaluates && strstr(line, "\"eval_loss\"")) continue;
        size_t keep = clock ? (size_t)(clock - line) : strlen(line);
        err = mem_grow(metrics, &capacity, n + keep + 2, 1);
        if (err) break;
        memcpy(*metrics + n, line, keep);
        n += keep;
        (*metrics)[n++] = '\n';
        if (digest) snprintf(state, 80, "%.64s", digest + strlen("\"state_sha256\":\""));
    }
    free(text);
    return err;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *where)
{
    (void)st;
    (void)flag;
    (void)where;
    return remove(path);
}

static void judge(Bits *bits, const char *what, const char *directory, int code)
{
    char state[80] = "", *metrics = NULL;
    Err *err = code ? NULL : result_of(bits, directory, state, &metrics);
    if (!bits->metrics && !err && *state) {
        snprintf(bits->state, sizeof bits->state, "%s", state);
        bits->metrics = metrics ? strdup(metrics) : NULL;
    }
    bool same = !code && !err && *state && strcmp(state, bits->state) == 0 && metrics && bits->metrics &&
                strcmp(metrics, bits->metrics) == 0;
    printf("  %-58s %.16s%s\n", what, *state ? state : "(no result)", same ? "" : "  FAIL");
    fflush(stdout);
    bits->passed += same;
    bits->failed += !same;
    err_free(err);
    free(metrics);
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void run_way(Bits *bits, const Way *way)
{
    char directory[128], what[96];
    const char *const limit[] = {"--memory_limit", way->memory, NULL};
    snprintf(directory, sizeof directory, "%s/g%s-r%d-t%d-k%d-m%s", bits->scratch, way->group, way->ranks, way->threads,
             way->keep, way->memory ? way->memory : "");
    snprintf(what, sizeof what, "group_tokens %-4s ranks %d threads %d kept layers %d %s", way->group, way->ranks,
             way->threads, way->keep, way->memory ? way->memory : "");
    uint64_t began = now_ms();
    judge(bits, what, directory, train(bits, directory, way, way->memory ? limit : NULL));
    if (!bits->run_ms) bits->run_ms = now_ms() - began;
}

/* The same data, not kept: read and tokenized as the steps need it. */
static void run_unkept(Bits *bits, const Way *way)
{
    static const char *const unkept[] = {"--preload_mb", "0", NULL};
    char directory[128], what[96];
    snprintf(directory, sizeof directory, "%s/unkept-r%d-t%d", bits->scratch, way->ranks, way->threads);
    snprintf(what, sizeof what, "data read step by step, ranks %d threads %d", way->ranks, way->threads);
    judge(bits, what, directory, train(bits, directory, way, unkept));
}

/* The state after STOP_AFTER steps is what the first way's checkpoint holds: go on from a copy of its run elsewhere. */
static void run_resumed(Bits *bits, const Way *before, const Way *after)
{
    char directory[128], checkpoint[256], what[96];
    snprintf(directory, sizeof directory, "%s/resume-%d%d-%d%d", bits->scratch, before->ranks, before->threads,
             after->ranks, after->threads);
    snprintf(checkpoint, sizeof checkpoint, "%s/checkpoint-%06d.h5", directory, STOP_AFTER);
    snprintf(what, sizeof what, "ranks %d threads %d, stopped, resumed with ranks %d threads %d", before->ranks,
             before->threads, after->ranks, after->threads);
    int code = train(bits, directory, before, NULL);
    const char *const resume[] = {"--resume_from_checkpoint", checkpoint, NULL};
    if (code == 0) code = train(bits, directory, after, resume);
    judge(bits, what, directory, code);
}

/* ---- what may befall a run ------------------------------------------------------------------------------------ */

static bool has_checkpoint(const char *directory, int step)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/checkpoint-%06d.h5", directory, step);
    return file_exists(path);
}

/* A draft of a checkpoint is being written. */
static bool is_writing(const char *directory)
{
    bool writing = false;
    DIR *stream = opendir(directory);
    for (struct dirent *entry; stream && (entry = readdir(stream));)
        writing = writing || (strstr(entry->d_name, "checkpoint-") && strstr(entry->d_name, ".draft."));
    if (stream) closedir(stream);
    return writing;
}

static const char *const go_on[] = {"--resume_from_checkpoint", "auto", NULL}, *const start_over[] = {
                                                                                   "--overwrite_output_dir", NULL};

/* Go on where the run can. */
static const char *const *onward(const char *directory)
{
    for (int step = 0; step <= STEPS; step++)
        if (has_checkpoint(directory, step)) return go_on;
    return start_over;
}

/* kill -9: the ranks below mpirun first, then itself. */
static void kill_all(pid_t child)
{
    DIR *stream = opendir("/proc");
    for (struct dirent *entry; stream && (entry = readdir(stream));) {
        char path[PATH_BYTES], text[512] = "";
        long parent = 0;
        snprintf(path, sizeof path, "/proc/%.32s/stat", entry->d_name);
        FILE *file = fopen(path, "re");
        if (!file) continue;
        size_t n = fread(text, 1, sizeof text - 1, file);
        fclose(file);
        text[n] = 0;
        const char *after_name = strrchr(text, ')');
        if (after_name && sscanf(after_name, ") %*c %ld", &parent) == 1 && parent == child)
            kill((pid_t)strtol(entry->d_name, NULL, 10), SIGKILL);
    }
    if (stream) closedir(stream);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void sleep_ms(uint64_t ms)
{
    nanosleep(&(struct timespec){(time_t)(ms / 1000), (long)(ms % 1000) * 1000000}, NULL);
}

static bool has_ended(pid_t child)
{
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == child;
}

/* Ways to go on with after each accident. */
static const Way ways[] = {{"0", 1, 2, 0, NULL}, {"400", 2, 1, 0, NULL}, {"1", 3, 1, 2, NULL}, {"400", 1, 1, 3, NULL}};
enum { N_WAYS = sizeof ways / sizeof *ways };

static const char *const watch[] = {
    "--eval_steps", "2", "--tensorboard", "true", "--early_stopping_patience", "9", NULL};

/* Words to go on with, and with evaluation, best step and TensorBoard on where asked. */
static int go_on_watched(const Bits *bits, const char *directory, const Way *way, bool watched, pid_t *child)
{
    const char *words[16];
    size_t n = 0;
    for (const char *const *at = onward(directory); *at; at++) words[n++] = *at;
    if (watched) words[n++] = "--eval_file";
    if (watched) words[n++] = bits->data;
    for (size_t i = 0; watched && watch[i]; i++) words[n++] = watch[i];
    words[n] = NULL;
    if (!child) return train(bits, directory, way, words);
    *child = start(bits, directory, way, words);
    return 0;
}

/* Draw what there is, whatever state the run is in. */
static int plot(const Bits *bits, const char *directory)
{
    char picture[160];
    snprintf(picture, sizeof picture, "%s/loss.png", directory);
    const char *const words[] = {bits->graft, "plot", directory, "--output", picture, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    pid_t child;
    int code = posix_spawn(&child, bits->graft, &actions, NULL, (char *const *)(size_t)words, environ) == 0
                   ? wait_for(child)
                   : -1;
    posix_spawn_file_actions_destroy(&actions);
    return code;
}

/* Has the run written a line? */
static bool has_begun(const char *directory)
{
    char metrics[160];
    struct stat st;
    snprintf(metrics, sizeof metrics, "%s/metrics.jsonl", directory);
    return stat(metrics, &st) == 0 && st.st_size > 0;
}

/* Kill a run until `kills` have struck, each somewhere in the time that a run takes, and each time go on with other ranks and
 * threads, every other time with evaluation and pictures; then let it finish. */
static void run_killed(Bits *bits, size_t kills)
{
    char directory[128], what[96];
    size_t struck = 0, begun = 0, drawn = 0;
    snprintf(directory, sizeof directory, "%s/killed", bits->scratch);
    for (size_t i = 0; struck < kills && i < 4 * kills; i++) {
        if (has_checkpoint(directory, STEPS)) { /* it was ready: judge it, and begin a new one */
            snprintf(what, sizeof what, "killed %zu times until here, resumed", struck);
            judge(bits, what, directory, go_on_watched(bits, directory, &ways[i % N_WAYS], i % 2, NULL));
            nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        }
        pid_t child;
        go_on_watched(bits, directory, &ways[i % N_WAYS], i % 2, &child);
        if (child < 0) continue;
        sleep_ms(rng_below(bits->kill_key, i, bits->run_ms * 3 / 2));
        bool strikes = !has_ended(child);
        struck += strikes;
        begun += strikes && has_begun(directory);
        kill_all(child);
        if (i % 2 && has_begun(directory)) drawn += plot(bits, directory) == 0;
    }
    snprintf(what, sizeof what, "killed %zu times (%zu after a step), drawn %zu times, resumed", struck, begun, drawn);
    judge(bits, what, directory, go_on_watched(bits, directory, &ways[kills % N_WAYS], false, NULL));
}

/* Kill a run as soon as the draft of its n-th checkpoint is there, so that the file is half written. */
static bool kill_while_writing(const Bits *bits, const char *directory, const Way *way)
{
    pid_t child = start(bits, directory, way, NULL);
    while (child > 0 && !has_ended(child) && !(has_checkpoint(directory, STOP_AFTER) && is_writing(directory)))
        sleep_ms(0);
    if (child > 0) kill_all(child);
    return has_checkpoint(directory, STOP_AFTER) && !has_checkpoint(directory, STEPS);
}

static void run_half_written(Bits *bits)
{
    char directory[128], what[96];
    for (size_t i = 0; i < 2; i++) {
        snprintf(directory, sizeof directory, "%s/written-%zu", bits->scratch, i);
        bool half = kill_while_writing(bits, directory, &ways[i]);
        snprintf(what, sizeof what, "killed while a checkpoint was written%s, resumed", half ? "" : " (missed)");
        judge(bits, what, directory, train(bits, directory, &ways[i + 1], onward(directory)));
    }
}

/* The disk is full when the second checkpoint is due: the run says so and ends, the first stays and serves. */
static void run_full_disk(Bits *bits)
{
    char directory[128];
    struct rlimit before, small = {1 << 20, 1 << 20};
    snprintf(directory, sizeof directory, "%s/full", bits->scratch);
    kill_while_writing(bits, directory, &ways[0]);
    getrlimit(RLIMIT_FSIZE, &before);
    small.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN); /* an error, as on a full disk, instead of a signal */
    setrlimit(RLIMIT_FSIZE, &small);
    int code = wait_for(start(bits, directory, &ways[3], go_on));
    setrlimit(RLIMIT_FSIZE, &before);
    bool clean = code == ERR_IO && has_checkpoint(directory, STOP_AFTER) && !has_checkpoint(directory, STEPS) &&
                 !is_writing(directory);
    if (!clean) show_log(directory);
    judge(bits, clean ? "a full disk, then resumed" : "a full disk (code or files are wrong)", directory,
          clean ? train(bits, directory, &ways[0], go_on) : 1);
}

static void run_unwritable(Bits *bits)
{
    char file[128], below[160], directory[128];
    snprintf(file, sizeof file, "%s/file", bits->scratch);
    snprintf(below, sizeof below, "%s/run", file);
    snprintf(directory, sizeof directory, "%s/unwritable", bits->scratch);
    err_free(file_write(file, "x", 1));
    int code = wait_for(start(bits, directory, &ways[0], (const char *const[]){"--output_dir", below, NULL}));
    bool refused = code == ERR_IO;
    printf("  %-58s %s\n", "a directory that cannot be written", refused ? "refused" : "FAIL");
    bits->passed += refused;
    bits->failed += !refused;
}

/* SIGUSR1 saves and goes on, SIGTERM saves and ends; neither leaves a trace in the result. */
static void run_signalled(Bits *bits, const Way *before, const Way *after)
{
    char directory[128], what[96];
    snprintf(directory, sizeof directory, "%s/signal-%d", bits->scratch, before->ranks);
    pid_t child = start(bits, directory, before, NULL);
    while (child > 0 && !has_ended(child) && !has_begun(directory)) sleep_ms(1);
    if (child > 0) kill(child, SIGUSR1);
    sleep_ms(100);
    if (child > 0) kill(child, SIGTERM);
    int code = wait_for(child);
    bool saved = code == ERR_STOPPED || before->ranks > 1 || code == 0;
    snprintf(what, sizeof what, "ranks %d: SIGUSR1, SIGTERM (code %d), resumed with %d", before->ranks, code,
             after->ranks);
    judge(bits, what, directory, saved ? train(bits, directory, after, onward(directory)) : 1);
}

/* What is looked at changes nothing; and evaluations, too, say the same however they are shared out. */
static void run_watched(Bits *bits)
{
    Bits own = *bits;
    own.passed = own.failed = 0;
    own.metrics = NULL;
    own.evaluates = true;
    for (size_t i = 0; i < 3; i++) {
        char directory[128], what[96];
        snprintf(directory, sizeof directory, "%s/watched-%zu", bits->scratch, i);
        snprintf(what, sizeof what, "evaluation, best, TensorBoard and plot on, ranks %d", ways[i].ranks);
        int code = go_on_watched(bits, directory, &ways[i], true, NULL);
        if (code == 0) code = plot(bits, directory);
        if (i == 0) judge(bits, what, directory, code);
        judge(&own, "  and the evaluations' lines", directory, code);
    }
    free(own.metrics);
    bits->passed += own.passed;
    bits->failed += own.failed;
}

/* Four documents, each a micro-batch: one rank has four of them, two have two, four have one. */
static void run_shared_out(Bits *bits)
{
    static const int ranks[] = {1, 2, 4};
    Bits own = *bits;
    own.metrics = NULL;
    own.passed = own.failed = 0;
    for (size_t i = 0; i < 3; i++) {
        char directory[128], what[96];
        const char *const four[] = {"--train_batch_size", "4", "--micro_batch_tokens", "1", NULL};
        snprintf(directory, sizeof directory, "%s/shared-%d", bits->scratch, ranks[i]);
        snprintf(what, sizeof what, "four micro-batches on %d rank%s", ranks[i], ranks[i] > 1 ? "s" : "");
        judge(&own, what, directory, train(&own, directory, &(Way){"0", ranks[i], 1, 0, NULL}, four));
    }
    free(own.metrics);
    bits->passed += own.passed;
    bits->failed += own.failed;
}

/* A run that must come out otherwise. */
static void run_control(Bits *bits, const char *what, const char *key, const char *value)
{
    char directory[128], state[80] = "", *metrics = NULL;
    snprintf(directory, sizeof directory, "%s/control-%s", bits->scratch, key + 2);
    int code = train(bits, directory, &(Way){"0", 1, 1, 0, NULL}, (const char *const[]){key, value, NULL});
    Err *err = code ? NULL : result_of(bits, directory, state, &metrics);
    bool differs = !code && !err && *state && strcmp(state, bits->state) != 0;
    printf("  control: %-49s %.16s%s\n", what, *state ? state : "(no result)", differs ? " differs" : "  FAIL");
    bits->passed += differs;
    bits->failed += !differs;
    err_free(err);
    free(metrics);
}

/* ---- a document alone and among others ------------------------------------------------------------------------ */

enum { DOCS = 3 };
static const size_t lengths[DOCS] = {150, 1, 67}; /* the first is longer than the base's index_topk */

/* What a step shows of its rows: the last hidden state and the gradient of the first. */
typedef struct {
    size_t n_layers, D;
    float *last, *first_grad; /* [rows][D] */
} Seen;

static void see(void *context, const char *what, size_t l, size_t row, size_t rows, size_t cols, const void *data)
{
    Seen *seen = context;
    float *to = !strcmp(what, "hidden") && l == seen->n_layers ? seen->last
                : !strcmp(what, "grad.hidden") && l == 0       ? seen->first_grad
                                                               : NULL;
    if (to) memcpy(to + row * cols, data, rows * cols * sizeof *to);
}

/* Gradients of documents as micro-batches of their own; `scored` stands for the whole step's. */
static Err *gradients_of(Model *model, Adapter *adapter, size_t n, const Document *const *docs, size_t n_loss_tokens,
                         Seen *seen, float *gradient)
{
    Dp dp = {.size = 1};
    Batch batch = {0};
    Step *step;
    StepResult result;
    StepProbe probe = {seen, see};
    *seen = (Seen){.n_layers = model->n_layers, .D = (size_t)model->config.hidden_size};
    TRY(step_new(&step, &dp, model, adapter, &(StepConfig){0}));
    Err *err = batch_new(&batch, &dp, n, docs, 1, 0);
    batch.n_loss_tokens = n_loss_tokens;
    if (!err) err = mem_new(&seen->last, batch.T * seen->D, sizeof(float));
    if (!err) err = mem_new(&seen->first_grad, batch.T * seen->D, sizeof(float));
    if (!err) err = step_gradients(step, &batch, 0, &probe, &result);
    for (size_t l = 0; l < adapter->n_layers && !err; l++)
        memcpy(gradient + adapter->layers[l].offset, step_gradient(step, l), adapter->layers[l].n * sizeof *gradient);
    batch_free(&batch);
    step_free(step);
    return err;
}

static Err *random_document(Document *doc, size_t n, uint64_t key, uint64_t vocabulary)
{
    *doc = (Document){.n = n, .n_loss_tokens = n};
    TRY(mem_new(&doc->ids, n, sizeof *doc->ids));
    TRY(mem_new(&doc->targets, n, sizeof *doc->targets));
    for (size_t t = 0; t < n; t++) {
        doc->ids[t] = (int32_t)rng_below(key, 2 * t, vocabulary);
        doc->targets[t] = (int32_t)rng_below(key, 2 * t + 1, vocabulary);
    }
    return NULL;
}

static Err *compare_alone(Bits *bits, Model *model, Adapter *adapter)
{
    Document docs[DOCS];
    const Document *all[DOCS];
    size_t n_loss_tokens = 0, n = adapter->n, row = 0;
    float *sum, *whole, *mine;
    Seen together;
    TRY(mem_new(&sum, n, sizeof *sum));
    TRY(mem_new(&whole, n, sizeof *whole));
    TRY(mem_new(&mine, n, sizeof *mine));
    for (size_t d = 0; d < DOCS; d++) {
        TRY(random_document(&docs[d], lengths[d], d, (uint64_t)model->config.vocab_size));
        all[d] = &docs[d];
        n_loss_tokens += lengths[d];
    }
    TRY(gradients_of(model, adapter, DOCS, all, n_loss_tokens, &together, whole));
    bool same = true;
    for (size_t d = 0; d < DOCS; d++) {
        Seen alone;
        TRY(gradients_of(model, adapter, 1, &all[d], n_loss_tokens, &alone, mine));
        size_t at = row * alone.D, bytes = lengths[d] * alone.D * sizeof(float);
        same = same && !memcmp(alone.last, together.last + at, bytes) &&
               !memcmp(alone.first_grad, together.first_grad + at, bytes);
        for (size_t i = 0; i < n; i++)
            sum[i] = d ? sum[i] + mine[i] : mine[i]; /* the tree of three leaves: (0 + 1) + 2 */
        row += lengths[d];
        free(alone.last);
        free(alone.first_grad);
        free(docs[d].ids);
        free(docs[d].targets);
    }
    same = same && memcmp(sum, whole, n * sizeof *sum) == 0;
    printf("  %-58s %s\n", "a document's states and gradients alone and among others", same ? "equal" : "FAIL");
    bits->passed += same;
    bits->failed += !same;
    free(together.last);
    free(together.first_grad);
    free(sum);
    free(whole);
    free(mine);
    return NULL;
}

static Err *run_alone(Bits *bits)
{
    Model *model;
    Adapter *adapter;
    Json *targets = json_new_array();
    json_add_string(targets, NULL, "all-linear"); /* everything that can carry a pair */
    TRY(model_open(&model, bits->model));
    Err *err =
        adapter_new(&adapter, model,
                    &(LoraConfig){.r = 4, .lora_alpha = 8, .target_modules = json_first(targets), .train_router = true},
                    3);
    if (!err) {
        for (size_t i = 0; i < adapter->n; i++)
            adapter->values[i] += 0.02f * (float)rng_normal(5, i); /* B is zero no more */
        err = compare_alone(bits, model, adapter);
        adapter_free(adapter);
    }
    json_free(targets);
    model_close(model);
    return err;
}

static void run_befallen(Bits *bits)
{
    run_half_written(bits);
    run_full_disk(bits);
    run_unwritable(bits);
    run_signalled(bits, &ways[0], &ways[1]);
    run_signalled(bits, &ways[1], &ways[3]);
    run_watched(bits);
}

static void run_everything(Bits *bits)
{
    static const char *const groups[] = {"1", "400", "0"}; /* one micro-batch, two, all */
    for (size_t g = 0; g < 3; g++)
        for (int ranks = 1; ranks <= 3; ranks++)
            for (int threads = 1; threads <= 2; threads++)
                for (int keep = 0; keep <= 3; keep += 3) run_way(bits, &(Way){groups[g], ranks, threads, keep, NULL});
    static const char *const others[] = {"600", "800", "1000"}; /* groups of every size between */
    for (size_t g = 0; g < 3; g++) run_way(bits, &(Way){others[g], 1, 2, 0, NULL});
    for (int ranks = 1; ranks <= 3; ranks++) run_unkept(bits, &(Way){"0", ranks, 1 + ranks % 2, 0, NULL});
    /* Weights streamed and boundaries in a file, from a small limit to one that nearly holds all. */
    run_way(bits, &(Way){"0", 1, 2, 0, "62MiB"});
    run_way(bits, &(Way){"1", 1, 1, 3, "142MiB"});
    run_way(bits, &(Way){"0", 2, 1, 0, "118MiB"});
    run_way(bits, &(Way){"1", 3, 1, 0, "156MiB"});   /* ranks with unequal numbers of groups */
    run_way(bits, &(Way){"400", 3, 1, 0, "162MiB"}); /* and experts in runs */
    run_resumed(bits, &(Way){"0", 1, 2, 0, NULL}, &(Way){"1", 3, 1, 2, NULL});
    run_resumed(bits, &(Way){"400", 2, 1, 0, NULL}, &(Way){"0", 1, 1, 0, NULL});
    run_resumed(bits, &(Way){"1", 3, 1, 1, NULL}, &(Way){"400", 2, 2, 0, NULL});
    run_killed(bits, 2);
    run_befallen(bits);
    run_shared_out(bits);
    run_control(bits, "another seed", "--seed", "8");
    run_control(bits, "other micro-batches", "--micro_batch_tokens", "100");
    Err *err = run_alone(bits);
    if (err) {
        printf("  FAIL: %s\n", err_message(err));
        bits->failed++;
        err_free(err);
    }
}

int main(int argc, char **argv)
{
    Bits bits = {.graft = argc > 1 ? argv[1] : "",
                 .model = argc > 2 ? argv[2] : "",
                 .data = argc > 3 ? argv[3] : "",
                 .compute = argc > 4 ? argv[4] : "fp32",
                 .scratch = "/tmp/same_bits.XXXXXX"};
    if (argc < 4 || argc > 6) {
        fprintf(stderr, "usage: same_bits GRAFT MODEL DATA [COMPUTE [KILLS]]\n");
        return 2;
    }
    if (!dispatch_init(bits.compute)) {
        printf("same_bits: skipped, this CPU has no %s\n", bits.compute);
        return 0;
    }
    printf("%s\n", dispatch_path());
    if (!mkdtemp(bits.scratch)) {
        perror(bits.scratch);
        return 2;
    }
    bits.kill_key = rng_key((uint64_t)time(NULL), 0);
    if (argc == 6) {
        run_way(&bits, &ways[0]);
        run_killed(&bits, strtoul(argv[5], NULL, 10));
        run_befallen(&bits);
    } else {
        run_everything(&bits);
    }
    nftw(bits.scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(bits.metrics);
    printf("%zu passed, %zu failed\n", bits.passed, bits.failed);
    return bits.failed != 0;
}
