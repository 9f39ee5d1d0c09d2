/* eval, generate and chat as they are typed. GRAFT names the program. */
#define _GNU_SOURCE
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static char said[1 << 16]; /* what the last program said, on both streams */

/* `graft WORDS` by the shell, with `input` typed; the exit code. */
static int graft(void **state, const char *words, const char *input)
{
    char path[PATH_BYTES], command[8 * PATH_BYTES];
    const char *program = getenv("GRAFT");
    scratch_path(state, "typed", path);
    assert_ok(file_write(path, input, strlen(input)));
    snprintf(command, sizeof command, "%s %s <%s 2>&1", program ? program : "build/graft", words, path);
    FILE *stream = popen(command, "r");
    assert_non_null(stream);
    size_t n = fread(said, 1, sizeof said - 1, stream);
    said[n] = 0;
    return WEXITSTATUS(pclose(stream));
}

static void assert_said(const char *part)
{
    if (!strstr(said, part)) fail_msg("\"%s\" is not in: %s", part, said);
}

static const char base[] = " --model examples/tiny-glm5 ";

static int run(void **state, const char *verb, const char *options, const char *input)
{
    char words[5 * PATH_BYTES];
    snprintf(words, sizeof words, "%s%s%s", verb, base, options);
    return graft(state, words, input);
}

/* A few steps of training, for an adapter. */
static void train(void **state, char directory[PATH_BYTES])
{
    char words[2 * PATH_BYTES];
    scratch_path(state, "run", directory);
    snprintf(words, sizeof words,
             "train configs/devils.json --output_dir %s --max_steps 2 --save_steps 1 --train_batch_size 2 --max_length "
             "64 --eval_file '' --experts none",
             directory);
    assert_int_equal(graft(state, words, ""), 0);
}

static void a_chat_changes_its_adapter_and_refuses_wrong_commands(void **state)
{
    char directory[PATH_BYTES], options[2 * PATH_BYTES], typed[4 * PATH_BYTES];
    train(state, directory);
    snprintf(options, sizeof options, "--max_new_tokens 4 --adapter %s", directory);
    snprintf(typed, sizeof typed,
             "Hello\n/adapter 0\n/adapter %s/checkpoint-000001.h5\n/adapter\n/again\n/adapter 9\n/seed "
             "x\n/no\nbro\xffken\n/quit\n",
             directory);
    assert_int_equal(run(state, "chat", options, typed), 0);
    assert_said("2048 tokens of context");
    assert_said("(base)");
    assert_said("checkpoint-000001.h5)\n  0  base\n  1  ");
    assert_said("* 2  ");
    assert_said("(there is no adapter 9: 1 to 2, or 0, the base)");
    assert_said("(/seed NUMBER, not x)");
    assert_said("(there is no /no; /help lists what there is)");
    assert_null(strstr(said, "not valid"));
}

static void a_chat_ends_with_its_input_and_knows_its_context(void **state)
{
    char long_line[3 * 4096 + 2];
    for (size_t i = 0; i < 3 * 4096; i += 3) memcpy(long_line + i, "a b", 3);
    strcpy(long_line + 3 * 4096, "\n");
    assert_int_equal(run(state, "chat", "", ""), 0);
    assert_int_equal(run(state, "chat", "--context 64", long_line), 0);
    assert_said("the context holds 64 (/reset forgets it, --context gives more)");
    assert_true(run(state, "chat", "--tools README.md", "") != 0);
    assert_said("tools: README.md: not valid JSON");
    assert_true(run(state, "chat", "--tools examples/tiny-glm5/config.json", "") != 0);
    assert_said("is no list of function descriptions");
}

static void output_is_the_same_without_the_cache(void **state)
{
    char with[sizeof said];
    assert_int_equal(run(state, "generate", "--raw --prompt 'A devil is' --temperature 0 --max_new_tokens 12", ""), 0);
    strcpy(with, said);
    assert_int_equal(run(state, "generate",
                         "--raw --prompt 'A devil is' --temperature 0 --max_new_tokens 12 --no_cache", ""),
                     0);
    assert_string_equal(said, with);
    assert_true(run(state, "generate", "--prompt x --adapter a,b", "") != 0);
    assert_said("--adapter: 2 are given; generate takes one");
    assert_true(run(state, "generate", "--prompt x --adapter nowhere.h5", "") != 0);
    assert_said("nowhere.h5: No such file or directory");
}

static const char first_record[] =
    "{\"file\":\"examples/devils/devils_eval.jsonl\",\"line\":1,\"domain\":\"verse\",\"name\":\"base\"";

static void a_fail_condition_that_holds_ends_with_ten(void **state)
{
    char directory[PATH_BYTES], options[3 * PATH_BYTES], records[PATH_BYTES], *text;
    size_t bytes;
    train(state, directory);
    scratch_path(state, "records.jsonl", records);
    snprintf(options, sizeof options,
             "--data examples/devils/devils_eval.jsonl --max_length 64 --bootstrap 10 --adapter %s --records %s "
             "--fail-if 'kl < 1, loss > base + 9'",
             directory, records);
    assert_int_equal(run(state, "eval", options, ""), 10);
    assert_said("graft eval: kl < 1 holds for ");
    assert_null(strstr(said, "base + 9 holds"));
    assert_ok(file_read(&text, &bytes, records));
    assert_int_equal(strncmp(text, first_record, strlen(first_record)), 0);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_chat_changes_its_adapter_and_refuses_wrong_commands),
        scratch_test(a_chat_ends_with_its_input_and_knows_its_context),
        scratch_test(output_is_the_same_without_the_cache),
        scratch_test(a_fail_condition_that_holds_ends_with_ten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
