/* The program against broken inputs and a hostile world: it must end within seconds, say which file and what in it, and
 * leave nothing half-written. GRAFT names the program. */
#define _GNU_SOURCE
#include "base/json.h"
#include "base/memory.h"
#include "tests/support/check.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { MOST_WORDS = 48, SECONDS = 60, SAID_BYTES = 8192 };

static const char base[] = "examples/tiny-glm5", data[] = "examples/devils/devils_eval.jsonl";
static char said[SAID_BYTES]; /* what the last program said, on both streams */

/* ---- running it ------------------------------------------------------------------------------------------------- */

static const char *program(void)
{
    const char *path = getenv("GRAFT");
    return path ? path : "build/graft";
}

static pid_t start(void **state, const char *const *words)
{
    char path[PATH_BYTES];
    pid_t pid;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, scratch_path(state, "said", path),
                                     O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    assert_int_equal(posix_spawnp(&pid, words[0], &actions, NULL, (char *const *)(size_t)words, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}

static void rest(void) { nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL); }

/* The exit code, 128 + the signal that ended it, or failure after a minute. */
static int wait_for(void **state, pid_t pid)
{
    char path[PATH_BYTES], *text;
    size_t bytes;
    int status;
    time_t began = time(NULL);
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (time(NULL) - began > SECONDS) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            fail_msg("no end after %d seconds", SECONDS);
        }
        rest();
    }
    assert_ok(file_read(&text, &bytes, scratch_path(state, "said", path)));
    snprintf(said, sizeof said, "%s", text);
    free(text);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#define MORE(...) ((const char *const[]){__VA_ARGS__, NULL})

static const char *const small_run[] = {
    "--target_modules", "[\"o_proj\"]", "--layers_to_transform", "[5]", "--r",       "2", "--train_batch_size", "2",
    "--max_length",     "32",           "--max_steps",           "4",   "--threads", "1"};

static size_t train_words(const char **words, const char *model, const char *file, const char *output,
                          const char *const *more)
{
    size_t n = 0;
    const char *const first[] = {program(),      "train", "--model_name_or_path", model,
                                 "--train_file", file,    "--output_dir",         output};
    for (size_t i = 0; i < sizeof first / sizeof *first; i++) words[n++] = first[i];
    for (size_t i = 0; i < sizeof small_run / sizeof *small_run; i++) words[n++] = small_run[i];
    while (more && *more) words[n++] = *more++;
    words[n] = NULL;
    return n;
}

static int train(void **state, const char *model, const char *file, const char *output, const char *const *more)
{
    const char *words[MOST_WORDS];
    train_words(words, model, file, output, more);
    return wait_for(state, start(state, words));
}

/* It ended with this code, and said these two. */
static void check_said(int code, int expected, const char *part, const char *other)
{
    if (code != expected || !strstr(said, part) || (other && !strstr(said, other)))
        fail_msg("code %d instead of %d, and \"%s\", \"%s\" expected in:\n%s", code, expected, part, other ? other : "",
                 said);
}

/* A broken base model: refused before anything is made. */
static void refuse_model(void **state, const char *model, int kind, const char *part, const char *other)
{
    char output[PATH_BYTES];
    scratch_path(state, "run", output);
    check_said(train(state, model, data, output, NULL), kind, part, other);
    assert_false(file_exists(output));
}

static void refuse_data(void **state, const char *text, int kind, const char *part, const char *other)
{
    char output[PATH_BYTES], path[PATH_BYTES];
    scratch_path(state, "run", output);
    assert_ok(file_write(scratch_path(state, "data.jsonl", path), text, strlen(text)));
    check_said(train(state, base, path, output, NULL), kind, part, other);
    assert_false(file_exists(output));
}

/* ---- breaking things -------------------------------------------------------------------------------------------- */

/* A copy of the base, links to what is not broken. */
static void copy_base(void **state, char directory[PATH_BYTES], const char *broken)
{
    static const char *const files[] = {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                                        "model.safetensors"};
    char here[PATH_BYTES], from[2 * PATH_BYTES], to[PATH_BYTES];
    scratch_path(state, "base", directory);
    assert_ok(file_make_directory(directory));
    assert_non_null(getcwd(here, sizeof here));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (strcmp(files[i], broken) == 0) continue;
        snprintf(from, sizeof from, "%s/%s/%s", here, base, files[i]);
        assert_ok(file_join(to, directory, files[i]));
        assert_int_equal(symlink(from, to), 0);
    }
}

