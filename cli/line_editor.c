/* libedit where stdin is a terminal, getline elsewhere. Ctrl-C only sets a flag, which generation checks at every
 * token. */
#define _GNU_SOURCE /* sigaction, getline */
#include "cli/line_editor.h"

#include "data/text/unicode.h"

#include <editline/readline.h>
#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

void line_editor_open(void)
{
    struct sigaction action = {.sa_handler = on_interrupt}; /* without SA_RESTART, so that a wait for input ends */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
}

bool line_editor_interrupted(void) { return interrupted; }
void line_editor_clear_interrupt(void) { interrupted = 0; }

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

/* Replace what is not UTF-8 by U+FFFD. Takes ownership of line. */
static char *repair_utf8(char *line)
{
    Text text = {0};
    size_t n = line ? strlen(line) : 0;
    if (unicode_valid(line, n) == n) return line;
    unicode_lossy(&text, line, n, true);
    free(line);
    text_add(&text, "", 0);
    return text.data;
}

char *line_editor_read(const char *prompt)
{
    line_editor_clear_interrupt();
    if (!isatty(STDIN_FILENO)) return repair_utf8(read_plain());
    char *line = repair_utf8(readline(prompt));
    if (line && *line) add_history(line);
    if (line || !interrupted) return line;
    putchar('\n');
    return strdup("");
}
