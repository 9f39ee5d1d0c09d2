/* Resuming: a resumed run ends with the same bits and files as one that never stopped. A refused resume leaves the
 * directory of the run as it was, and wherever a run ends there is something to resume. */
#define _GNU_SOURCE
#include "train/run.h"

#include "base/log.h"
#include "base/memory.h"
#include "ckpt/checkpoint.h"
#include "infer/adapter_io.h"
#include "tensor/dispatch.h"
#include "tests/support/program.h"
#include "tests/support/tiny.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* HDF5 1.10 loses memory of its own when it refuses a damaged file. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

enum { MAX_WORDS = 64 };

static char *const common[] = {"--model_name_or_path",
                               "examples/tiny-glm5",
                               "--train_file",
                               "examples/devils/devils_eval.jsonl",
                               "--target_modules",
                               "[\"kv_b_proj\"]",
                               "--experts",
                               "{\"4\": [1, 7, 20]}",
                               "--layers_to_transform",
                               "[4, 5]",
                               "--train_router",
                               "--r",
                               "2",
                               "--lora_dropout",
                               "0.1",
                               "--z_loss_coef",
                               "0.001",
                               "--train_batch_size",
                               "2",
                               "--max_length",
                               "48",
                               "--max_steps",
                               "6",
                               "--save_steps",
                               "2",
                               "--save_total_limit",
                               "0"};

/* Train in this process with the common words and `more` (up to NULL). digest may be NULL. */
static Err *train(char *output, char *const *more, char *digest)
{
    char *words[MAX_WORDS];
    size_t n = sizeof common / sizeof *common;
    memcpy(words, common, sizeof common);
    words[n++] = "--output_dir";
    words[n++] = output;
    while (more && *more) words[n++] = *more++;
    Run run = {.dp = {.size = 1}};
    log_enable(false);
    Err *err = run_open(&run, (int)n, words);
    if (!err) err = run_loop(&run);
    if (digest) strcpy(digest, run.state_digest);
    run_close(&run);
    return err;
}

#define MORE(...) ((char *const[]){__VA_ARGS__, NULL})

static void remove_checkpoint(const char *output, uint64_t step)
{
    char path[PATH_BYTES];
    assert_ok(checkpoint_path(path, output, step));
    assert_int_equal(unlink(path), 0);
}

/* metrics.jsonl without what depends on the clock. */
static char *steady_metrics(const char *output)
{
    char path[PATH_BYTES], *text, *out, *line, *rest;
    size_t bytes;
    assert_ok(file_join(path, output, "metrics.jsonl"));
    assert_ok(file_read(&text, &bytes, path));
    out = calloc(1, bytes + 1);
    assert_non_null(out);
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *clock = strstr(line, ",\"seconds\"");
        if (clock) *clock = 0;
        strcat(strcat(out, line), "\n");
    }
    free(text);
    return out;
}

/* Names, sizes and contents of a directory's files, as one number. */
static uint64_t fingerprint(const char *directory)
{
    uint64_t sum = 0;
    DIR *dir = opendir(directory);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[PATH_BYTES], *data;
        size_t bytes;
        assert_ok(file_join(path, directory, entry->d_name));
        if (file_is_directory(path)) continue;
        uint64_t one = 14695981039346656037u;
        assert_ok(file_read(&data, &bytes, path));
        for (const char *c = entry->d_name; *c; c++) one = (one ^ (unsigned char)*c) * 1099511628211u;
        for (size_t i = 0; i < bytes; i++) one = (one ^ (unsigned char)data[i]) * 1099511628211u;
        free(data);
        sum += one;
    }
    closedir(dir);
    return sum;
}

static void check_same_file(const char *a, const char *b, const char *name)
{
    char x[PATH_BYTES], y[PATH_BYTES], *one, *two;
    size_t n, m;
    assert_ok(file_join(x, a, name));
    assert_ok(file_join(y, b, name));
    assert_ok(file_read(&one, &n, x));
    assert_ok(file_read(&two, &m, y));
    assert_int_equal(n, m);
    assert_memory_equal(one, two, n);
    free(one);
    free(two);
}

