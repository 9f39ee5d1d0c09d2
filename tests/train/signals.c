/* Signals to a training run: it saves, and a resume ends with the same bits as a run that was never stopped. A second
 * signal ends a run that cannot save. */
#define _GNU_SOURCE
#include "tests/support/program.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

static void digest_of(const char *output, char digest[80])
{
    char path[PATH_BYTES], *text;
    size_t bytes;
    assert_ok(file_join(path, output, "metrics.jsonl"));
    assert_ok(file_read(&text, &bytes, path));
    char *at = strstr(text, "\"state_sha256\":\"");
    assert_non_null(at);
    snprintf(digest, 80, "%.64s", at + 16);
    free(text);
}

/* Start a run, send it a signal when it has finished a step, and wait. Returns the exit code. */
static int signal_a_run(void **state, char *output, char *const *steps, int number)
{
    char path[PATH_BYTES], *words[PROGRAM_MAX_WORDS];
    struct stat st = {0};
    time_t began = time(NULL);
    program_train_words(words, PROGRAM_BASE, PROGRAM_DATA, output, steps);
    pid_t pid = program_start(state, words);
    assert_ok(file_join(path, output, "metrics.jsonl"));
    while ((stat(path, &st) || st.st_size == 0) && time(NULL) - began < PROGRAM_SECONDS) program_pause();
    kill(pid, number);
    return program_wait(state, pid);
}

static void a_signal_saves_and_a_resume_ends_as_if_there_had_been_none(void **state)
{
    char whole[PATH_BYTES], parts[PATH_BYTES], path[PATH_BYTES], one[80], two[80];
    char *const steps[] = {"--max_steps", "60", "--save_steps", "0", "--lora_dropout", "0.1", NULL};
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
    signal(SIGHUP, SIG_DFL); /* a run leaves it ignored where it was */
    scratch_path(state, "whole", whole);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, whole, steps), 0, "step 60/60", NULL);
    digest_of(whole, one);
    for (size_t i = 0; i < 3; i++) {
        scratch_path(state, (const char *[]){"terminated", "interrupted", "hung_up"}[i], parts);
        program_expect(signal_a_run(state, parts, steps, signals[i]), ERR_STOPPED, "--resume_from_checkpoint auto",
                       "stopped by a signal after step ");
        assert_null(strstr(program_output, "step 60/60"));
        assert_ok(file_join(path, parts, "adapter"));
        assert_false(file_exists(path));
        char *const again[] = {
            "--max_steps", "60", "--save_steps", "0", "--lora_dropout", "0.1", "--resume_from_checkpoint",
            "auto",        NULL};
        program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, parts, again), 0, "step 60/60",
                       "resumed   after step ");
        digest_of(parts, two);
        assert_string_equal(one, two);
    }
}

/* mpirun kills its ranks two seconds after it gets a SIGTERM; a step of a large model takes longer. */
static void a_signal_reaches_all_ranks_and_saves(void **state)
{
    char output[PATH_BYTES], one[80], two[80];
    char *const steps[] = {"--ranks",      "2", "--max_steps", "60", "--micro_batch_tokens", "32",
                           "--save_steps", "0", NULL};
    char *const again[] = {
        "--max_steps", "60", "--micro_batch_tokens", "32", "--save_steps", "0", "--resume_from_checkpoint",
        "auto",        NULL};
    char *const alone[] = {"--max_steps", "60", "--micro_batch_tokens", "32", "--save_steps", "0", NULL};
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* Open MPI leaks memory, which would change the exit code */
    signal(SIGHUP, SIG_DFL);
    scratch_path(state, "hung_up", output);
    program_expect(signal_a_run(state, output, steps, SIGHUP), ERR_STOPPED, "--resume_from_checkpoint auto",
                   "stopped by a signal after step ");
    scratch_path(state, "run", output);
    program_expect(signal_a_run(state, output, steps, SIGTERM), ERR_STOPPED, "--resume_from_checkpoint auto",
                   "stopped by a signal after step ");
    unsetenv("ASAN_OPTIONS");
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output, again), 0, "step 60/60",
                   "resumed   after step ");
    digest_of(output, one);
    scratch_path(state, "alone", output);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output, alone), 0, "step 60/60", NULL);
    digest_of(output, two);
    assert_string_equal(one, two);
}

static long first_child(long process)
{
    char path[64];
    long child = 0;
    snprintf(path, sizeof path, "/proc/%ld/task/%ld/children", process, process);
    FILE *children = fopen(path, "re");
    if (children && fscanf(children, "%ld", &child) != 1) child = 0;
    if (children) fclose(children);
    return child;
}

/* One rank stands still, the other waits for it inside MPI, where nobody looks for a signal. */
static void a_second_signal_ends_a_run_that_waits(void **state)
{
    char output[PATH_BYTES], path[PATH_BYTES];
    char *words[PROGRAM_MAX_WORDS];
    struct stat st = {0};
    time_t began = time(NULL);
    scratch_path(state, "run", output);
    program_train_words(words, PROGRAM_BASE, PROGRAM_DATA, output,
                        PROGRAM_WORDS("--ranks", "2", "--max_steps", "5000", "--save_steps", "0"));
    pid_t pid = program_start(state, words);
    assert_ok(file_join(path, output, "metrics.jsonl"));
    while ((stat(path, &st) || st.st_size == 0) && time(NULL) - began < PROGRAM_SECONDS) program_pause();
    long rank = first_child(first_child((long)pid)); /* of mpirun */
    assert_true(rank > 0);
    assert_int_equal(kill((pid_t)rank, SIGSTOP), 0);
    kill(pid, SIGTERM);
    kill(pid, SIGTERM); /* as timeout(1) does; both are one */
    nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
    kill(pid, SIGTERM);
    began = time(NULL);
    assert_int_not_equal(program_wait(state, pid), 0);
    while (kill((pid_t)rank, 0) == 0 && time(NULL) - began < 20) program_pause(); /* and nothing of it stays */
    assert_true(time(NULL) - began < 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_signal_saves_and_a_resume_ends_as_if_there_had_been_none),
        scratch_test(a_signal_reaches_all_ranks_and_saves),
        scratch_test(a_second_signal_ends_a_run_that_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
