/* Where the program's output goes: a full disk under standard output, closed streams, readers that stop reading,
 * outputs that are also inputs. GRAFT names the program. */
#define _GNU_SOURCE
#include "tests/support/check.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define MODEL "examples/tiny-glm5"
#define FULL  ">/dev/full"

static char said[1 << 16]; /* what the last program wrote on standard error, or where the shell sent it */

/* `before GRAFT words` by the shell; the exit code. $D is the test's directory. */
static int graft_after(void **state, const char *before, const char *words)
{
    char command[PATH_BYTES];
    const char *program = getenv("GRAFT");
    setenv("D", *state, 1);
    snprintf(command, sizeof command, "exec 2>&1; %s %s %s", before, program ? program : "build/graft", words);
    FILE *stream = popen(command, "re");
    assert_non_null(stream);
    said[fread(said, 1, sizeof said - 1, stream)] = 0;
    int status = pclose(stream);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int graft(void **state, const char *words) { return graft_after(state, "", words); }

static void expect(int code, int expected, const char *part)
{
    if (code != expected || !strstr(said, part))
        fail_msg("code %d instead of %d, and \"%s\" expected in:\n%s", code, expected, part, said);
}

static void put(void **state, const char *name, const char *text)
{
    char path[PATH_BYTES];
    assert_ok(file_write(scratch_path(state, name, path), text, strlen(text)));
}

static void assert_holds(void **state, const char *name, const char *expected)
{
    char path[PATH_BYTES], *text;
    assert_ok(file_read(&text, NULL, scratch_path(state, name, path)));
    assert_string_equal(text, expected);
    free(text);
}

static const char record[] = "{\"prompt\": \"Define \\\"lord\\\".\", \"completion\": \"A devil.\"}\n";
static const char metrics[] = "{\"step\":1,\"loss\":5.5}\n{\"step\":2,\"loss\":5.0}\n";

/* data.jsonl and run/metrics.jsonl. */
static void put_inputs(void **state)
{
    char run[PATH_BYTES];
    put(state, "data.jsonl", record);
    assert_ok(file_make_directory(scratch_path(state, "run", run)));
    put(state, "run/metrics.jsonl", metrics);
}

static int count(const char *part)
{
    int n = 0;
    for (const char *at = said; (at = strstr(at, part)); at += strlen(part)) n++;
    return n;
}

/* ---- standard output ------------------------------------------------------------------------------------------ */

static void a_full_standard_output_is_a_failure(void **state)
{
    static const char *const commands[] = {
        "help " FULL,
        "train --help " FULL,
        "eval --help " FULL,
        "generate --help " FULL,
        "preview --help " FULL,
        "chat --help " FULL,
        "inspect --help " FULL,
        "plan --help " FULL,
        "doctor --help " FULL,
        "bench --help " FULL,
        "plot --help " FULL,
        "inspect " MODEL " " FULL,
        "inspect --json " MODEL " " FULL,
        "preview --model " MODEL " $D/data.jsonl " FULL,
        "preview --json --model " MODEL " $D/data.jsonl " FULL,
        "preview --model " MODEL " $D/data.jsonl --html - " FULL,
        "plan " MODEL " --cores 2 --gflops 100 --memory_gib 8 --memory_gbs 10 --disk_gbs 1 " FULL,
        "eval --model " MODEL " --data $D/data.jsonl " FULL,
        "eval --json --model " MODEL " --data $D/data.jsonl " FULL,
        "generate --raw --prompt x --max_new_tokens 500 --model " MODEL " " FULL,
        "generate --data $D/data.jsonl --max_new_tokens 2 --model " MODEL " " FULL,
        "plot $D/run --output - " FULL,
        "plot $D/run --output $D/full", /* a link, so that the machine keeps its device should this fail */
        "preview --model " MODEL " $D/data.jsonl --html $D/full",
    };
    if (!file_exists("/dev/full")) skip();
    put_inputs(state);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        int code = graft_after(state, i ? "" : "ln -s /dev/full $D/full;", commands[i]);
        if (code != ERR_IO || count("No space left on device") != 1 || count("write ") != 1)
            fail_msg("graft %s: code %d, and one line about the disk expected in:\n%s", commands[i], code, said);
    }
}

static void another_failure_keeps_its_code(void **state)
{
    if (!file_exists("/dev/full")) skip();
    put_inputs(state);
    expect(graft(state, "eval --model " MODEL " --data $D/data.jsonl --fail-if 'loss > 0' " FULL), 10,
           "write standard output: No space left on device");
    expect(graft(state, "nothing " FULL), ERR_USAGE, "there is no verb nothing");
}

static void a_closed_standard_output_is_no_place_for_words(void **state)
{
    char path[PATH_BYTES], *text;
    put_inputs(state);
    expect(graft(state, "help >&-"), ERR_IO, "write standard output: Bad file descriptor");
    expect(graft(state, "inspect " MODEL " >&-"), ERR_IO, "write standard output: Bad file descriptor");
    expect(graft(state, "preview --model " MODEL " $D/data.jsonl --html $D/page.html >&- <&-"), 0, "wrote");
    assert_ok(file_read(&text, NULL, scratch_path(state, "page.html", path)));
    assert_int_equal(strncmp(text, "<!", 2), 0);
    free(text);
}