static void resuming_equals_never_stopping(void **state)
{
    char whole[PATH_BYTES], parts[PATH_BYTES], one[128], two[128];
    scratch_path(state, "whole", whole);
    assert_ok(train(whole, NULL, one));
    scratch_path(state, "parts", parts);
    assert_ok(train(parts, NULL, two));
    assert_string_equal(one, two);
    remove_checkpoint(parts, 6);
    remove_checkpoint(parts, 4);
    assert_ok(train(parts, MORE("--resume_from_checkpoint", "auto"), two));
    assert_string_equal(one, two);
    check_same_file(whole, parts, "adapter/adapter_model.safetensors");
    char *a = steady_metrics(whole), *b = steady_metrics(parts);
    assert_string_equal(a, b);
    free(a);
    free(b);
}

static void a_run_does_without_its_file_of_experts_once_it_has_begun(void **state)
{
    static const char chosen[] = "{\"experts\": {\"4\": [1, 7, 20]}}";
    char output[PATH_BYTES], table[PATH_BYTES], path[PATH_BYTES], whole[128], resumed[128];
    assert_ok(file_write(scratch_path(state, "expert_cfg.json", table), chosen, strlen(chosen)));
    scratch_path(state, "run", output);
    assert_ok(train(output, MORE("--experts", table), whole));
    assert_int_equal(unlink(table), 0);
    assert_ok(checkpoint_path(path, output, 4));

    Model *model;
    Adapter *adapter;
    assert_ok(model_open(&model, "examples/tiny-glm5"));
    assert_ok(adapter_open(&adapter, model, path));
    adapter_free(adapter);
    model_close(model);

    char *settings; /* it names everything that the run needs */
    assert_ok(file_join(path, output, "settings.json"));
    Run run = {.dp = {.size = 1}};
    remove_checkpoint(output, 6);
    assert_ok(run_open(&run, 3, (char *[]){path, "--resume_from_checkpoint", "auto"}));
    assert_ok(run_loop(&run));
    assert_int_equal(json_kind(run.settings.experts), JSON_OBJECT);
    strcpy(resumed, run.state_digest);
    run_close(&run);
    assert_string_equal(whole, resumed);
    assert_ok(file_read(&settings, &(size_t){0}, path));
    assert_null(strstr(settings, "expert_cfg.json"));
    free(settings);
}

static void resuming_from_an_older_checkpoint_drops_the_newer(void **state)
{
    char output[PATH_BYTES], path[PATH_BYTES], one[128], two[128];
    scratch_path(state, "run", output);
    assert_ok(train(output, NULL, one));
    assert_ok(checkpoint_path(path, output, 2));
    assert_ok(train(output, MORE("--resume_from_checkpoint", path, "--max_steps", "3"), NULL));
    assert_ok(checkpoint_path(path, output, 4));
    assert_false(file_exists(path));
    assert_ok(train(output, MORE("--resume_from_checkpoint", "auto"),
                    two)); /* from step 3, after a step on another schedule */
    assert_string_not_equal(one, two);
}

static void a_finished_run_resumed_stays_as_it_was(void **state)
{
    char output[PATH_BYTES], one[128], two[128];
    scratch_path(state, "run", output);
    assert_ok(train(output, NULL, one));
    char *before = steady_metrics(output);
    assert_ok(train(output, MORE("--resume_from_checkpoint", "auto"), two));
    char *after = steady_metrics(output);
    assert_string_equal(before, after);
    assert_string_equal(one, two);
    free(before);
    free(after);
}

/* A copy of the base with one number changed; the other files are links. */
static void other_base(void **state, char directory[PATH_BYTES])
{
    static const char *const files[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
                                        "chat_template.jinja"};
    char here[PATH_BYTES], from[2 * PATH_BYTES], to[PATH_BYTES], *data;
    size_t bytes;
    scratch_path(state, "base", directory);
    assert_ok(file_make_directory(directory));
    assert_non_null(getcwd(here, sizeof here));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(from, sizeof from, "%s/examples/tiny-glm5/%s", here, files[i]);
        assert_ok(file_join(to, directory, files[i]));
        assert_int_equal(symlink(from, to), 0);
    }
    assert_ok(file_read(&data, &bytes, "examples/tiny-glm5/model.safetensors"));
    data[bytes - 2] ^= 1;
    assert_ok(file_join(to, directory, "model.safetensors"));
    assert_ok(file_write(to, data, bytes));
    free(data);
}

