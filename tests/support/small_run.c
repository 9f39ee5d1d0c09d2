/* The common words keep a run below a second: r 2, three documents of 40 tokens per step, no warm-up, no
 * TensorBoard. */
#include "tests/support/small_run.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_WORDS = 64 };

char small_run_data[2][PATH_BYTES];

int small_run_setup(void **state)
{
    if (scratch_open(state)) return -1;
    char *text;
    size_t bytes;
    assert_ok(file_read(&text, &bytes, "examples/devils/devils_eval.jsonl"));
    const char *at = text;
    for (int i = 0; i < 2; i++) {
        const char *begin = at;
        for (int n = 0; n < SMALL_RUN_DOCUMENTS; n++) at = strchr(at, '\n') + 1;
        scratch_path(state, i ? "second.jsonl" : "first.jsonl", small_run_data[i]);
        assert_ok(file_write(small_run_data[i], begin, (size_t)(at - begin)));
    }
    free(text);
    return 0;
}

Err *small_run_open(Run *run, char *directory, char *const *extra)
{
    char *words[MAX_WORDS] = {"--model_name_or_path",
                              "examples/tiny-glm5",
                              "--train_file",
                              small_run_data[0],
                              "--output_dir",
                              directory,
                              "--r",
                              "2",
                              "--max_length",
                              "40",
                              "--train_batch_size",
                              "3",
                              "--micro_batch_tokens",
                              "64",
                              "--warmup_ratio",
                              "0",
                              "--lr_scheduler_type",
                              "constant",
                              "--tensorboard",
                              "false",
                              "--logging_steps",
                              "1000"};
    size_t n = 22;
    for (; *extra; extra++) words[n++] = *extra;
    *run = (Run){.dp = {.size = 1}};
    return run_open(run, (int)n, words);
}

Err *small_run(Run *run, char *directory, char *const *extra)
{
    Err *err = small_run_open(run, directory, extra);
    return err ? err : run_loop(run);
}

bool small_run_has(const char *directory, const char *name)
{
    char path[PATH_BYTES];
    assert_ok(file_join(path, directory, name));
    return file_exists(path);
}

char *small_run_metrics(const char *directory)
{
    char path[PATH_BYTES], *text;
    size_t bytes;
    assert_ok(file_join(path, directory, "metrics.jsonl"));
    assert_ok(file_read(&text, &bytes, path));
    return text;
}