typedef struct {
    char directory[PATH_BYTES], path[PATH_BYTES];
    char *bytes;
    size_t n, header; /* the header's own length */
    Json *root;
} Broken;

static void open_weights(void **state, Broken *b)
{
    char path[PATH_BYTES];
    copy_base(state, b->directory, "model.safetensors");
    assert_ok(file_join(b->path, b->directory, "model.safetensors"));
    assert_ok(file_join(path, base, "model.safetensors"));
    assert_ok(file_read(&b->bytes, &b->n, path));
    uint64_t header;
    memcpy(&header, b->bytes, 8);
    b->header = header;
    assert_ok(json_parse(&b->root, b->bytes + 8, b->header));
}

static Json *entry(const Broken *b, const char *tensor)
{
    const Json *found = json_find(b->root, tensor);
    assert_non_null(found);
    return (Json *)(size_t)found;
}

/* The first `n` bytes as they are. */
static void write_bytes(Broken *b, size_t n)
{
    assert_ok(file_write(b->path, b->bytes, n));
    free(b->bytes);
    json_free(b->root);
}

/* A new header before the old tensors. */
static void write_header(Broken *b)
{
    char *text;
    assert_ok(json_print(b->root, false, &text));
    uint64_t length = strlen(text);
    FILE *file = fopen(b->path, "w");
    assert_non_null(file);
    fwrite(&length, 8, 1, file);
    fwrite(text, 1, length, file);
    fwrite(b->bytes + 8 + b->header, 1, b->n - 8 - b->header, file);
    assert_int_equal(fclose(file), 0);
    free(text);
    free(b->bytes);
    json_free(b->root);
}

static size_t begin_of(const Broken *b, const char *tensor)
{
    const Json *offsets;
    assert_ok(json_get_array(entry(b, tensor), "data_offsets", &offsets));
    return 8 + b->header + (size_t)json_number(json_first(offsets));
}

static void write_config(void **state, char directory[PATH_BYTES], const char *key, Json *value)
{
    char path[PATH_BYTES], *text;
    Json *root, *out = json_new_object();
    copy_base(state, directory, "config.json");
    assert_ok(file_join(path, base, "config.json"));
    assert_ok(json_read_file(&root, path));
    for (const Json *m = json_first(root); m; m = json_next(m))
        if (strcmp(json_key(m), key) != 0) json_add(out, json_key(m), json_duplicate(m));
    if (value) json_add(out, key, value);
    assert_ok(json_print(out, true, &text));
    assert_ok(file_join(path, directory, "config.json"));
    assert_ok(file_write(path, text, strlen(text)));
    free(text);
    json_free(root);
    json_free(out);
}

static Json *parsed(const char *text)
{
    Json *root = NULL;
    assert_ok(json_parse(&root, text, strlen(text)));
    return root;
}

/* ---- base models ------------------------------------------------------------------------------------------------ */

static const char tensor[] = "model.layers.3.self_attn.o_proj.weight";

static void a_truncated_shard_is_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    write_bytes(&b, b.n - 1000);
    refuse_model(state, b.directory, ERR_FORMAT, "model.safetensors", NULL);
}

static void an_empty_shard_is_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    write_bytes(&b, 5);
    refuse_model(state, b.directory, ERR_FORMAT, "model.safetensors", NULL);
}

static void a_header_longer_than_the_file_is_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    uint64_t length = b.n;
    memcpy(b.bytes, &length, 8);
    write_bytes(&b, b.n);
    refuse_model(state, b.directory, ERR_FORMAT, "model.safetensors", "header");
}

static void a_header_longer_than_memory_is_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    memset(b.bytes, 0xFF, 8);
    write_bytes(&b, b.n);
    refuse_model(state, b.directory, ERR_FORMAT, "model.safetensors", "header");
}

