/* Interrupting runs. A kill takes every process of a run, mpirun and its ranks included, and returns when none of them
 * is left: a rank that outlived its kill would go on writing beside the run that resumes. */
#define _GNU_SOURCE
#include "tests/support/interruptions.h"

#include "base/file.h"
#include "base/rng.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

enum { MAX_TRIES = 8, MAX_PROCESSES = 64 };

const Sharing sharings[N_SHARINGS] = {{"0", 1, 2, 0, NULL},
                                      {"400", 2, 1, 0, NULL},
                                      {"1", 3, 1, 2, NULL},
                                      {"400", 1, 1, 3, NULL}};

static const char *const go_on[] = {"--resume_from_checkpoint", "auto", NULL};
static const char *const start_over[] = {"--overwrite_output_dir", "true", NULL};

/* ---- what state a run is in ----------------------------------------------------------------------------------- */

static bool has_any_checkpoint(const char *directory)
{
    for (int step = 0; step <= RUN_STEPS; step++)
        if (runs_has_checkpoint(directory, step)) return true;
    return false;
}

static const char *const *words_to_go_on(const char *directory)
{
    return has_any_checkpoint(directory) ? go_on : start_over;
}

/* A draft of a checkpoint lies there. */
static bool has_draft(const char *directory)
{
    bool found = false;
    DIR *stream = opendir(directory);
    for (struct dirent *entry; stream && (entry = readdir(stream));)
        found = found || (strstr(entry->d_name, "checkpoint-") && strstr(entry->d_name, ".draft."));
    if (stream) closedir(stream);
    return found;
}

/* The run has written a line of metrics. */
static bool has_begun(const char *directory)
{
    char metrics[RUN_DIRECTORY + 32];
    struct stat st;
    snprintf(metrics, sizeof metrics, "%s/metrics.jsonl", directory);
    return stat(metrics, &st) == 0 && st.st_size > 0;
}

static bool has_ended(pid_t child)
{
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == child;
}

static void sleep_ms(uint64_t ms)
{
    nanosleep(&(struct timespec){(time_t)(ms / 1000), (long)(ms % 1000) * 1000000}, NULL);
}

/* ---- kill -9 -------------------------------------------------------------------------------------------------- */

/* A process's parent; 0 when it is gone, or dead and not yet waited for. */
static pid_t parent_of(const char *process)
{
    char path[PATH_BYTES], text[512] = "", state = 'Z';
    long parent = 0;
    snprintf(path, sizeof path, "/proc/%.32s/stat", process);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    const char *after_name = strrchr(text, ')');
    if (!after_name || sscanf(after_name, ") %c %ld", &state, &parent) != 2) return 0;
    return state == 'Z' ? 0 : (pid_t)parent;
}

/* Add the processes whose parent is among the n to them; returns how many there are then. */
static size_t add_children(pid_t of[MAX_PROCESSES], size_t n)
{
    DIR *stream = opendir("/proc");
    for (struct dirent *entry; stream && (entry = readdir(stream));) {
        pid_t process = (pid_t)strtol(entry->d_name, NULL, 10), parent = process > 0 ? parent_of(entry->d_name) : 0;
        bool is_child = false, is_known = false;
        for (size_t i = 0; i < n; i++) {
            is_child = is_child || of[i] == parent;
            is_known = is_known || of[i] == process;
        }
        if (is_child && !is_known && n < MAX_PROCESSES) of[n++] = process;
    }
    if (stream) closedir(stream);
    return n;
}

/* Kill the child and all that descend from it, and wait until none is left. */
static void kill_all(pid_t child)
{
    enum { WAIT_MS = 10000 };
    pid_t all[MAX_PROCESSES] = {child};
    for (size_t before = 0, n = 1; n > before;) {
        before = n;
        n = add_children(all, n);
    }
    for (size_t i = MAX_PROCESSES; i-- > 0;)
        if (all[i]) kill(all[i], SIGKILL);
    waitpid(child, NULL, 0);
    for (size_t i = 1; i < MAX_PROCESSES && all[i]; i++) {
        char process[32];
        snprintf(process, sizeof process, "%ld", (long)all[i]);
        for (int ms = 0; ms < WAIT_MS && parent_of(process); ms++) sleep_ms(1);
    }
}

/* ---- going on ------------------------------------------------------------------------------------------------- */

/* Go on where the run can, or start over. evaluated: with evaluations, the best step and TensorBoard. child: only start
 * it; NULL: wait for the exit code. */
