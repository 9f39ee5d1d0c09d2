/* A run as a process of its own: what it says of lost metrics. */
#define _GNU_SOURCE
#include "ckpt/checkpoint.h"
#include "tests/support/program.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The bytes of metrics that the checkpoint of a step counted. */
static uint64_t counted_bytes(const char *output, uint64_t step)
{
    char path[PATH_BYTES];
    CkptInfo info;
    assert_ok(checkpoint_path(path, output, step));
    assert_ok(checkpoint_peek(&info, path));
    uint64_t bytes = info.metrics_bytes;
    checkpoint_info_free(&info);
    return bytes;
}

/* A power failure took the end of the metrics, but not the checkpoint. */
static void a_resume_warns_of_lost_metrics_and_goes_on(void **state)
{
    char output[PATH_BYTES], path[PATH_BYTES], warning[128], *text, *last;
    scratch_path(state, "run", output);
    assert_int_equal(program_train(state, PROGRAM_BASE, PROGRAM_DATA, output, PROGRAM_WORDS("--save_steps", "2")), 0);
    assert_ok(checkpoint_path(path, output, 4));
    assert_int_equal(unlink(path), 0);
    uint64_t bytes = counted_bytes(output, 2);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_resume_warns_of_lost_metrics_and_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
