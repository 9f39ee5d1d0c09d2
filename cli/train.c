/* graft train CONFIG.json [--key value ...]. With --ranks above 1 the program starts itself through mpirun and forwards
 * signals; under mpirun, or with one rank, it trains. An error is reported once: by rank 0, or by the rank that alone
 * has it. */
#define _GNU_SOURCE
#include "base/log.h"
#include "base/memory.h"
#include "cli/verbs.h"
#include "train/run.h"
#include "train/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* The value of --ranks, or of "ranks" in the configuration file; 1 under mpirun. */
static long wanted_ranks(int argc, char **argv)
{
    Settings settings = {0};
    const char *file = NULL;
    size_t n;
    if (getenv("OMPI_COMM_WORLD_SIZE")) return 1;
    log_enable(false); /* hints and errors come when the run opens */
    Err *err = options_arguments(&settings, settings_table, argc, argv, &file, 1, &n);
    if (!err && file) {
        long given = (long)settings.ranks;
        err = options_file(&settings, settings_table, file);
        if (given) settings.ranks = given;
    }
    log_enable(true);
    long ranks = err ? 1 : (long)settings.ranks;
    err_free(err);
    options_free(&settings, settings_table);
    return ranks > 1 ? ranks : 1;
}

static volatile sig_atomic_t mpirun_pid, ranks_run, asked_to_save, stopped_early;

/* Before the ranks run mpirun drops signals: a save waits until they do, and a stop ends mpirun, for nothing is lost.
 * After the second signal to stop, mpirun kills the ranks within seconds. A third one ends this process. */
static void forward_signal(int signal_number)
{
    bool early = !ranks_run, save = signal_number == SIGUSR1, again = !save && signals_is_second();
    if (early && save) {
        asked_to_save = 1;
        return;
    }
    if (early) stopped_early = 1;
    kill((pid_t)mpirun_pid, save ? SIGUSR1 : early || again ? SIGTERM : SIGUSR2);
    if (again) signal(signal_number, SIG_DFL);
}

/* Called at the first output: the ranks catch signals before they print. */
static void start_forwarding(void)
{
    ranks_run = 1;
    if (asked_to_save) kill((pid_t)mpirun_pid, SIGUSR1);
}

/* mpirun ends a job when nobody reads its output any more. So its output goes through this process, which reads all of
 * it and drops what it cannot write. */
typedef struct {
    int from[2], into[2]; /* pipes of stdout and of stderr: where this process reads, where mpirun writes */
} Output;

static Err *open_output(Output *output)
{
    for (int i = 0; i < 2; i++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC)) return err_errno("make a pipe for the output of mpirun");
        output->from[i] = ends[0];
        output->into[i] = ends[1];
    }
    return NULL;
}

/* Pass on one block. Returns false at the end of the output. */
static bool pass_block(int from, int to)
{
    char block[4096], *at = block;
    ssize_t n = read(from, block, sizeof block), wrote = 0;
    if (n < 0) return errno == EINTR;
    if (!ranks_run) start_forwarding();
    while (at < block + n && (wrote >= 0 || errno == EINTR)) {
        wrote = write(to, at, (size_t)(block + n - at));
        if (wrote > 0) at += wrote;
    }
    return n > 0;
}

static void pass_output(Output *output)
{
    int n_open = 2;
    for (int i = 0; i < 2; i++) close(output->into[i]); /* mpirun has them */
    while (n_open) {
        struct pollfd ready[] = {{output->from[0], POLLIN, 0}, {output->from[1], POLLIN, 0}};
        if (poll(ready, 2, -1) < 0) continue; /* a signal */
        for (int i = 0; i < 2; i++) {
            if (!ready[i].revents || pass_block(output->from[i], 1 + i)) continue;
            close(output->from[i]);
            output->from[i] = -1; /* poll passes over it */
            n_open--;
        }
    }
}

/* In the child process: the terminal's signals do not reach it, and it ends with its parent. */
static void become_mpirun(char *const *words, const Output *output)
{
    int nothing = open("/dev/null", O_RDONLY);
    dup2(output->into[0], 1);
    dup2(output->into[1], 2);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (nothing >= 0) dup2(nothing, 0);
    execvp("mpirun", words);
    err_report("train", err_errno("start mpirun"));
    _exit(ERR_IO);
}

/* Run this program with the same words under mpirun; its exit code becomes ours. The threads of a rank must not share
 * one core, mpirun must accept the root user of a container, and more ranks than cores are the user's choice. A signal
 * to stop is sent as SIGUSR2, which mpirun forwards to the ranks. On SIGTERM it would kill them a second later, and a
 * step takes longer. */
static Err *start_ranks(long ranks, int argc, char **argv, int *code)
{
    char count[24], self[4096];
    int status;
    Output output = {0};
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return err_errno("find this program's own path");
    self[n] = 0;
    snprintf(count, sizeof count, "%ld", ranks);
    char *const first[] = {"mpirun",
                           "--allow-run-as-root",
                           "--oversubscribe",
                           "--bind-to",
                           "none",
                           "--mca",
                           "mpi_yield_when_idle",
                           "1",
                           "-n",
                           count,
                           self,
                           "train"};
    const size_t n_first = sizeof first / sizeof *first;
    char **words;
    TRY(open_output(&output));
    TRY(mem_new(&words, n_first + (size_t)argc + 1, sizeof *words)); /* NULL last */
    memcpy(words, first, sizeof first);
    memcpy(words + n_first, argv, (size_t)argc * sizeof *words);
    fflush(NULL);
    pid_t pid = fork();
    Err *err = pid < 0 ? err_errno("start mpirun for %ld ranks", ranks) : NULL;
    if (pid == 0) become_mpirun(words, &output);
    free(words);
    if (err) return err;
    mpirun_pid = pid;
    struct sigaction action = {.sa_handler = forward_signal};
    sigaction(SIGUSR1, &action, NULL);
    signals_on_stop(forward_signal);
    pass_output(&output);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return err_errno("wait for mpirun");
    if (stopped_early) return err_new(ERR_STOPPED, "stopped by a signal while the ranks were starting");
    if (WIFSIGNALED(status)) return err_new(ERR_COMM, "mpirun was ended by signal %d", WTERMSIG(status));
    *code = WEXITSTATUS(status);
    return NULL;
}

int verb_train(int argc, char **argv)
{
    Run run = {0};
    signals_catch_opening();
    long ranks = wanted_ranks(argc, argv);
    if (ranks > 1) {
        int code = 0;
        Err *failed = start_ranks(ranks, argc, argv, &code);
        return failed ? err_report("train", failed) : code;
    }
    Err *err = dp_open(&run.dp);
    log_enable(run.dp.rank == 0);
    if (!err) err = run_open(&run, argc, argv);
    if (!err && run.settings.help) {
        if (run.dp.rank == 0) {
            printf("graft train CONFIG.json [--key value ...]\n");
            options_help(stdout, settings_table);
        }
    } else if (!err) {
        err = run_loop(&run);
    }
    bool failed = err && err_kind(err) != ERR_STOPPED,
         reported = err && (run.dp.rank == 0 || (failed && strncmp(err_message(err), "rank ", 5) != 0));
    int code = err ? (int)err_kind(err) : 0;
    if (reported)
        code = err_report("train", err);
    else
        err_free(err);
    run_close(&run);
    dp_close(&run.dp, failed ? code : 0, reported);
    return code;
}
