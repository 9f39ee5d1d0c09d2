/* graft VERB ...: a table of verbs. A new verb is one line here, one in cli/verbs.h and one file. */
#define _GNU_SOURCE
#include "base/file.h"
#include "cli/verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what, *usage; /* for --help */
} verbs[] = {
    {"train", verb_train, "train an adapter", "CONFIG.json [--key value ...]"},
    {"eval", verb_eval, "compare base and adapters", "--model DIR --data FILE,... [--adapter PATH,...]"},
    {"generate", verb_generate, "answer prompts", "--model DIR --prompt TEXT [--adapter PATH]"},
    {"preview", verb_preview, "show the tokens in the loss", "--model DIR DATA... [--html page.html]"},
    {"chat", verb_chat, "talk with base and adapters", "--model DIR [--adapter PATH,...]"},
    {"inspect", verb_inspect, "show what a path holds", "MODEL|RUN|CHECKPOINT|ADAPTER"},
    {"plan", verb_plan, "plan memory and time of a run", "CONFIG.json|MODEL [--key value ...]"},
    {"doctor", verb_doctor, "measure this machine", "[FILE]"},
    {"bench", verb_bench, "measure graft's speed", "[MODEL] [--json FILE]"},
    {"plot", verb_plot, "draw training curves", "RUN... --output loss.png"},
};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

static int usage(FILE *stream, int code)
{
    fputs("graft: LoRA fine-tuning of GLM-5-class mixture-of-experts models on CPUs\n\n", stream);
    for (size_t i = 0; i < N_VERBS; i++)
        fprintf(stream, "  %-30s graft %s %s\n", verbs[i].what, verbs[i].name, verbs[i].usage);
    fputs("\n`graft VERB --help` lists the options of a verb.\n", stream);
    return code;
}

/* libgomp reads GOMP_SPINCOUNT when it is loaded. Without it, threads that wait for each other spin, and a step beside
 * any other running process is 5 times slower (docs/design.md has the figures). If it is not set, set it and start this
 * program once more; otherwise return. */
static void restart_with_sleeping_threads(char **argv)
{
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    setenv("GOMP_SPINCOUNT", "1000", 1);
    execv("/proc/self/exe", argv); /* if this fails, the program continues and is slower */
}

/* A standard stream that was closed would leave its number to the next file that is opened, and what is printed would
 * end up in there. Such a number gets a stream that can neither be read nor written. */
static void hold_standard_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", fd ? O_RDONLY : O_WRONLY) != fd) return;
}

static int run_verb(int argc, char **argv)
{
    if (argc < 2) return usage(stderr, 1);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0 || strcmp(argv[1], "-h") == 0)
        return usage(stdout, 0);
    for (size_t i = 0; i < N_VERBS; i++)
        if (strcmp(argv[1], verbs[i].name) == 0) return verbs[i].run(argc - 2, argv + 2);
    fprintf(stderr, "graft: there is no verb %s\n", argv[1]);
    return usage(stderr, 1);
}

/* Success is what has arrived: verbs print without checks, and a full disk shows here at the latest. (A reader that has
 * seen enough, `| head`, ends the program by SIGPIPE and without a word; where the caller ignores that signal, this is
 * an error as any other.) */
int main(int argc, char **argv)
{
    hold_standard_streams();
    restart_with_sleeping_threads(argv);
    file_watch_maps();
    int code = run_verb(argc, argv);
    FILE *printed = stdout;
    int lost = err_report(argc < 2 ? "" : argv[1], file_close(&printed, "standard output"));
    return code ? code : lost;
}
