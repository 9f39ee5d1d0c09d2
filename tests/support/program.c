/* A program is started with posix_spawn, its output goes to a file of the test's directory. */
#define _GNU_SOURCE
#include "tests/support/program.h"

#include "ckpt/checkpoint.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

char program_output[8192];

char *program_path(void)
{
    static char built[] = "build/graft";
    char *path = getenv("GRAFT");
    return path ? path : built;
}

pid_t program_start(void **state, char *const *words)
{
    char path[PATH_BYTES];
    pid_t pid;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, scratch_path(state, "output", path),
                                     O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    assert_int_equal(posix_spawnp(&pid, words[0], &actions, NULL, words, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}

void program_pause(void) { nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL); }

int program_wait(void **state, pid_t pid)
{
    char path[PATH_BYTES], *text;
    size_t bytes;
    int status;
    time_t began = time(NULL);
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (time(NULL) - began > PROGRAM_SECONDS) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            fail_msg("no end after %d seconds", PROGRAM_SECONDS);
        }
        program_pause();
    }
    assert_ok(file_read(&text, &bytes, scratch_path(state, "output", path)));
    snprintf(program_output, sizeof program_output, "%s", text);
    free(text);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void program_expect(int code, int expected, const char *part, const char *other)
{
    if (code != expected || !strstr(program_output, part) || (other && !strstr(program_output, other)))
        fail_msg("code %d instead of %d, and \"%s\", \"%s\" expected in:\n%s", code, expected, part, other ? other : "",
                 program_output);
}

size_t program_train_words(char **words, char *model, char *file, char *output, char *const *more)
{
    char *const first[] = {program_path(),
                           "train",
                           "--model_name_or_path",
                           model,
                           "--train_file",
                           file,
                           "--output_dir",
                           output,
                           "--target_modules",
                           "[\"o_proj\"]",
                           "--layers_to_transform",
                           "[5]",
                           "--r",
                           "2",
                           "--train_batch_size",
                           "2",
                           "--max_length",
                           "32",
                           "--max_steps",
                           "4",
                           "--threads",
                           "1"};
    size_t n = sizeof first / sizeof *first;
    memcpy(words, first, sizeof first);
    while (more && *more) words[n++] = *more++;
    words[n] = NULL;
    return n;
}

int program_train(void **state, char *model, char *file, char *output, char *const *more)
{
    char *words[PROGRAM_MAX_WORDS];
    program_train_words(words, model, file, output, more);
    return program_wait(state, program_start(state, words));
}

uint64_t program_counted_metrics(const char *output, uint64_t step)
{
    char path[PATH_BYTES];
    CkptInfo info;
    assert_ok(checkpoint_path(path, output, step));
    assert_ok(checkpoint_peek(&info, path));
    uint64_t bytes = info.metrics_bytes;
    checkpoint_info_free(&info);
    return bytes;
}