/* By default SIGPIPE ends a program in a pipeline without a word; where it is ignored, one line says why. */
static void a_reader_that_stops_is_no_storm(void **state)
{
    put_inputs(state);
    signal(SIGPIPE, SIG_DFL);
    graft_after(state, "{ sleep 0.3;", "help; echo code $? >&2; } | true");
    assert_string_equal(said, "code 141\n");
    graft_after(state, "trap '' PIPE; { sleep 0.3;", "help; echo code $? >&2; } | true");
    assert_string_equal(said, "graft help: write standard output: Broken pipe\ncode 2\n");
}

/* ---- files ---------------------------------------------------------------------------------------------------- */

static void a_dash_is_standard_output(void **state)
{
    put_inputs(state);
    expect(graft(state, "preview --model " MODEL " $D/data.jsonl --html -"), 0, "<!");
    assert_null(strstr(said, "wrote"));
    expect(graft(state, "plot $D/run --output -"), 0, "\x89PNG");
    expect(graft(state, "generate --model " MODEL " --data $D/data.jsonl --max_new_tokens 2 --output -"), 0,
           "\"finish_reason\"");
    expect(graft(state, "eval --model " MODEL " --data $D/data.jsonl --records -"), 0, "\"name\":\"base\"");
    assert_false(file_exists("-"));
    put(state, "log", "before\n"); /* what >> adds to is not replaced */
    expect(graft_after(state, "ln -s /dev/stdout $D/out;",
                       "eval --model " MODEL " --data $D/data.jsonl --records $D/out >>$D/log && cat $D/log"),
           0, "before\n{\"file\"");
    expect(0, 0, "records");
}

static void links_and_fifos_are_written_through(void **state)
{
    put_inputs(state);
    expect(graft_after(state, "ln -s far $D/link && mkfifo $D/fifo;",
                       "preview --model " MODEL " $D/data.jsonl --html $D/link && test -L $D/link && cat $D/far"),
           0, "<!");
    expect(graft_after(state, "timeout 20 cat $D/fifo &",
                       "plot $D/run --output $D/fifo; code=$?; wait; test -p $D/fifo && exit $code"),
           0, "\x89PNG");
}

static void an_output_that_is_an_input_is_refused(void **state)
{
    static const char *const commands[] = {
        "preview --model " MODEL " $D/data.jsonl --html $D/data.jsonl",
        "preview --model " MODEL " $D/data.jsonl --html $D/run/../data.jsonl",
        "preview --model " MODEL " $D/data.jsonl --html $D/hard",
        "preview --model " MODEL " $D/link --html $D/data.jsonl",
        "preview --model $D/model $D/data.jsonl --html $D/model/tokenizer.json",
        "generate --model " MODEL " --data $D/data.jsonl --output $D/link",
        "generate --model " MODEL " --prompt x --adapter $D/model --output $D/model/adapter_model.safetensors",
        "eval --model " MODEL " --data $D/data.jsonl --records $D/data.jsonl",
        "eval --model $D/model --data $D/data.jsonl --records $D/model/tokenizer.json",
        "plot $D/run --output $D/run/metrics.jsonl",
        "plot $D/run/metrics.jsonl --output $D/run/metrics.jsonl",
        "bench $D/model --json $D/model/config.json",
    };
    char model[PATH_BYTES];
    put_inputs(state);
    assert_ok(file_make_directory(scratch_path(state, "model", model)));
    put(state, "model/config.json", "{}");
    put(state, "model/tokenizer.json", "{}");
    put(state, "model/adapter_model.safetensors", "{}");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        int code = graft_after(state, i ? "" : "ln $D/data.jsonl $D/hard && ln -s data.jsonl $D/link;", commands[i]);
        if (code != ERR_USAGE || !strstr(said, "that file is also an input"))
            fail_msg("graft %s: code %d and a refusal expected in:\n%s", commands[i], code, said);
    }
    assert_holds(state, "data.jsonl", record);
    assert_holds(state, "run/metrics.jsonl", metrics);
    assert_holds(state, "model/config.json", "{}");
    assert_holds(state, "model/tokenizer.json", "{}");
    assert_holds(state, "model/adapter_model.safetensors", "{}");
    expect(graft(state, "plot $D/run --output $D/run/loss.png"), 0, "wrote"); /* twice: no input, though it is there */
    expect(graft(state, "plot $D/run --output $D/run/loss.png"), 0, "wrote");
}

/* The model is not even there: the output is looked at first. */
static void an_output_that_cannot_be_written_is_refused_before_the_work(void **state)
{
    put_inputs(state);
    expect(graft(state, "generate --model nowhere --prompt x --output $D/none/answers"), ERR_IO, "--output: create ");
    expect(graft(state, "eval --model nowhere --data x --records $D/run"), ERR_IO, "Is a directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_full_standard_output_is_a_failure),
        scratch_test(another_failure_keeps_its_code),
        scratch_test(a_closed_standard_output_is_no_place_for_words),
        scratch_test(a_reader_that_stops_is_no_storm),
        scratch_test(a_dash_is_standard_output),
        scratch_test(links_and_fifos_are_written_through),
        scratch_test(an_output_that_is_an_input_is_refused),
        scratch_test(an_output_that_cannot_be_written_is_refused_before_the_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
