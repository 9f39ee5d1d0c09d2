/* A locked directory: who else asks is refused, what a killed process left is taken over. The kernel's lock belongs to
 * a process, so another process asks here. */
#define _GNU_SOURCE
#include "base/lock_file.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Ask for the lock in a process of its own. Returns the kind of its error, 0 for none; message: what it says. */
static int ask(const char *directory, char message[1024])
{
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        LockFile lock;
        Err *err = lock_file_take(&lock, directory);
        const char *text = err ? err_message(err) : "";
        bool wrote = write(ends[1], text, strlen(text)) >= 0;
        _exit(!wrote ? 99 : err ? (int)err_kind(err) : 0); /* without a release, as if it had been killed */
    }
    close(ends[1]);
    ssize_t n = read(ends[0], message, 1023);
    message[n > 0 ? n : 0] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WEXITSTATUS(status);
}

static void a_second_process_is_refused_with_the_first_ones_name(void **state)
{
    char directory[PATH_BYTES], path[PATH_BYTES], message[1024], host[256] = "", holder[320];
    LockFile lock;
    scratch_path(state, "run", directory);
    assert_ok(lock_file_take(&lock, directory));
    assert_int_equal(ask(directory, message), ERR_USAGE);
    gethostname(host, sizeof host - 1);
    snprintf(holder, sizeof holder, "run is in use by process %ld on %s (see ", (long)getpid(), host);
    if (!strstr(message, holder)) fail_msg("\"%s\" expected in: %s", holder, message);
    assert_ok(file_join(path, directory, "lock"));
    assert_true(file_exists(path));
    lock_file_release(&lock);
    assert_false(file_exists(path));
    lock_file_release(&lock); /* does nothing */
}

static void what_a_killed_process_left_is_taken_over(void **state)
{
    char directory[PATH_BYTES], path[PATH_BYTES], message[1024], *text;
    LockFile lock;
    scratch_path(state, "run", directory);
    assert_int_equal(ask(directory, message), 0); /* it ends and leaves the file */
    assert_ok(file_join(path, directory, "lock"));
    assert_true(file_exists(path));
    assert_ok(lock_file_take(&lock, directory));
    char mine[64];
    snprintf(mine, sizeof mine, "process %ld on ", (long)getpid());
    int fd = dup(lock.fd); /* opening the file anew and closing it would give up the lock */
    assert_true(fd >= 0);
    text = calloc(1, 400);
    assert_non_null(text);
    assert_true(pread(fd, text, 399, 0) > 0);
    assert_non_null(strstr(text, mine));
    free(text);
    lock_file_release(&lock);
    close(fd);
    assert_true(file_is_directory(directory)); /* this process did not make it */
}

static void directories_made_for_a_lock_are_removed_unless_they_are_used(void **state)
{
    char outer[PATH_BYTES], inner[PATH_BYTES], path[PATH_BYTES];
    LockFile lock;
    scratch_path(state, "a", outer);
    assert_ok(file_join(inner, outer, "b//c/"));
    assert_ok(lock_file_take(&lock, inner));
    assert_true(file_is_directory(inner));
    lock_file_release(&lock);
    assert_false(file_exists(inner));
    assert_ok(lock_file_take(&lock, inner));
    assert_ok(file_join(path, inner, "metrics.jsonl"));
    assert_ok(file_write(path, "x", 1));
    lock_file_release(&lock);
    assert_true(file_exists(path));
}

static void a_file_of_that_name_that_is_not_ours_is_left_alone(void **state)
{
    char directory[PATH_BYTES], path[PATH_BYTES], *text;
    LockFile lock;
    scratch_path(state, "run", directory);
    assert_ok(file_make_directory(directory));
    assert_ok(file_join(path, directory, "lock"));
    assert_ok(file_write(path, "the key is under the mat", 24));
    assert_fails(lock_file_take(&lock, directory), ERR_USAGE, "lock is not a lock of graft");
    lock_file_release(&lock);
    assert_ok(file_read(&text, &(size_t){0}, path));
    assert_string_equal(text, "the key is under the mat");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_second_process_is_refused_with_the_first_ones_name),
        scratch_test(what_a_killed_process_left_is_taken_over),
        scratch_test(directories_made_for_a_lock_are_removed_unless_they_are_used),
        scratch_test(a_file_of_that_name_that_is_not_ours_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