static void overlapping_tensors_are_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    const Json *other;
    assert_ok(json_get_array(entry(&b, "model.layers.2.self_attn.o_proj.weight"), "data_offsets", &other));
    json_set(entry(&b, tensor), "data_offsets", json_duplicate(other));
    write_header(&b);
    refuse_model(state, b.directory, ERR_FORMAT, "model.safetensors", "self_attn.o_proj.weight");
}

static void a_wrong_shape_is_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    json_set(entry(&b, "model.layers.3.self_attn.q_a_proj.weight"), "shape", parsed("[256, 96]"));
    write_header(&b);
    refuse_model(state, b.directory, ERR_FORMAT, "model.layers.3.self_attn.q_a_proj.weight", "[256, 96]");
}

static void a_missing_tensor_is_named(void **state)
{
    Broken b;
    open_weights(state, &b);
    Json *moved = json_duplicate(entry(&b, tensor)), *out = json_new_object();
    for (const Json *m = json_first(b.root); m; m = json_next(m))
        if (strcmp(json_key(m), tensor) != 0) json_add(out, json_key(m), json_duplicate(m));
    json_add(out, "something.else", moved);
    json_free(b.root);
    b.root = out;
    write_header(&b);
    refuse_model(state, b.directory, ERR_FORMAT, "missing tensor", tensor);
}

static void an_unknown_dtype_is_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    json_set(entry(&b, tensor), "dtype", parsed("\"F12\""));
    write_header(&b);
    refuse_model(state, b.directory, ERR_FORMAT, tensor, "F12");
}

static void an_integer_weight_is_refused(void **state)
{
    Broken b;
    open_weights(state, &b);
    json_set(entry(&b, tensor), "dtype", parsed("\"I16\""));
    write_header(&b);
    refuse_model(state, b.directory, ERR_FORMAT, tensor, "I16");
}

static void a_nan_in_a_norm_is_found_at_once(void **state)
{
    Broken b;
    open_weights(state, &b);
    memcpy(b.bytes + begin_of(&b, "model.layers.2.input_layernorm.weight"), "\xC0\x7F\xC0\x7F", 4);
    write_bytes(&b, b.n);
    refuse_model(state, b.directory, ERR_NUMERIC, "model.layers.2.input_layernorm.weight", "not finite");
}

/* Found when it is read: the run has begun, and has written no step. */
static void a_nan_in_a_matrix_ends_the_step_and_names_the_layer(void **state)
{
    Broken b;
    char output[PATH_BYTES], path[PATH_BYTES], *text;
    size_t bytes;
    open_weights(state, &b);
    memcpy(b.bytes + begin_of(&b, tensor), "\xC0\x7F\xC0\x7F", 4);
    write_bytes(&b, b.n);
    scratch_path(state, "run", output);
    check_said(train(state, b.directory, data, output, NULL), ERR_NUMERIC, "step 1: layer 3: ", "nan");
    assert_ok(file_join(path, output, "metrics.jsonl"));
    assert_ok(file_read(&text, &bytes, path));
    assert_string_equal(text, "");
    free(text);
    assert_ok(file_join(path, output, "adapter"));
    assert_false(file_exists(path));
    const char *const inspect[] = {program(), "inspect", b.directory, "--check", NULL}, *const whole[] = {program(),
                                                                                                          "inspect",
                                                                                                          base,
                                                                                                          "--check",
                                                                                                          NULL};
    check_said(wait_for(state, start(state, inspect)), ERR_NUMERIC, tensor, "is not finite");
    check_said(wait_for(state, start(state, whole)), 0, "", NULL);
    const char *const eval[] = {program(), "eval", "--model", b.directory, "--data", data, NULL};
    check_said(wait_for(state, start(state, eval)), ERR_NUMERIC, "layer 3", "nan");
    const char *const generate[] = {program(), "generate",         "--model", b.directory, "--prompt",
                                    "x",       "--max_new_tokens", "2",       NULL};
    check_said(wait_for(state, start(state, generate)), ERR_NUMERIC, "layer 3", "nan");
}