static int go_on_with(const SharedRuns *runs, const char *directory, const Sharing *sharing, bool evaluated,
                      pid_t *child)
{
    const char *const evaluation[] = {
        "--eval_file", runs->data, "--eval_steps", "2", "--tensorboard", "true", "--early_stopping_patience",
        "9",           NULL};
    const char *words[16];
    size_t n = 0;
    for (const char *const *at = words_to_go_on(directory); *at; at++) words[n++] = *at;
    for (size_t i = 0; evaluated && evaluation[i]; i++) words[n++] = evaluation[i];
    words[n] = NULL;
    if (!child) return runs_train(runs, directory, sharing, words);
    *child = runs_start(runs, directory, sharing, words);
    return 0;
}

/* Draw what there is, whatever state the run is in. */
static int plot(const SharedRuns *runs, const char *directory)
{
    char picture[RUN_DIRECTORY + 32];
    snprintf(picture, sizeof picture, "%s/loss.png", directory);
    const char *const words[] = {runs->graft, "plot", directory, "--output", picture, NULL};
    return runs_wait(runs_spawn(words, "/dev/null"));
}

/* ---- kills ---------------------------------------------------------------------------------------------------- */

void interrupt_by_kills(SharedRuns *runs, size_t kills)
{
    char directory[RUN_DIRECTORY], what[RUN_DESCRIPTION];
    size_t struck = 0, begun = 0, drawn = 0;
    snprintf(directory, sizeof directory, "%s/killed", runs->scratch);
    for (size_t i = 0; struck < kills && i < MAX_TRIES * kills; i++) {
        const Sharing *sharing = &sharings[i % N_SHARINGS];
        if (runs_has_checkpoint(directory, RUN_STEPS)) { /* it was ready: compare it, and begin a new one */
            snprintf(what, sizeof what, "killed %zu times until here, resumed", struck);
            runs_compare(runs, what, directory, go_on_with(runs, directory, sharing, i % 2, NULL));
            runs_remove(directory);
        }
        pid_t child;
        go_on_with(runs, directory, sharing, i % 2, &child);
        if (child < 0) continue;
        sleep_ms(rng_below(runs->kill_key, i, runs->run_ms * 3 / 2));
        bool strikes = !has_ended(child);
        struck += strikes;
        begun += strikes && has_begun(directory);
        kill_all(child);
        if (i % 2 && has_begun(directory)) drawn += plot(runs, directory) == 0;
    }
    snprintf(what, sizeof what, "killed %zu times (%zu after a step), drawn %zu times, resumed", struck, begun, drawn);
    if (struck < kills) runs_print_log(directory);
    int code = go_on_with(runs, directory, &sharings[kills % N_SHARINGS], false, NULL);
    runs_compare(runs, what, directory, struck < kills ? -1 : code);
}

/* Kill a run as soon as the draft of its second checkpoint is there, so that the file is half written. A kill that
 * comes too late is tried again with a new run; false when all of them do. */
static bool kill_while_writing(const SharedRuns *runs, const char *directory, const Sharing *sharing)
{
    for (int i = 0; i < MAX_TRIES; i++) {
        runs_remove(directory);
        pid_t child = runs_start(runs, directory, sharing, NULL);
        while (child > 0 && !has_ended(child) &&
               !(runs_has_checkpoint(directory, RUN_SAVES_AT) && has_draft(directory)))
            sleep_ms(0);
        if (child > 0) kill_all(child);
        if (runs_has_checkpoint(directory, RUN_SAVES_AT) && has_draft(directory) &&
            !runs_has_checkpoint(directory, RUN_STEPS))
            return true;
    }
    return false;
}

static void interrupt_by_kill_while_writing(SharedRuns *runs)
{
    char directory[RUN_DIRECTORY], what[RUN_DESCRIPTION];
    for (size_t i = 0; i < 2; i++) {
        snprintf(directory, sizeof directory, "%s/written-%zu", runs->scratch, i);
        bool half = kill_while_writing(runs, directory, &sharings[i]);
        snprintf(what, sizeof what, "killed while a checkpoint was written%s, resumed", half ? "" : " (missed)");
        runs_compare(runs, what, directory, half ? runs_train(runs, directory, &sharings[i + 1], go_on) : -1);
    }
}

/* ---- other interruptions -------------------------------------------------------------------------------------- */

