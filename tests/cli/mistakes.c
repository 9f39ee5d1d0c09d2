/* What is wrong is said, and its exit code is not 0: a run that is none, conditions that cannot hold, faulty models and
 * adapters, tokenizers that do not fit, and text from files that would steer the terminal. */
#define _GNU_SOURCE
#include "tests/support/program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COMMAND_BYTES = 6 * PATH_BYTES };

/* A line of shell, in which $G is the program and $D the test's folder; program_output is what it prints. */
static int shell(void **state, const char *line)
{
    char command[COMMAND_BYTES];
    snprintf(command, sizeof command, "G='%s'; D='%s'; %s", program_path(), (const char *)*state, line);
    return program_wait(state, program_start(state, (char *[]){"sh", "-c", command, NULL}));
}

#define BASE "examples/tiny-glm5"

/* $D/model: the bundled model, linked file by file, so that a test replaces one. */
#define LINK "mkdir $D/model && ln -s $PWD/" BASE "/* $D/model/ && "

static void a_plot_of_no_run_is_an_error(void **state)
{
    program_expect(shell(state, "echo '{\"note\":1}' >$D/other.jsonl; $G plot $D/other.jsonl --output $D/p.png"),
                   ERR_FORMAT, "other.jsonl: no line has a loss or an eval_loss", NULL);
    program_expect(shell(state,
                         ": >$D/empty.jsonl; $G plot $D/empty.jsonl --output $D/p.png; c=$?; ls $D/p.png; exit $c"),
                   ERR_FORMAT, "empty.jsonl: no line", "p.png': No such file");
}

