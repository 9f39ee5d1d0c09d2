/* graft train CONFIG.json [--key value ...] */
#define _GNU_SOURCE
#include "base/log.h"
#include "cli/verbs.h"
#include "train/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_ARGUMENTS = 512 };

/* --ranks N anywhere but under mpirun. A configuration file may say it, too. */
static long wanted_ranks(int argc, char **argv)
{
    Settings settings = {0};
    const char *file = NULL;
    size_t n;
    if (getenv("OMPI_COMM_WORLD_SIZE")) return 1;
    Err *err = options_arguments(&settings, settings_table, argc, argv, &file, 1, &n);
    if (!err && file) {
        long given = (long)settings.ranks;
        err = options_file(&settings, settings_table, file);
        if (given) settings.ranks = given;
    }
    long ranks = err ? 1 : (long)settings.ranks; /* errors are told when the run opens */
    err_free(err);
    options_free(&settings, settings_table);
    return ranks > 1 ? ranks : 1;
}

/* Become mpirun with the same words. Threads of a rank must not share one core, a container's root is welcome, and more
 * ranks than cores are the user's choice. */
static Err *start_ranks(long ranks, int argc, char **argv)
{
    char count[24], self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return err_errno("find this program's own path");
    self[n] = 0;
    snprintf(count, sizeof count, "%ld", ranks);
    const char *words[MOST_ARGUMENTS + 16] = {"mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none",
                                                "--mca", "mpi_yield_when_idle", "1", "-n", count, self, "train"};
    size_t at = 12;
    for (int i = 0; i < argc && i < MOST_ARGUMENTS; i++) words[at++] = argv[i];
    execvp("mpirun", (char *const *)(size_t)words);
    return err_errno("start mpirun for %ld ranks", ranks);
}

int verb_train(int argc, char **argv)
{
    Run run = {0};
    long ranks = wanted_ranks(argc, argv);
    if (ranks > 1) return err_report("train", start_ranks(ranks, argc, argv));
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
    bool failed = err && err_kind(err) != ERR_STOPPED, tell = err && (run.dp.rank == 0 || strncmp(err_message(err), "rank ", 5) != 0);
    int code = err ? (int)err_kind(err) : 0;
    if (tell) code = err_report("train", err);
    else err_free(err);
    run_close(&run);
    dp_close(&run.dp, failed);
    return code;
}
