/* `graft bench` and `graft plot` as a user calls them. GRAFT names the program. */
#define _GNU_SOURCE
#include "base/json.h"
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static char output[16384]; /* of the last command */

/* Run it with these words; the exit code. */
static int bench(const char *words)
{
    char command[2 * PATH_BYTES];
    const char *program = getenv("GRAFT");
    snprintf(command, sizeof command, "%s %s 2>&1", program ? program : "build/graft", words);
    FILE *stream = popen(command, "re");
    assert_non_null(stream);
    output[fread(output, 1, sizeof output - 1, stream)] = 0;
    int status = pclose(stream);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void expect(int code, int expected, const char *part)
{
    if (code != expected || !strstr(output, part))
        fail_msg("code %d instead of %d, and \"%s\" expected in:\n%s", code, expected, part, output);
}

static void mistakes_are_named(void **state)
{
    (void)state;
    expect(bench("bench --parts products,nothing"), ERR_USAGE,
           "there is no nothing; expected some of products operations steps");
    expect(bench("bench --tokenz 3"), ERR_USAGE, "tokens");
    expect(bench("bench nowhere --steps 1"), ERR_IO, "nowhere");
    expect(bench("bench --make S"), ERR_USAGE, "in which DIR?");
    expect(bench("bench DIR --make nothing"), ERR_USAGE, "configs/nothing.json");
    expect(bench("bench DIR --targets head"), ERR_USAGE, "attn+experts");
    expect(bench("bench examples/tiny-glm5 --document 1"), ERR_USAGE, "document is 1 of 512 tokens");
    expect(bench("bench examples/tiny-glm5 --tokens 7 --document 8"), ERR_USAGE, "document is 8 of 7 tokens");
    expect(bench("bench --help"), 0, "--json");
    expect(bench("plot --kind roofline a b"), ERR_USAGE, "one file");
}

static void a_model_is_made_measured_and_drawn(void **state)
{
    char directory[PATH_BYTES], words[3 * PATH_BYTES], json[PATH_BYTES], png[PATH_BYTES];
    Json *lines;
    scratch_path(state, "m", directory);
    scratch_path(state, "r.jsonl", json);
    scratch_path(state, "p.png", png);
    snprintf(words, sizeof words, "bench %s --make tests/fixtures/model/sparse/config.json", directory);
    expect(bench(words), 0, "a random model of");
    snprintf(words, sizeof words, "bench %s --tokens 16 --steps 2 --warm_up 1 --r 2 --timing --json %s", directory,
             json);
    expect(bench(words), 0, "untimed");
    expect(0, 0, "tokens/s");
    assert_ok(json_read_lines(&lines, json));
    assert_int_equal(json_count(lines), 1);
    assert_true(json_count(json_find(json_first(lines), "profile")) > 20);
    json_free(lines);
    snprintf(words, sizeof words, "bench %s --generate --prompt 8 --new 3", directory);
    expect(bench(words), 0, "decode");
    snprintf(words, sizeof words, "plot --kind timing %s --output %s", json, png);
    expect(bench(words), 0, "wrote");
    assert_true(file_exists(png));
    snprintf(words, sizeof words, "plot --kind profile %s --output %s", json, png);
    expect(bench(words), 0, "--kind profile is called --kind timing now");
    snprintf(words, sizeof words, "plot --kind roofline %s --output %s", json, png);
    expect(bench(words), ERR_FORMAT, "no record of kind machine");
}

static void a_failed_measurement_leaves_no_file(void **state)
{
    char directory[PATH_BYTES], json[PATH_BYTES], words[3 * PATH_BYTES];
    scratch_path(state, "m", directory);
    scratch_path(state, "r.jsonl", json);
    snprintf(words, sizeof words, "bench %s --json %s", directory, json);
    expect(bench(words), ERR_IO, "there is no such directory");
    assert_false(file_exists(json));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistakes_are_named),
        scratch_test(a_model_is_made_measured_and_drawn),
        scratch_test(a_failed_measurement_leaves_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