static void a_condition_that_cannot_hold_is_refused(void **state)
{
    static const char *const cases[][2] = {
        {"kl > 0.5", "kl > 0.5 compares an adapter with the base; give --adapter"},
        {"loss > base", "loss > base compares an adapter with the base; give --adapter"},
        {"accuracy < 0.5", "no file of --data has the metric accuracy"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[512];
        snprintf(line, sizeof line,
                 "head -n 1 " PROGRAM_DATA " >$D/d.jsonl; $G eval --model " BASE
                 " --data $D/d.jsonl --max_length 64 --bootstrap 10 --fail-if '%s'",
                 cases[i][0]);
        program_expect(shell(state, line), ERR_USAGE, cases[i][1], NULL);
    }
}

static void inspect_refuses_what_it_finds_faulty(void **state)
{
    program_expect(shell(state, "cp tests/fixtures/model/lite/config.json $D && cp "
                                "tests/fixtures/model/lite_noqlora/model.safetensors $D && $G inspect $D"),
                   ERR_FORMAT, "missing       68\n", "68 tensors are missing, such as model.");
    /* the last four bytes are the last number: a NaN of bf16 and of fp32 */
    program_expect(shell(state,
                         "cp -r tests/fixtures/adapter/e_experts_partial $D/a; chmod -R u+w $D/a; "
                         "f=$D/a/adapter_model.safetensors; truncate -s -4 $f; printf '\\300\\177\\300\\177' >>$f; "
                         "$G inspect $D/a"),
                   ERR_NUMERIC, "first_not_finite  ", "numbers of 1 modules are NaN or infinite, the first is ");
    program_expect(shell(state, "$G inspect $D/a --json"), ERR_NUMERIC, "\"not_finite\": 1", NULL);
}

static void a_tokenizer_beyond_the_vocabulary_is_refused_at_once(void **state)
{
    static const char larger[] = LINK "rm $D/model/tokenizer.json && sed 's/\"id\": *4095/\"id\": 5000/' " BASE
                                      "/tokenizer.json >$D/model/tokenizer.json; ";
    char line[COMMAND_BYTES];
    snprintf(line, sizeof line, "%s$G generate --model $D/model --prompt x --max_new_tokens 1", larger);
    program_expect(shell(state, line), ERR_FORMAT, "tokenizer.json has ids up to 5000; the model's vocab_size is 4096",
                   NULL);
    program_expect(shell(state, "$G eval --model $D/model --data " PROGRAM_DATA), ERR_FORMAT,
                   "tokenizer.json has ids up to 5000; the model's vocab_size is 4096", NULL);
}

#define GREEDY "--raw --prompt 'A devil is' --temperature 0 --max_new_tokens 3 --logprobs"

static void the_end_tokens_are_those_of_the_generation_config(void **state)
{
    char line[COMMAND_BYTES];
    program_expect(shell(state, "$G generate --model " BASE " " GREEDY), 0, "\"finish_reason\":\"length\"", NULL);
    const char *id = strstr(program_output, "\"id\":");
    assert_non_null(id);
    snprintf(line, sizeof line,
             LINK
             "rm $D/model/generation_config.json && echo '{\"eos_token_id\":[%d]}' >$D/model/generation_config.json "
             "&& $G generate --model $D/model " GREEDY,
             atoi(id + 5));
    program_expect(shell(state, line), 0, "\"finish_reason\":\"stop\"", NULL);
}

static void a_hub_name_is_explained(void **state)
{
    static const char hint[] = "hf download zai-org/GLM-5 --local-dir DIR";
    program_expect(shell(state, "$G generate --model zai-org/GLM-5 --prompt x"), ERR_IO, hint, NULL);
    program_expect(shell(state, "$G inspect zai-org/GLM-5"), ERR_IO, hint, NULL);
    program_expect(shell(state, "$G preview --model zai-org/GLM-5 " PROGRAM_DATA), ERR_IO, hint, NULL);
}

static void the_doctor_reads_files_only(void **state)
{
    program_expect(shell(state, "$G doctor /dev/zero"), ERR_USAGE, "/dev/zero is not a regular file", NULL);
    program_expect(shell(state, ": >$D/empty; $G doctor $D/empty"), ERR_USAGE, "is empty", NULL);
}

static void what_is_no_utf8_is_called_so(void **state)
{
    program_expect(shell(state, "$G generate --model " BASE " --prompt \"$(printf 'ab\\377c')\""), ERR_DATA,
                   "--prompt is not UTF-8: byte 3 of 4 is \\xff", NULL);
    program_expect(shell(state, "$G generate --model " BASE " --prompt x --system \"$(printf '\\200')\""), ERR_DATA,
                   "--system is not UTF-8: byte 1", NULL);
}

static void a_benchmark_asks_where_to_write(void **state)
{
    program_expect(shell(state, "$G bench"), ERR_USAGE, "write random models of 2.5 GB", "--directory");
}

static void no_record_or_file_steers_the_terminal(void **state)
{
    static const char record[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"
        "\"b\"}],\"domain\":\"d\\u001b]0;title\\u0007\"}";
    char line[COMMAND_BYTES];
    snprintf(line, sizeof line,
             "printf '%%s\\n' '%s' >$D/d.jsonl; cp $D/d.jsonl \"$D/e$(printf '\\033')[2J.jsonl\"; $G eval --model " BASE
             " --data $D/d.jsonl,\"$D/e$(printf '\\033')[2J.jsonl\" --bootstrap 10",
             record);
    program_expect(shell(state, line), 0, "d\\x1b]0;title\\x07", "/e\\x1b[2J.jsonl");
    assert_null(strchr(program_output, 0x1B));
    program_expect(shell(state, "$G train --model_name_or_path " BASE " --train_file $D/d.jsonl --output_dir $D/run "
                                "--target_modules '[\"o_proj\"]' --max_steps 1 --train_batch_size 1"),
                   0, "domain d\\x1b]0;title\\x07", NULL);
    assert_null(strchr(program_output, 0x1B));
    program_expect(shell(state, "cp -r tests/fixtures/adapter/e_experts_partial $D/a; chmod -R u+w $D/a; sed -i "
                                "'s/\"base_model_name_or_path\": *[^,]*,/\"base_model_name_or_path\": "
                                "\"x\\\\u001b[31m\",/' $D/a/adapter_config.json; $G inspect $D/a"),
                   0, "x\\x1b[31m", NULL);
    assert_null(strchr(program_output, 0x1B));
}

/* Beyond 512 arguments, those of --ranks were dropped: the last one decides here. */
static void every_argument_reaches_the_ranks(void **state)
{
    program_expect(shell(state, "set --; i=0; while [ $i -lt 600 ]; do set -- \"$@\" --seed $i; i=$((i+1)); done; "
                                "$G train --ranks 2 --model_name_or_path " BASE
                                " --output_dir $D/run --target_modules '[\"o_proj\"]' "
                                "\"$@\" --train_file $D/nowhere.jsonl"),
                   ERR_IO, "nowhere.jsonl", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_plot_of_no_run_is_an_error),
        scratch_test(a_condition_that_cannot_hold_is_refused),
        scratch_test(inspect_refuses_what_it_finds_faulty),
        scratch_test(a_tokenizer_beyond_the_vocabulary_is_refused_at_once),
        scratch_test(the_end_tokens_are_those_of_the_generation_config),
        scratch_test(a_hub_name_is_explained),
        scratch_test(the_doctor_reads_files_only),
        scratch_test(what_is_no_utf8_is_called_so),
        scratch_test(a_benchmark_asks_where_to_write),
        scratch_test(no_record_or_file_steers_the_terminal),
        scratch_test(every_argument_reaches_the_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
