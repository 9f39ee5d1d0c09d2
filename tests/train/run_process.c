/* A run as a process of its own: closed pipes, hang-ups, signals before the first step, lost metrics, and saving by the
 * clock on two ranks. */
#define _GNU_SOURCE
#include "ckpt/checkpoint.h"
#include "tests/support/program.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void check_checkpoint(const char *output, uint64_t step)
{
    char path[PATH_BYTES];
    assert_ok(checkpoint_path(path, output, step));
    if (!file_exists(path)) fail_msg("%s is missing", path);
}

/* `graft train ... 2>&1 | head -n 1`, with its own exit code. */
static void check_closed_pipe(void **state, char *name, char *const *more)
{
    char script[] = "exec 3>&1; { \"$@\" 2>&1; echo \"code $?\" >&3; } | head -n 1";
    char *words[PROGRAM_MAX_WORDS] = {"sh", "-c", script, "sh"}, output[PATH_BYTES];
    scratch_path(state, name, output);
    program_train_words(words + 4, PROGRAM_BASE, PROGRAM_DATA, output, more);
    program_expect(program_wait(state, program_start(state, words)), 0, "code 0\n", NULL);
    check_checkpoint(output, 20);
}

static void nobody_need_read_the_progress(void **state)
{
    signal(SIGPIPE, SIG_DFL);                    /* as a shell starts it */
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* Open MPI leaks memory, which would change the exit code */
    check_closed_pipe(state, "alone", PROGRAM_WORDS("--max_steps", "20", "--logging_steps", "1"));
    check_closed_pipe(state, "ranks", PROGRAM_WORDS("--max_steps", "20", "--logging_steps", "1", "--ranks", "2"));
    unsetenv("ASAN_OPTIONS");
}

/* nohup starts a program with SIGHUP ignored. */
static void a_hangup_that_is_ignored_stays_so(void **state)
{
    char output[PATH_BYTES], path[PATH_BYTES], *words[PROGRAM_MAX_WORDS];
    struct stat st = {0};
    time_t began = time(NULL);
    scratch_path(state, "run", output);
    program_train_words(words, PROGRAM_BASE, PROGRAM_DATA, output, PROGRAM_WORDS("--max_steps", "40"));
    signal(SIGHUP, SIG_IGN);
    pid_t pid = program_start(state, words);
    signal(SIGHUP, SIG_DFL);
    assert_ok(file_join(path, output, "metrics.jsonl"));
    while ((stat(path, &st) || st.st_size == 0) && time(NULL) - began < PROGRAM_SECONDS) program_pause();
    kill(pid, SIGHUP);
    program_expect(program_wait(state, pid), 0, "step 40/40", NULL);
}

/* Start a run whose configuration is a pipe that nobody has written to. Returns the end to write to, open: the run is
 * reading. */
static int start_with_a_pipe(void **state, char *config, pid_t *pid)
{
    char output[PATH_BYTES], *words[PROGRAM_MAX_WORDS];
    time_t began = time(NULL);
    int fd;
    signal(SIGPIPE, SIG_IGN); /* a run that ended is an error of write */
    scratch_path(state, "config", config);
    assert_int_equal(mkfifo(config, 0600), 0);
    scratch_path(state, "run", output);
    program_train_words(words, PROGRAM_BASE, PROGRAM_DATA, output, PROGRAM_WORDS(config));
    *pid = program_start(state, words);
    while ((fd = open(config, O_WRONLY | O_NONBLOCK | O_CLOEXEC)) < 0 && time(NULL) - began < PROGRAM_SECONDS)
        program_pause();
    assert_true(fd >= 0);
    return fd;
}

static void a_signal_to_save_before_the_first_step_saves_after_it(void **state)
{
    char config[PATH_BYTES], plain[PATH_BYTES];
    pid_t pid;
    int fd = start_with_a_pipe(state, config, &pid);
    kill(pid, SIGUSR1);
    assert_ok(file_write(scratch_path(state, "plain", plain), "{}", 2));
    assert_int_equal(rename(plain, config), 0); /* the configuration is read twice */
    assert_int_equal(write(fd, "{}", 2), 2);
    close(fd);
    program_expect(program_wait(state, pid), 0, "saved     step 1, as SIGUSR1 asked", "step 4/4");
}

static void a_signal_to_stop_before_the_first_step_stops_at_once(void **state)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
    char config[PATH_BYTES];
    signal(SIGHUP, SIG_DFL);
    for (size_t i = 0; i < 3; i++) {
        pid_t pid;
        int fd = start_with_a_pipe(state, config, &pid);
        kill(pid, signals[i]);
        program_expect(program_wait(state, pid), ERR_STOPPED, "stopped by a signal before the first step", NULL);
        close(fd);
        assert_int_equal(unlink(config), 0);
    }
}

/* A power failure took the end of the metrics, but not the checkpoint. */
static void a_resume_warns_of_lost_metrics_and_goes_on(void **state)
{
    char output[PATH_BYTES], path[PATH_BYTES], warning[128], *text, *last;
    scratch_path(state, "run", output);
    assert_int_equal(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output, PROGRAM_WORDS("--save_steps", "2")), 0);
    assert_ok(checkpoint_path(path, output, 4));
    assert_int_equal(unlink(path), 0);
    uint64_t bytes = program_counted_metrics(output, 2);
    assert_ok(file_join(path, output, "metrics.jsonl"));
    assert_int_equal(truncate(path, (off_t)bytes - 10), 0);
    assert_ok(file_read(&text, &(size_t){0}, path));
    last = strrchr(text, '\n');
    assert_non_null(last);
    last[1] = 0;
    snprintf(warning, sizeof warning, "run/metrics.jsonl: %zu of %zu bytes that the checkpoint counted are missing",
             (size_t)bytes - strlen(text), (size_t)bytes);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output,
                                 PROGRAM_WORDS("--save_steps", "2", "--resume_from_checkpoint", "auto")),
                   0, warning, "step 4/4");
    char *after;
    assert_ok(file_read(&after, &(size_t){0}, path));
    assert_memory_equal(after, text, strlen(text));
    assert_memory_equal(after + strlen(text), "{\"step\":3,", strlen("{\"step\":3,"));
    free(after);
    free(text);
}

static void the_clock_of_one_rank_makes_all_save(void **state)
{
    char output[PATH_BYTES];
    scratch_path(state, "run", output);
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* Open MPI leaks memory, which would change the exit code */
    assert_int_equal(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output,
                                   PROGRAM_WORDS("--ranks", "2", "--save_minutes", "1e-9", "--save_total_limit", "0")),
                     0);
    unsetenv("ASAN_OPTIONS");
    for (uint64_t step = 1; step <= 4; step++) check_checkpoint(output, step);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(nobody_need_read_the_progress),
        scratch_test(a_hangup_that_is_ignored_stays_so),
        scratch_test(a_signal_to_save_before_the_first_step_saves_after_it),
        scratch_test(a_signal_to_stop_before_the_first_step_stops_at_once),
        scratch_test(a_resume_warns_of_lost_metrics_and_goes_on),
        scratch_test(the_clock_of_one_rank_makes_all_save),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
