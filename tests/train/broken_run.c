/* Broken data, output that cannot be written, and options that cannot work: the program ends within seconds, names the
 * cause and leaves no half-written file. */
#define _GNU_SOURCE
#include "tests/support/program.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

static void refuse_data(void **state, const char *text, int kind, const char *part, const char *other)
{
    char output[PATH_BYTES], path[PATH_BYTES];
    scratch_path(state, "run", output);
    assert_ok(file_write(scratch_path(state, "data.jsonl", path), text, strlen(text)));
    program_expect(program_train(state, PROGRAM_BASE, path, output, NULL), kind, part, other);
    assert_false(file_exists(output));
}

/* ---- data ------------------------------------------------------------------------------------------------------- */

#define GOOD \
    "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b c\"}]}\n"

static void a_malformed_line_is_named_with_its_number(void **state)
{
    refuse_data(state, GOOD "\n" GOOD "{\"messages\": [{\"role\": \"user\"\n", ERR_DATA, "data.jsonl: line 4", NULL);
    refuse_data(state, GOOD "not json\n" GOOD, ERR_DATA, "data.jsonl: line 2", NULL);
    refuse_data(state, GOOD "{\"prompt\": \"x\"}\n", ERR_DATA, "data.jsonl: line 2", "messages");
}

static void a_record_without_tokens_in_the_loss_is_named_with_its_number(void **state)
{
    refuse_data(state, GOOD GOOD "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n", ERR_DATA,
                "data.jsonl: line 3", "no token of the record is in the loss");
}

static void data_without_records_are_refused(void **state)
{
    refuse_data(state, "", ERR_DATA, "data.jsonl", NULL);
    refuse_data(state, "\n\n", ERR_DATA, "data.jsonl", NULL);
}

static void a_data_file_that_is_not_there_is_named(void **state)
{
    char output[PATH_BYTES];
    scratch_path(state, "run", output);
    program_expect(program_train(state, PROGRAM_BASE, "nowhere.jsonl", output, NULL), ERR_IO, "nowhere.jsonl", NULL);
    assert_false(file_exists(output));
}

/* ---- output ----------------------------------------------------------------------------------------------------- */

static void an_output_directory_that_cannot_be_made_is_named(void **state)
{
    char below[PATH_BYTES], path[PATH_BYTES];
    assert_ok(file_write(scratch_path(state, "file", path), "x", 1));
    snprintf(below, sizeof below, "%.4000s/run", path);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, below, NULL), ERR_IO, below, NULL);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, "/proc/run", NULL), ERR_IO, "/proc/run", NULL);
}

/* No draft and no checkpoint was left behind. */
static void check_no_drafts(const char *directory)
{
    DIR *dir = opendir(directory);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        if (strstr(e->d_name, "draft") || strstr(e->d_name, ".h5"))
            fail_msg("%s/%s was left behind", directory, e->d_name);
    closedir(dir);
}

static void a_full_disk_ends_the_run_and_leaves_no_half_file(void **state)
{
    char output[PATH_BYTES];
    char *words[PROGRAM_MAX_WORDS] = {"sh", "-c", "trap '' XFSZ; ulimit -f 40; exec \"$@\"", "sh"};
    scratch_path(state, "run", output);
    program_train_words(words + 4, PROGRAM_BASE, PROGRAM_DATA, output, NULL);
    int code = program_wait(state, program_start(state, words));
    program_expect(code, ERR_IO, "checkpoint-000004.h5", NULL);
    check_no_drafts(output);
}

static void a_disk_that_is_full_for_the_adapter_leaves_the_checkpoint(void **state)
{
    char output[PATH_BYTES], path[PATH_BYTES];
    scratch_path(state, "run", output);
    assert_ok(file_make_directory(output));
    assert_ok(file_join(path, output, "adapter"));
    assert_ok(file_write(path, "a file, not a directory", 23));
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output, NULL), ERR_IO, "run/adapter", NULL);
    assert_ok(file_join(path, output, "checkpoint-000004.h5"));
    assert_true(file_exists(path));
}

static void a_second_run_into_the_same_directory_is_refused(void **state)
{
    char output[PATH_BYTES], path[PATH_BYTES], *before, *after;
    size_t n, m;
    scratch_path(state, "run", output);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output, NULL), 0, "step 4/4", NULL);
    assert_ok(file_join(path, output, "metrics.jsonl"));
    assert_ok(file_read(&before, &n, path));
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output, PROGRAM_WORDS("--r", "3")), ERR_USAGE,
                   "holds a run", "--resume_from_checkpoint auto");
    assert_ok(file_read(&after, &m, path));
    assert_string_equal(before, after);
    free(before);
    free(after);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output, PROGRAM_WORDS("--overwrite_output_dir")), 0,
                   "step 4/4", NULL);
}

static void a_resume_of_nothing_is_refused(void **state)
{
    char output[PATH_BYTES];
    scratch_path(state, "run", output);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output,
                                 PROGRAM_WORDS("--resume_from_checkpoint", "auto")),
                   ERR_USAGE, "has no checkpoint", output);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output,
                                 PROGRAM_WORDS("--resume_from_checkpoint", "/nowhere.h5")),
                   ERR_IO, "/nowhere.h5", NULL);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output,
                                 PROGRAM_WORDS("--resume_from_checkpoint", PROGRAM_DATA)),
                   ERR_FORMAT, PROGRAM_DATA, NULL);
    assert_false(file_exists(output));
}

static void options_that_cannot_work_are_refused(void **state)
{
    char output[PATH_BYTES];
    scratch_path(state, "run", output);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output, PROGRAM_WORDS("--learning_rat", "1")),
                   ERR_USAGE, "learning_rate", NULL);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output,
                                 PROGRAM_WORDS("--target_modules", "[\"q_proj\"]")),
                   ERR_USAGE, "q_proj matches no module", NULL);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output,
                                 PROGRAM_WORDS("--max_steps", "0", "--num_train_epochs", "0")),
                   ERR_USAGE, "num_train_epochs", NULL);
    program_expect(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output, PROGRAM_WORDS("no-such-config.json")),
                   ERR_IO, "no-such-config.json", NULL);
    assert_false(file_exists(output));
    char *const none[] = {program_path(), "train", NULL}, *const verb[] = {program_path(), "fly", NULL};
    program_expect(program_wait(state, program_start(state, none)), ERR_USAGE, "model_name_or_path", NULL);
    program_expect(program_wait(state, program_start(state, verb)), ERR_USAGE, "there is no verb fly", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_malformed_line_is_named_with_its_number),
        scratch_test(a_record_without_tokens_in_the_loss_is_named_with_its_number),
        scratch_test(data_without_records_are_refused),
        scratch_test(a_data_file_that_is_not_there_is_named),
        scratch_test(an_output_directory_that_cannot_be_made_is_named),
        scratch_test(a_full_disk_ends_the_run_and_leaves_no_half_file),
        scratch_test(a_disk_that_is_full_for_the_adapter_leaves_the_checkpoint),
        scratch_test(a_second_run_into_the_same_directory_is_refused),
        scratch_test(a_resume_of_nothing_is_refused),
        scratch_test(options_that_cannot_work_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
