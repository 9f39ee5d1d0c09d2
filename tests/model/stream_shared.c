/* What the ranks of a host share of a stream: no process that ends blocks the others, and whoever waits too long says
 * for what. */
#define _GNU_SOURCE
#include "model/stream_shared.h"

#include "tests/support/check.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIMIT_SECONDS = 30 }; /* a test that waits for ever ends so */

static StreamShared *open_shared(int n_ranks)
{
    StreamShared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    shared_init(shared, n_ranks);
    for (int r = 0; r < n_ranks; r++) shared->ranks[r].process = (int)getpid();
    alarm(LIMIT_SECONDS);
    return shared;
}

static void close_shared(StreamShared *shared)
{
    alarm(0);
    munmap(shared, sizeof *shared);
}

/* Another process becomes rank 1 and does this. */
static pid_t start_rank(StreamShared *shared, void (*work)(StreamShared *shared))
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(LIMIT_SECONDS);
        shared_lock(shared);
        shared->ranks[1].process = (int)getpid();
        shared_unlock(shared);
        work(shared);
        _exit(0);
    }
    return pid;
}

static int status_of(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void assert_named(const StreamShared *shared, pid_t pid)
{
    char expected[64];
    snprintf(expected, sizeof expected, "rank 1 of this host (process %d) has ended", (int)pid);
    assert_true(shared->failed);
    assert_int_equal(shared->kind, ERR_COMM);
    assert_string_equal(shared->message, expected);
}

static void die_with_the_lock(StreamShared *shared)
{
    shared_lock(shared);
    raise(SIGKILL);
}

static void a_process_that_ends_with_the_lock_blocks_nobody_and_is_named(void **state)
{
    StreamShared *shared = open_shared(2);
    (void)state;
    pid_t pid = start_rank(shared, die_with_the_lock);
    assert_true(WIFSIGNALED(status_of(pid)));
    for (int i = 0; i < 2; i++) {
        shared_lock(shared);
        assert_named(shared, pid);
        shared_unlock(shared);
    }
    close_shared(shared);
}

static void wait_for_ever(StreamShared *shared)
{
    shared_lock(shared);
    for (;;) shared_wait(shared);
}

static void a_process_that_ends_in_its_wait_blocks_nobody_and_is_named(void **state)
{
    StreamShared *shared = open_shared(2);
    (void)state;
    pid_t pid = start_rank(shared, wait_for_ever);
    shared_lock(shared);
    while (!shared->sleepers) {
        shared_unlock(shared);
        usleep(1000);
        shared_lock(shared);
    }
    kill(pid, SIGKILL);
    status_of(pid);
    for (int i = 0; i < 100; i++) shared_changed(shared);
    assert_false(shared->failed);
    while (!shared->failed) shared_wait(shared);
    assert_named(shared, pid);
    shared_unlock(shared);
    close_shared(shared);
}

static void wait_for_the_end(StreamShared *shared)
{
    shared_lock(shared);
    while (!shared->closing) shared_wait(shared);
    shared_unlock(shared);
}

static void a_change_wakes_who_waits_and_no_change_does_so_after_a_second(void **state)
{
    StreamShared *shared = open_shared(2);
    (void)state;
    pid_t pid = start_rank(shared, wait_for_the_end);
    shared_lock(shared);
    assert_false(shared_wait(shared) && shared_wait(shared)); /* by then the other one waits, too */
    shared->closing = true;
    shared_changed(shared);
    shared_unlock(shared);
    assert_int_equal(status_of(pid), 0);
    assert_false(shared->failed);
    close_shared(shared);
}

static void the_first_error_stays(void **state)
{
    StreamShared *shared = open_shared(1);
    (void)state;
    shared_lock(shared);
    shared_fail(shared, err_new(ERR_IO, "first"));
    shared_fail(shared, err_new(ERR_COMM, "second"));
    assert_int_equal(shared->kind, ERR_IO);
    assert_string_equal(shared->message, "first");
    shared_unlock(shared);
    close_shared(shared);
}

static void who_waits_too_long_says_for_what_and_for_whom(void **state)
{
    StreamShared *shared = open_shared(3);
    (void)state;
    shared_lock(shared);
    for (int r = 0; r < 3; r++) shared->ranks[r] = (StreamRank){.process = 70 + r, .place = (size_t)r + 5, .layer = 2};
    assert_fails(shared_stuck(shared, 1, 3, 600), ERR_COMM,
                 "rank 1 of this host waited 600 s for layer 3; rank 0 (process 70) holds layer 2");
    shared->ranks[0].layer = SHARED_NO_LAYER;
    assert_fails(shared_stuck(shared, 1, 3, 600), ERR_COMM, "rank 0 (process 70) is between two layers");
    shared->ranks[0].place = SHARED_LEFT;
    assert_fails(shared_stuck(shared, 1, SHARED_NO_LAYER, 600), ERR_COMM,
                 "for the embedding and the head; rank 2 (process 72) holds layer 2");
    assert_int_equal(shared_slowest(shared, -1), 1);
    shared->closing = true;
    assert_fails(shared_stuck(shared, 1, 3, 600), ERR_COMM, "rank 0 (process 70), which reads the weights, has left");
    shared_unlock(shared);
    close_shared(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_process_that_ends_with_the_lock_blocks_nobody_and_is_named),
        cmocka_unit_test(a_process_that_ends_in_its_wait_blocks_nobody_and_is_named),
        cmocka_unit_test(a_change_wakes_who_waits_and_no_change_does_so_after_a_second),
        cmocka_unit_test(the_first_error_stays),
        cmocka_unit_test(who_waits_too_long_says_for_what_and_for_whom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
