#define _GNU_SOURCE /* sigaction, getline */
#include "cli/line.h"

#include <editline/readline.h>
#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;

static void note(int number)
{
    (void)number;
    interrupted = 1;
}

void line_open(void)
{
    struct sigaction action = {.sa_handler = note}; /* without SA_RESTART, so that a wait for input ends */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
}

bool line_interrupted(void) { return interrupted; }
void line_forget(void) { interrupted = 0; }

static char *read_plain(void)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n = getline(&line, &capacity, stdin);
    if (n < 0) {
        free(line);
        return NULL;
    }
    while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = 0;
    return line;
}

char *line_read(const char *prompt)
{
    line_forget();
    if (!isatty(STDIN_FILENO)) return read_plain();
    char *line = readline(prompt);
    if (line && *line) add_history(line);
    if (line || !interrupted) return line;
    putchar('\n');
    return strdup("");
}