static void an_unknown_model_type_is_refused_by_name(void **state)
{
    char directory[PATH_BYTES];
    write_config(state, directory, "model_type", parsed("\"glm5_next\""));
    refuse_model(state, directory, ERR_FORMAT, "config.json", "glm5_next");
}

static void a_missing_config_key_is_named(void **state)
{
    char directory[PATH_BYTES];
    write_config(state, directory, "kv_lora_rank", NULL);
    refuse_model(state, directory, ERR_FORMAT, "config.json", "kv_lora_rank");
}

static void a_wrong_config_value_is_named(void **state)
{
    char directory[PATH_BYTES];
    write_config(state, directory, "num_experts_per_tok", parsed("33"));
    refuse_model(state, directory, ERR_FORMAT, "config.json", "num_experts_per_tok");
}

static void a_config_that_is_no_json_is_told_with_its_line(void **state)
{
    char directory[PATH_BYTES], path[PATH_BYTES];
    copy_base(state, directory, "config.json");
    assert_ok(file_join(path, directory, "config.json"));
    assert_ok(file_write(path, "{\n\"a\": 1,\n\"b\": }", 17));
    refuse_model(state, directory, ERR_FORMAT, "config.json", "line 3");
}

static void a_directory_without_a_model_is_named(void **state)
{
    refuse_model(state, "examples/devils", ERR_IO, "examples/devils/config.json", NULL);
    refuse_model(state, "/nowhere/at/all", ERR_IO, "/nowhere/at/all", NULL);
}

/* ---- data ------------------------------------------------------------------------------------------------------- */

#define GOOD \
    "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b c\"}]}\n"

static void a_malformed_line_is_told_with_its_number(void **state)
{
    refuse_data(state, GOOD "\n" GOOD "{\"messages\": [{\"role\": \"user\"\n", ERR_DATA, "data.jsonl: line 4", NULL);
    refuse_data(state, GOOD "not json\n" GOOD, ERR_DATA, "data.jsonl: line 2", NULL);
    refuse_data(state, GOOD "{\"prompt\": \"x\"}\n", ERR_DATA, "data.jsonl: line 2", "messages");
}

static void a_record_without_scored_tokens_is_told_with_its_number(void **state)
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
    check_said(train(state, base, "nowhere.jsonl", output, NULL), ERR_IO, "nowhere.jsonl", NULL);
    assert_false(file_exists(output));
}

/* ---- output ----------------------------------------------------------------------------------------------------- */

static void an_output_directory_that_cannot_be_made_is_named(void **state)
{
    char below[PATH_BYTES], path[PATH_BYTES];
    assert_ok(file_write(scratch_path(state, "file", path), "x", 1));
    snprintf(below, sizeof below, "%.4000s/run", path);
    check_said(train(state, base, data, below, NULL), ERR_IO, below, NULL);
    check_said(train(state, base, data, "/proc/run", NULL), ERR_IO, "/proc/run", NULL);
}

/* Nothing but whole files: no draft, and no checkpoint that would not open. */
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
    const char *words[MOST_WORDS] = {"sh", "-c", "trap '' XFSZ; ulimit -f 40; exec \"$@\"", "sh"};
    scratch_path(state, "run", output);
    train_words(words + 4, base, data, output, NULL);
    int code = wait_for(state, start(state, words));
    check_said(code, ERR_IO, "checkpoint-000004.h5", NULL);
    check_no_drafts(output);
}

static void a_disk_that_is_full_for_the_adapter_leaves_the_checkpoint(void **state)
{
    char output[PATH_BYTES], path[PATH_BYTES];
    scratch_path(state, "run", output);
    assert_ok(file_make_directory(output));
    assert_ok(file_join(path, output, "adapter"));
    assert_ok(file_write(path, "in the way", 10));
    check_said(train(state, base, data, output, NULL), ERR_IO, "run/adapter", NULL);
    assert_ok(file_join(path, output, "checkpoint-000004.h5"));
    assert_true(file_exists(path));
}