/* The disk is full when the second checkpoint is due: the run says so and ends, the first checkpoint stays usable. */
static void interrupt_by_full_disk(SharedRuns *runs)
{
    char directory[RUN_DIRECTORY];
    struct rlimit before, small = {1 << 20, 1 << 20};
    snprintf(directory, sizeof directory, "%s/full", runs->scratch);
    bool half = kill_while_writing(runs, directory, &sharings[0]);
    getrlimit(RLIMIT_FSIZE, &before);
    small.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN); /* an error, as on a full disk, instead of a signal */
    setrlimit(RLIMIT_FSIZE, &small);
    int code = runs_wait(runs_start(runs, directory, &sharings[3], go_on));
    setrlimit(RLIMIT_FSIZE, &before);
    bool clean = half && code == ERR_IO && runs_has_checkpoint(directory, RUN_SAVES_AT) &&
                 !runs_has_checkpoint(directory, RUN_STEPS) && !has_draft(directory);
    if (!clean) runs_print_log(directory);
    runs_compare(runs, clean ? "a full disk, then resumed" : "a full disk (code or files are wrong)", directory,
                 clean ? runs_train(runs, directory, &sharings[0], go_on) : -1);
}

static void refuse_unwritable(SharedRuns *runs)
{
    char file[RUN_DIRECTORY], below[RUN_DIRECTORY + 8], directory[RUN_DIRECTORY];
    snprintf(file, sizeof file, "%s/file", runs->scratch);
    snprintf(below, sizeof below, "%s/run", file);
    snprintf(directory, sizeof directory, "%s/unwritable", runs->scratch);
    err_free(file_write(file, "x", 1));
    const char *const output[] = {"--output_dir", below, NULL};
    int code = runs_wait(runs_start(runs, directory, &sharings[0], output));
    runs_count(runs, "a directory that cannot be written", code == ERR_IO ? "refused" : "", code == ERR_IO);
}

/* SIGUSR1, then SIGTERM, sent to a run that has finished a step. Returns the exit code. */
static int signal_run(const SharedRuns *runs, const char *directory, const Sharing *sharing)
{
    enum { BETWEEN_MS = 100 };
    pid_t child = runs_start(runs, directory, sharing, NULL);
    while (child > 0 && !has_ended(child) && !has_begun(directory)) sleep_ms(1);
    if (child > 0) kill(child, SIGUSR1);
    sleep_ms(BETWEEN_MS);
    if (child > 0) kill(child, SIGTERM);
    return runs_wait(child);
}

/* SIGUSR1 saves and goes on, SIGTERM saves and ends with ERR_STOPPED, for any number of ranks: mpirun hands on the code
 * of its ranks. Neither leaves a trace in the result. A run that ends before the signal (code 0) is tried again. */
static void interrupt_by_signals(SharedRuns *runs, const Sharing *before, const Sharing *after)
{
    char directory[RUN_DIRECTORY], what[RUN_DESCRIPTION];
    int code = 0;
    snprintf(directory, sizeof directory, "%s/signal-%d", runs->scratch, before->ranks);
    for (int i = 0; i < MAX_TRIES && code == 0; i++) {
        runs_remove(directory);
        code = signal_run(runs, directory, before);
    }
    bool saved = code == ERR_STOPPED && has_any_checkpoint(directory);
    if (!saved) runs_print_log(directory);
    snprintf(what, sizeof what, "ranks %d: SIGUSR1, SIGTERM (code %d), resumed with %d", before->ranks, code,
             after->ranks);
    runs_compare(runs, what, directory, saved ? runs_train(runs, directory, after, go_on) : -1);
}

/* Evaluations, the best step, TensorBoard and plots change nothing; and evaluations, too, give the same numbers however
 * they are shared out. */
static void run_evaluated(SharedRuns *runs)
{
    SharedRuns own = *runs;
    own.passed = own.failed = 0;
    own.metrics = NULL;
    own.evaluates = true;
    for (size_t i = 0; i < 3; i++) {
        char directory[RUN_DIRECTORY], what[RUN_DESCRIPTION];
        snprintf(directory, sizeof directory, "%s/evaluated-%zu", runs->scratch, i);
        snprintf(what, sizeof what, "evaluation, best, TensorBoard and plot on, ranks %d", sharings[i].ranks);
        int code = go_on_with(runs, directory, &sharings[i], true, NULL);
        if (code == 0) code = plot(runs, directory);
        if (i == 0) runs_compare(runs, what, directory, code);
        runs_compare(&own, "  and the evaluations' lines", directory, code);
    }
    free(own.metrics);
    runs->passed += own.passed;
    runs->failed += own.failed;
}

void interrupt_all(SharedRuns *runs)
{
    interrupt_by_kill_while_writing(runs);
    interrupt_by_full_disk(runs);
    refuse_unwritable(runs);
    interrupt_by_signals(runs, &sharings[0], &sharings[1]);
    interrupt_by_signals(runs, &sharings[1], &sharings[3]);
    run_evaluated(runs);
}
