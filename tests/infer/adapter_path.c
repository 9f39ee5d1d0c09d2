/* What is opened for the directory of a run: the newest by step, and best/ by its name. */
#include "infer/adapter_path.h"

#include "tests/support/check.h"

#include <string.h>
#include <unistd.h>

static const char LAST_LINE[] = "{\"step\":119,\"loss\":1.5}\n{\"step\":120,\"state_sha256\":\"00ff\"}\n";

/* Make RUN/name with a text. */
static void put(const char *run, const char *folder, const char *name, const char *text)
{
    char directory[PATH_BYTES], path[PATH_BYTES];
    assert_ok(file_join(directory, run, folder));
    assert_ok(file_make_directory(directory));
    assert_ok(file_join(path, directory, name));
    assert_ok(file_write(path, text, strlen(text)));
}

/* `name` in the run is found, and `says` is part of the line. */
static void expect(const char *run, const char *name, bool is_checkpoint, const char *says)
{
    AdapterPath found;
    char path[PATH_BYTES];
    assert_ok(adapter_path_find(&found, run));
    assert_ok(file_join(path, run, name));
    assert_string_equal(found.path, path);
    assert_int_equal(found.is_checkpoint, is_checkpoint);
    if (!strstr(found.says, says)) fail_msg("\"%s\" expected in: %s", says, found.says);
}

static void a_run_that_ended_is_opened_at_its_last_step(void **state)
{
    char run[PATH_BYTES], best[PATH_BYTES];
    scratch_path(state, "run", run);
    put(run, "adapter", "adapter_config.json", "{}");
    expect(run, "adapter", false, "run: adapter/, of an unknown step");
    put(run, ".", "checkpoint-000120.h5", "");
    put(run, ".", "metrics.jsonl", LAST_LINE);
    expect(run, "adapter", false, "run: step 120, adapter/");
    put(run, "best", "checkpoint-000080.h5", "");
    put(run, "best", "adapter_config.json", "{}");
    expect(run, "adapter", false, "run: step 120, adapter/; the best step, 80, is in best/");
    assert_ok(file_join(best, run, "best"));
    expect(best, "checkpoint-000080.h5", true, "run/best: step 80, checkpoint-000080.h5");
}

static void an_adapter_older_than_the_checkpoints_is_not_taken(void **state)
{
    static const char *const metrics[] = {"", "{\"step\":121}\n", "{\"step\":120,\"state_sha256\":\"00", "[1]\n", "\n"};
    char run[PATH_BYTES];
    scratch_path(state, "run", run);
    put(run, "adapter", "adapter_config.json", "{}");
    put(run, ".", "checkpoint-000005.h5", "");
    expect(run, "checkpoint-000005.h5", true, "run: step 5, checkpoint-000005.h5; adapter/ is not used");
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
        put(run, ".", "metrics.jsonl", metrics[i]);
        expect(run, "checkpoint-000005.h5", true, "adapter/ is not used");
    }
    put(run, ".", "metrics.jsonl", LAST_LINE);
    expect(run, "adapter", false, "run: step 120, adapter/");
    put(run, ".", "checkpoint-000121.h5", "");
    expect(run, "checkpoint-000121.h5", true, "run: step 121, checkpoint-000121.h5; adapter/ is not used");
}

static void other_paths_are_taken_as_they_are(void **state)
{
    char run[PATH_BYTES];
    AdapterPath found;
    scratch_path(state, "peft", run);
    put(run, ".", "adapter_config.json", "{}");
    assert_ok(adapter_path_find(&found, run));
    assert_string_equal(found.path, run);
    assert_true(!found.is_checkpoint && !*found.says);
    assert_ok(adapter_path_find(&found, "nowhere/checkpoint-000001.h5"));
    assert_true(found.is_checkpoint && !*found.says);
    assert_ok(adapter_path_find(&found, "nowhere"));
    assert_true(!found.is_checkpoint && !*found.says);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_run_that_ended_is_opened_at_its_last_step),
        scratch_test(an_adapter_older_than_the_checkpoints_is_not_taken),
        scratch_test(other_paths_are_taken_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