static void a_second_run_into_the_same_directory_is_refused(void **state)
{
    char output[PATH_BYTES], path[PATH_BYTES], *before, *after;
    size_t n, m;
    scratch_path(state, "run", output);
    check_said(train(state, base, data, output, NULL), 0, "step 4/4", NULL);
    assert_ok(file_join(path, output, "metrics.jsonl"));
    assert_ok(file_read(&before, &n, path));
    check_said(train(state, base, data, output, MORE("--r", "3")), ERR_USAGE, "holds a run",
               "--resume_from_checkpoint auto");
    assert_ok(file_read(&after, &m, path));
    assert_string_equal(before, after);
    free(before);
    free(after);
    check_said(train(state, base, data, output, MORE("--overwrite_output_dir")), 0, "step 4/4", NULL);
}

static void a_resume_of_nothing_is_refused(void **state)
{
    char output[PATH_BYTES];
    scratch_path(state, "run", output);
    check_said(train(state, base, data, output, MORE("--resume_from_checkpoint", "auto")), ERR_USAGE,
               "has no checkpoint", output);
    check_said(train(state, base, data, output, MORE("--resume_from_checkpoint", "/nowhere.h5")), ERR_IO, "/nowhere.h5",
               NULL);
    check_said(train(state, base, data, output, MORE("--resume_from_checkpoint", data)), ERR_FORMAT, data, NULL);
    assert_false(file_exists(output));
}

static void words_that_mean_nothing_are_refused(void **state)
{
    char output[PATH_BYTES];
    scratch_path(state, "run", output);
    check_said(train(state, base, data, output, MORE("--learning_rat", "1")), ERR_USAGE, "learning_rate", NULL);
    check_said(train(state, base, data, output, MORE("--target_modules", "[\"q_proj\"]")), ERR_USAGE,
               "q_proj matches no module", NULL);
    check_said(train(state, base, data, output, MORE("--max_steps", "0", "--num_train_epochs", "0")), ERR_USAGE,
               "num_train_epochs", NULL);
    check_said(train(state, base, data, output, MORE("no-such-config.json")), ERR_IO, "no-such-config.json", NULL);
    assert_false(file_exists(output));
    const char *const none[] = {program(), "train", NULL}, *const verb[] = {program(), "fly", NULL};
    check_said(wait_for(state, start(state, none)), ERR_USAGE, "model_name_or_path", NULL);
    check_said(wait_for(state, start(state, verb)), ERR_USAGE, "there is no verb fly", NULL);
}

/* ---- signals ---------------------------------------------------------------------------------------------------- */

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

static void a_signal_saves_and_a_resume_ends_as_if_there_had_been_none(void **state)
{
    char whole[PATH_BYTES], parts[PATH_BYTES], path[PATH_BYTES], one[80], two[80];
    const char *words[MOST_WORDS], *const steps[] = {"--max_steps", "60", "--save_steps", "0", "--lora_dropout",
                                                     "0.1",         NULL};
    static const int signals[] = {SIGTERM, SIGINT};
    check_said(train(state, base, data, scratch_path(state, "whole", whole), steps), 0, "step 60/60", NULL);
    digest_of(whole, one);
    for (size_t i = 0; i < 2; i++) {
        struct stat st = {0};
        time_t began = time(NULL);
        scratch_path(state, i ? "interrupted" : "terminated", parts);
        train_words(words, base, data, parts, steps);
        pid_t pid = start(state, words);
        assert_ok(file_join(path, parts, "metrics.jsonl"));
        while ((stat(path, &st) || st.st_size == 0) && time(NULL) - began < SECONDS) rest();
        kill(pid, signals[i]);
        check_said(wait_for(state, pid), ERR_STOPPED, "--resume_from_checkpoint auto",
                   "stopped by a signal after step ");
        assert_null(strstr(said, "step 60/60"));
        assert_ok(file_join(path, parts, "adapter"));
        assert_false(file_exists(path));
        const char *const again[] = {
            "--max_steps", "60", "--save_steps", "0", "--lora_dropout", "0.1", "--resume_from_checkpoint",
            "auto",        NULL};
        check_said(train(state, base, data, parts, again), 0, "step 60/60", "resumed   after step ");
        digest_of(parts, two);
        assert_string_equal(one, two);
    }
}

