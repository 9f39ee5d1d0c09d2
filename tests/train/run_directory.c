/* The output directory: one process at a time. */
#define _GNU_SOURCE
#include "tests/support/program.h"
#include "tests/support/small_run.h"

#include "base/lock_file.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void a_second_process_is_refused_and_changes_nothing(void **state)
{
    char output[PATH_BYTES], holder[64];
    LockFile lock;
    scratch_path(state, "run", output);
    assert_ok(lock_file_take(&lock, output));
    snprintf(holder, sizeof holder, "run is in use by process %ld on ", (long)getpid());
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output, PROGRAM_WORDS("--overwrite_output_dir")),
                   ERR_USAGE, holder, "stop it, or choose another directory");
    assert_true(small_run_has(output, "lock"));
    assert_false(small_run_has(output, "metrics.jsonl"));
    assert_false(small_run_has(output, "settings.json"));
    lock_file_release(&lock);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output, NULL), 0, "step 4/4", NULL);
    assert_false(small_run_has(output, "lock"));
}

static void a_lock_of_a_process_that_is_gone_is_taken_over(void **state)
{
    static const char stale[] = "graft train: process 4194300 on a-host-of-last-year\n";
    char output[PATH_BYTES], path[PATH_BYTES];
    scratch_path(state, "run", output);
    assert_ok(file_make_directory(output));
    assert_ok(file_join(path, output, "lock"));
    assert_ok(file_write(path, stale, strlen(stale)));
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output, NULL), 0, "step 4/4", NULL);
    assert_false(file_exists(path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_second_process_is_refused_and_changes_nothing),
        scratch_test(a_lock_of_a_process_that_is_gone_is_taken_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
