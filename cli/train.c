/* graft train CONFIG.json [--key value ...] */
#define _GNU_SOURCE
#include "base/log.h"
#include "cli/verbs.h"
#include "train/run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_ARGUMENTS = 512 };

/* --ranks N anywhere but under mpirun. A configuration file may say it, too. */
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

static volatile sig_atomic_t mpirun_pid;

static void pass_on(int signal_number)
{
    if (mpirun_pid > 0) kill((pid_t)mpirun_pid, signal_number == SIGUSR1 ? SIGUSR1 : SIGUSR2);
}

/* In the child: away from the terminal's signals, and gone when the parent is. */
static void become_mpirun(const char *const *words)
{
    int nothing = open("/dev/null", O_RDONLY);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (nothing >= 0) dup2(nothing, 0);
    execvp("mpirun", (char *const *)(size_t)words);
    err_report("train", err_errno("start mpirun"));
    _exit(ERR_IO);
}

/* Wait for mpirun with the same words; its exit code is ours. Threads of a rank must not share one core, a container's
 * root is welcome, and more ranks than cores are the user's choice. A signal to stop goes on as SIGUSR2, which mpirun
 * hands to the ranks: on SIGTERM it would kill them a second later, and a step takes longer. */
static Err *start_ranks(long ranks, int argc, char **argv, int *code)
{
    char count[24], self[4096];
    int status;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return err_errno("find this program's own path");
    self[n] = 0;
    snprintf(count, sizeof count, "%ld", ranks);
    const char *words[MOST_ARGUMENTS + 16] = {"mpirun",
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
    size_t at = 12;
    for (int i = 0; i < argc && i < MOST_ARGUMENTS; i++) words[at++] = argv[i];
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) return err_errno("start mpirun for %ld ranks", ranks);
    if (pid == 0) become_mpirun(words);
    mpirun_pid = pid;
    struct sigaction action = {.sa_handler = pass_on};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return err_errno("wait for mpirun");
    if (WIFSIGNALED(status)) return err_new(ERR_COMM, "mpirun was ended by signal %d", WTERMSIG(status));
    *code = WEXITSTATUS(status);
    return NULL;
}

int verb_train(int argc, char **argv)
{
    Run run = {0};
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
        err = loop_run(&run);
    }
    bool failed = err && err_kind(err) != ERR_STOPPED,
         tell = err && (run.dp.rank == 0 || (failed && strncmp(err_message(err), "rank ", 5) != 0));
    int code = err ? (int)err_kind(err) : 0;
    if (tell)
        code = err_report("train", err);
    else
        err_free(err);
    run_close(&run);
    dp_close(&run.dp, failed ? code : 0, tell);
    return code;
}