/* mpirun kills its ranks two seconds after a SIGTERM of its own; a step of a large model takes longer. */
static void a_signal_reaches_all_ranks_and_saves(void **state)
{
    char output[PATH_BYTES], path[PATH_BYTES], one[80], two[80];
    const char *words[MOST_WORDS], *const steps[] = {
                                       "--ranks",      "2", "--max_steps", "60", "--micro_batch_tokens", "32",
                                       "--save_steps", "0", NULL};
    const char *const again[] = {
        "--max_steps", "60", "--micro_batch_tokens", "32", "--save_steps", "0", "--resume_from_checkpoint",
        "auto",        NULL};
    const char *const alone[] = {"--max_steps", "60", "--micro_batch_tokens", "32", "--save_steps", "0", NULL};
    struct stat st = {0};
    time_t began = time(NULL);
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* Open MPI leaves memory behind, and the exit code would tell that */
    scratch_path(state, "run", output);
    train_words(words, base, data, output, steps);
    pid_t pid = start(state, words);
    unsetenv("ASAN_OPTIONS");
    assert_ok(file_join(path, output, "metrics.jsonl"));
    while ((stat(path, &st) || st.st_size == 0) && time(NULL) - began < SECONDS) rest();
    kill(pid, SIGTERM);
    check_said(wait_for(state, pid), ERR_STOPPED, "--resume_from_checkpoint auto", "stopped by a signal after step ");
    check_said(train(state, base, data, output, again), 0, "step 60/60", "resumed   after step ");
    digest_of(output, one);
    check_said(train(state, base, data, scratch_path(state, "alone", output), alone), 0, "step 60/60", NULL);
    digest_of(output, two);
    assert_string_equal(one, two);
}

static void an_error_of_one_rank_ends_all(void **state)
{
    Broken b;
    char output[PATH_BYTES];
    open_weights(state, &b);
    memcpy(b.bytes + begin_of(&b, tensor), "\xC0\x7F\xC0\x7F", 4);
    write_bytes(&b, b.n);
    scratch_path(state, "run", output);
    check_said(train(state, b.directory, data, output, MORE("--ranks", "2")), ERR_NUMERIC, "step 1: layer 3: ", NULL);
    check_said(train(state, base, data, "/proc/run", MORE("--ranks", "2")), ERR_IO, "/proc/run", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_truncated_shard_is_refused),
        scratch_test(an_empty_shard_is_refused),
        scratch_test(a_header_longer_than_the_file_is_refused),
        scratch_test(a_header_longer_than_memory_is_refused),
        scratch_test(overlapping_tensors_are_refused),
        scratch_test(a_wrong_shape_is_refused),
        scratch_test(a_missing_tensor_is_named),
        scratch_test(an_unknown_dtype_is_refused),
        scratch_test(an_integer_weight_is_refused),
        scratch_test(a_nan_in_a_norm_is_found_at_once),
        scratch_test(a_nan_in_a_matrix_ends_the_step_and_names_the_layer),
        scratch_test(an_unknown_model_type_is_refused_by_name),
        scratch_test(a_missing_config_key_is_named),
        scratch_test(a_wrong_config_value_is_named),
        scratch_test(a_config_that_is_no_json_is_told_with_its_line),
        scratch_test(a_directory_without_a_model_is_named),
        scratch_test(a_malformed_line_is_told_with_its_number),
        scratch_test(a_record_without_scored_tokens_is_told_with_its_number),
        scratch_test(data_without_records_are_refused),
        scratch_test(a_data_file_that_is_not_there_is_named),
        scratch_test(an_output_directory_that_cannot_be_made_is_named),
        scratch_test(a_full_disk_ends_the_run_and_leaves_no_half_file),
        scratch_test(a_disk_that_is_full_for_the_adapter_leaves_the_checkpoint),
        scratch_test(a_second_run_into_the_same_directory_is_refused),
        scratch_test(a_resume_of_nothing_is_refused),
        scratch_test(words_that_mean_nothing_are_refused),
        scratch_test(a_signal_saves_and_a_resume_ends_as_if_there_had_been_none),
        scratch_test(a_signal_reaches_all_ranks_and_saves),
        scratch_test(an_error_of_one_rank_ends_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