static void a_resume_that_does_not_match_the_checkpoint_is_refused_and_changes_nothing(void **state)
{
    char output[PATH_BYTES], base[PATH_BYTES];
    scratch_path(state, "run", output);
    assert_ok(train(output, NULL, NULL));
    remove_checkpoint(output, 6);
    other_base(state, base);
    uint64_t before = fingerprint(output);
    static const struct {
        char *key, *value, *part;
        ErrKind kind;
    } cases[] = {
        {"--seed", "43", "seed is 43; the checkpoint has 42", ERR_USAGE},
        {"--train_file", "examples/devils/devils_train.jsonl", "the training data (digest) differs", ERR_USAGE},
        {"--max_length", "47", "the training data (digest) differs", ERR_USAGE},
        {"--model_name_or_path", NULL, "the base model (digest) differs", ERR_USAGE},
        {"--train_batch_size", "4", "train_batch_size differs", ERR_USAGE},
        {"--compute", "fp32/plain", "the compute path differs", ERR_USAGE},
        {"--lora_alpha", "16", "lora_alpha is 16; the checkpoint has 32", ERR_USAGE},
        {"--use_rslora", "true", "use_rslora is true; the checkpoint has false", ERR_USAGE},
        {"--r", "3", "layers/004", ERR_FORMAT},
        {"--target_modules", "[\"o_proj\"]", "layers/004", ERR_FORMAT},
        {"--experts", "{\"4\": [1, 7, 21]}", "layers/004/mlp.experts", ERR_FORMAT},
        {"--layers_to_transform", "[4]", "layers/005", ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_fails(
            train(output,
                  MORE("--resume_from_checkpoint", "auto", cases[i].key, cases[i].value ? cases[i].value : base), NULL),
            cases[i].kind, cases[i].part);
        if (fingerprint(output) != before) fail_msg("%s: the refused resume changed the run's directory", cases[i].key);
    }
    dispatch_init("fp32");
}

static void a_damaged_checkpoint_is_refused_by_name(void **state)
{
    char output[PATH_BYTES], path[PATH_BYTES], *data;
    size_t bytes;
    scratch_path(state, "run", output);
    assert_ok(train(output, NULL, NULL));
    assert_ok(checkpoint_path(path, output, 6));
    assert_ok(file_read(&data, &bytes, path));
    for (size_t i = 0; i < 4; i++) {
        size_t keep[] = {0, 100, bytes / 2, bytes - 1};
        assert_ok(file_write(path, data, keep[i]));
        uint64_t before = fingerprint(output);
        assert_fails(train(output, MORE("--resume_from_checkpoint", "auto"), NULL), ERR_FORMAT, "checkpoint-000006.h5");
        assert_int_equal(fingerprint(output), before);
    }
    data[bytes / 2] ^= 0x40; /* a bit, with its checksum */
    assert_ok(file_write(path, data, bytes));
    assert_fails(train(output, MORE("--resume_from_checkpoint", path), NULL), ERR_FORMAT, "checkpoint-000006.h5");
    free(data);
}

static void nothing_to_resume_is_an_error(void **state)
{
    char output[PATH_BYTES];
    scratch_path(state, "run", output);
    assert_fails(train(output, MORE("--resume_from_checkpoint", "auto"), NULL), ERR_USAGE, "has no checkpoint");
    assert_fails(train(output, MORE("--resume_from_checkpoint", "nowhere.h5"), NULL), ERR_IO, "nowhere.h5");
    assert_false(file_exists(output));
}

/* As an older graft left it: metrics cut back to an older checkpoint, then killed before the newer ones were
 * removed. */
static void auto_takes_the_newest_checkpoint_also_after_a_cut(void **state)
{
    char output[PATH_BYTES], path[PATH_BYTES], one[128], two[128];
    scratch_path(state, "run", output);
    assert_ok(train(output, NULL, one));
    remove_checkpoint(output, 6);
    assert_ok(file_join(path, output, "metrics.jsonl"));
    assert_int_equal(truncate(path, (off_t)program_counted_metrics(output, 2)), 0);
    assert_ok(train(output, MORE("--resume_from_checkpoint", "auto"), two));
    assert_string_equal(one, two);
}

/* The file that cannot be removed stands for the kill. */
static void metrics_are_cut_after_the_newer_checkpoints_are_gone(void **state)
{
    char output[PATH_BYTES], path[PATH_BYTES], one[128], two[128];
    scratch_path(state, "run", output);
    assert_ok(train(output, NULL, one));
    char *before = steady_metrics(output);
    assert_ok(checkpoint_path(path, output, 5));
    assert_ok(file_make_directory(path));
    assert_ok(checkpoint_path(path, output, 2));
    assert_fails(train(output, MORE("--resume_from_checkpoint", path), NULL), ERR_IO, "remove ");
    char *after = steady_metrics(output);
    assert_string_equal(before, after);
    assert_ok(checkpoint_path(path, output, 6));
    assert_false(file_exists(path));
    assert_ok(checkpoint_path(path, output, 5));
    assert_int_equal(rmdir(path), 0);
    assert_ok(train(output, MORE("--resume_from_checkpoint", "auto"), two)); /* from step 4 */
    assert_string_equal(one, two);
    free(before);
    free(after);
}

static void without_synced_metrics_there_is_no_checkpoint(void **state)
{
    char output[PATH_BYTES], path[PATH_BYTES], *words[MAX_WORDS];
    size_t n = sizeof common / sizeof *common;
    Run run = {.dp = {.size = 1}};
    memcpy(words, common, sizeof common);
    words[n++] = "--output_dir";
    words[n++] = (char *)scratch_path(state, "run", output);
    assert_ok(run_open(&run, (int)n, words));
    close(fileno(run.metrics.stream));
    assert_fails(run_save(&run, output, 0), ERR_IO, "sync ");
    assert_ok(checkpoint_path(path, output, 0));
    assert_false(file_exists(path));
    run_close(&run);
}

/* So short that a save follows every step. */
static void save_minutes_saves_between_planned_saves_and_changes_nothing(void **state)
{
    char whole[PATH_BYTES], often[PATH_BYTES], path[PATH_BYTES], one[128], two[128];
    scratch_path(state, "whole", whole);
    assert_ok(train(whole, MORE("--save_minutes", "0"), one));
    assert_ok(checkpoint_path(path, whole, 3));
    assert_false(file_exists(path));
    scratch_path(state, "often", often);
    assert_ok(train(often, MORE("--save_minutes", "1e-9"), two));
    assert_string_equal(one, two);
    char *a = steady_metrics(whole), *b = steady_metrics(often);
    assert_string_equal(a, b);
    free(b);
    for (uint64_t step = 6; step > 3; step--) remove_checkpoint(often, step);
    assert_ok(train(often, MORE("--save_minutes", "30", "--resume_from_checkpoint", "auto"), two)); /* from step 3 */
    assert_string_equal(one, two);
    b = steady_metrics(often);
    assert_string_equal(a, b);
    free(a);
    free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(resuming_equals_never_stopping),
        scratch_test(a_run_does_without_its_file_of_experts_once_it_has_begun),
        scratch_test(resuming_from_an_older_checkpoint_drops_the_newer),
        scratch_test(a_finished_run_resumed_stays_as_it_was),
        scratch_test(a_resume_that_does_not_match_the_checkpoint_is_refused_and_changes_nothing),
        scratch_test(a_damaged_checkpoint_is_refused_by_name),
        scratch_test(nothing_to_resume_is_an_error),
        scratch_test(auto_takes_the_newest_checkpoint_also_after_a_cut),
        scratch_test(metrics_are_cut_after_the_newer_checkpoints_are_gone),
        scratch_test(without_synced_metrics_there_is_no_checkpoint),
        scratch_test(save_minutes_saves_between_planned_saves_and_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
