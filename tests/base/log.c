/* The progress line on a terminal, and on a pipe. */
#define _GNU_SOURCE
#include "base/log.h"
#include "base/safe_text.h"

#include "tests/support/check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { COLUMNS = 40 };

/* What three progress lines and an ordinary one write to a file descriptor that stands for stderr; `from` is read to
 * its end, as a terminal hands out what was written to it in pieces. */
static void write_lines(int to, int from, char *text, size_t bytes)
{
    int before = dup(STDERR_FILENO);
    assert_true(before >= 0 && dup2(to, STDERR_FILENO) >= 0);
    log_progress(false, "step 1/9  a line that is longer than this narrow terminal");
    log_progress(false, "step 2/9");
    log_progress(true, "step 3/9  a line that is kept is printed whole, whatever its length");
    log_line("an ordinary line");
    fflush(stderr);
    dup2(before, STDERR_FILENO);
    close(before);
    close(to);
    size_t held = 0;
    for (ssize_t n; (n = read(from, text + held, bytes - 1 - held)) > 0;) held += (size_t)n;
    text[held] = 0;
}

static void a_terminal_shows_one_row_that_is_overwritten(void **state)
{
    (void)state;
    char text[1024];
    setenv("TERM", "xterm", 1);
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    assert_true(slave >= 0 && ioctl(slave, TIOCSWINSZ, &(struct winsize){.ws_row = 24, .ws_col = COLUMNS}) == 0);
    write_lines(slave, master, text, sizeof text);
    close(master);
    assert_string_equal(text, "step 1/9  a line that is longer than th"
                              "\r\033[Kstep 2/9"
                              "\r\033[Kstep 3/9  a line that is kept is printed whole, whatever its length\r\n"
                              "an ordinary line\r\n");
}

static void without_a_terminal_only_kept_lines_are_printed(void **state)
{
    (void)state;
    char text[1024];
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    write_lines(ends[1], ends[0], text, sizeof text);
    close(ends[0]);
    assert_string_equal(text,
                        "step 3/9  a line that is kept is printed whole, whatever its length\nan ordinary line\n");
}

static void a_dumb_terminal_has_no_colors_and_no_progress(void **state)
{
    (void)state;
    char text[1024];
    int master = posix_openpt(O_RDWR | O_NOCTTY), slave;
    assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    assert_true((slave = open(ptsname(master), O_RDWR | O_NOCTTY)) >= 0);
    setenv("TERM", "xterm", 1);
    setenv("NO_COLOR", "", 1);
    assert_true(log_has_colors(slave));
    setenv("NO_COLOR", "1", 1);
    assert_true(log_is_terminal(slave) && !log_has_colors(slave));
    unsetenv("NO_COLOR");
    setenv("TERM", "dumb", 1);
    assert_false(log_has_colors(slave));
    write_lines(slave, master, text, sizeof text);
    close(master);
    setenv("TERM", "xterm", 1);
    assert_null(strchr(text, '\033'));
    assert_null(strstr(text, "step 2/9"));
}

static void a_line_does_not_steer_the_terminal(void **state)
{
    (void)state;
    char *text;
    size_t bytes;
    FILE *stream = open_memstream(&text, &bytes);
    assert_non_null(stream);
    safe_print(stream, "a\033[2J\a\t\x7f \xc2\x9b\x31 \xc2\xa9\n", true);
    safe_print(stream, "b\nc", false);
    fclose(stream);
    assert_string_equal(text, "a\\x1b[2J\\x07\\x09\\x7f \\x9b1 \xc2\xa9\nb\\x0ac");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_terminal_shows_one_row_that_is_overwritten),
        cmocka_unit_test(without_a_terminal_only_kept_lines_are_printed),
        cmocka_unit_test(a_dumb_terminal_has_no_colors_and_no_progress),
        cmocka_unit_test(a_line_does_not_steer_the_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
