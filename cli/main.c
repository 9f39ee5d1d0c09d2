/* graft VERB ...: a table of verbs. */
#define _GNU_SOURCE /* setenv */
#include "base/file.h"
#include "cli/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} verbs[] = {
    {"train", verb_train, "train an adapter:             graft train CONFIG.json [--key value ...]"},
    {"eval", verb_eval, "base and adapters compared:   graft eval --model DIR --data FILE,... [--adapter PATH,...]"},
    {"generate", verb_generate,
     "text from base and adapter:   graft generate --model DIR --prompt TEXT [--adapter PATH]"},
    {"preview", verb_preview, "tokens in the loss, shown:    graft preview --model DIR DATA... [--html page.html]"},
    {"chat", verb_chat, "talk with base and adapters:  graft chat --model DIR [--adapter PATH,...]"},
    {"inspect", verb_inspect, "what a path holds:            graft inspect MODEL|RUN|CHECKPOINT|ADAPTER"},
    {"plan", verb_plan, "memory, bytes and time of a run: graft plan CONFIG.json|MODEL [--key value ...]"},
    {"doctor", verb_doctor, "what this machine has:        graft doctor [FILE]"},
    {"bench", verb_bench, "speed, as shares of this machine's: graft bench [MODEL] [--json FILE]"},
    {"plot", verb_plot, "training curves as PNG:       graft plot RUN... --output loss.png"},
};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

static int usage(FILE *stream, int code)
{
    fputs("graft: LoRA fine-tuning of GLM-5-class mixture-of-experts models on CPUs\n\n", stream);
    for (size_t i = 0; i < N_VERBS; i++) fprintf(stream, "  %-9s %s\n", verbs[i].name, verbs[i].help);
    fputs("\n`graft VERB --help` lists the options of a verb.\n", stream);
    return code;
}

/* libgomp reads GOMP_SPINCOUNT when it is loaded. Without it, threads that wait for each other spin, and beside any
 * other busy process a step is then 5 times slower (docs/design.md has the figures). So set it where it is missing, and
 * start this program again. Returns when nothing is missing. */
static void restart_with_sleeping_threads(char **argv)
{
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    setenv("GOMP_SPINCOUNT", "1000", 1);
    execv("/proc/self/exe", argv); /* after a failure the program runs on, only slower */
}

int main(int argc, char **argv)
{
    restart_with_sleeping_threads(argv);
    file_watch_maps();
    if (argc < 2) return usage(stderr, 1);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0 || strcmp(argv[1], "-h") == 0)
        return usage(stdout, 0);
    for (size_t i = 0; i < N_VERBS; i++)
        if (strcmp(argv[1], verbs[i].name) == 0) return verbs[i].run(argc - 2, argv + 2);
    fprintf(stderr, "graft: there is no verb %s\n", argv[1]);
    return usage(stderr, 1);
}
