/* The output directory: one process at a time, and what starting over removes. */
#define _GNU_SOURCE
#include "tests/support/program.h"
#include "tests/support/small_run.h"

#include "base/lock_file.h"
#include "ckpt/checkpoint.h"
#include "infer/adapter_path.h"

#include <dirent.h>
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

/* ---- starting over ----------------------------------------------------------------------------------------------- */

/* A run of three steps that leaves every kind of file. */
static void run_with_everything(char *output)
{
    Run run;
    assert_ok(SMALL_RUN(&run, output, SMALL_TARGETS, "--eval_file", small_run_data[1], "--eval_steps", "1",
                        "--save_steps", "1", "--max_steps", "3", "--timing", "--tensorboard", "true"));
    run_close(&run);
}

static void put(const char *directory, const char *name)
{
    char path[PATH_BYTES];
    assert_ok(file_join(path, directory, name));
    assert_ok(file_write(path, "x", 1));
}

static void count_events(const char *output, size_t expected)
{
    char path[PATH_BYTES];
    size_t n = 0;
    assert_ok(file_join(path, output, "tensorboard"));
    DIR *stream = opendir(path);
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream));) n += strncmp(entry->d_name, "events.", 7) == 0;
    closedir(stream);
    assert_int_equal(n, expected);
}

static void starting_over_removes_what_the_run_wrote_and_nothing_else(void **state)
{
    static const char *const ours[] = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "best",
                                       "checkpoint-000003.h5", "timing.jsonl"},
                             *const theirs[] = {"notes.txt", "adapter/README.md", "tensorboard/notes.txt",
                                                "checkpoint-mine.h5", "settings.json.draft.mine"},
                             *const drafts[] = {"settings.json.draft.77" /* of an older graft */,
                                                "settings.json.draft.00ab00cd00ef0012",
                                                "timing.jsonl.draft.00000000000000ff"};
    enum {
        N_OURS = sizeof ours / sizeof *ours,
        N_THEIRS = sizeof theirs / sizeof *theirs,
        N_DRAFTS = sizeof drafts / sizeof *drafts
    };
    char output[PATH_BYTES];
    Run run;
    scratch_path(state, "run", output);
    run_with_everything(output);
    for (size_t i = 0; i < N_OURS; i++)
        if (!small_run_has(output, ours[i])) fail_msg("the run has no %s", ours[i]);
    count_events(output, 1);
    for (size_t i = 0; i < N_THEIRS; i++) put(output, theirs[i]);
    for (size_t i = 0; i < N_DRAFTS; i++) put(output, drafts[i]);
    assert_ok(SMALL_RUN_OPEN(&run, output, SMALL_TARGETS, "--max_steps", "1", "--overwrite_output_dir"));
    for (size_t i = 0; i < N_OURS; i++)
        if (small_run_has(output, ours[i])) fail_msg("%s is still there", ours[i]);
    for (size_t i = 0; i < N_THEIRS; i++)
        if (!small_run_has(output, theirs[i])) fail_msg("%s is gone", theirs[i]);
    for (size_t i = 0; i < N_DRAFTS; i++)
        if (small_run_has(output, drafts[i])) fail_msg("%s is still there", drafts[i]);
    count_events(output, 0);
    assert_true(small_run_has(output, "settings.json"));
    run_close(&run);
}

static void an_adapter_of_the_run_before_is_not_opened(void **state)
{
    char output[PATH_BYTES];
    Run run;
    AdapterPath found;
    scratch_path(state, "run", output);
    run_with_everything(output);
    assert_ok(adapter_path_find(&found, output));
    assert_false(found.is_checkpoint);
    assert_non_null(strstr(found.says, "run: step 3, adapter/"));
    assert_ok(SMALL_RUN_OPEN(&run, output, SMALL_TARGETS, "--max_steps", "3", "--resume_from_checkpoint", "auto"));
    run_close(&run); /* as if it had been killed: the run no longer ends with adapter/ */
    assert_ok(adapter_path_find(&found, output));
    assert_true(found.is_checkpoint);
    assert_ok(SMALL_RUN_OPEN(&run, output, SMALL_TARGETS, "--max_steps", "3", "--overwrite_output_dir"));
    assert_ok(run_save(&run, output, 0));
    run_close(&run);
    assert_ok(adapter_path_find(&found, output));
    assert_true(found.is_checkpoint);
    assert_non_null(strstr(found.says, "run: step 0, checkpoint-000000.h5"));
}

static void an_adapter_that_the_run_begins_with_is_not_removed(void **state)
{
    char output[PATH_BYTES], adapter[PATH_BYTES];
    Run run;
    scratch_path(state, "run", output);
    run_with_everything(output);
    assert_ok(file_join(adapter, output, "adapter"));
    assert_fails(SMALL_RUN_OPEN(&run, output, "--init_adapter", adapter, "--max_steps", "1", "--overwrite_output_dir"),
                 ERR_USAGE, "overwrite_output_dir would remove it; choose another output_dir");
    run_close(&run);
    assert_true(small_run_has(output, "adapter/adapter_config.json") && small_run_has(output, "checkpoint-000003.h5"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_second_process_is_refused_and_changes_nothing),
        scratch_test(a_lock_of_a_process_that_is_gone_is_taken_over),
        small_run_test(starting_over_removes_what_the_run_wrote_and_nothing_else),
        small_run_test(an_adapter_of_the_run_before_is_not_opened),
        small_run_test(an_adapter_that_the_run_begins_with_is_not_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
