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

#define GREEDY "--raw --prompt 'A devil is' --temperature 0 --max_new_tokens 3 --logprobs"

static void a_hub_name_is_explained(void **state)
{
    static const char hint[] = "hf download zai-org/GLM-5 --local-dir DIR";
    program_expect(shell(state, "$G generate --model zai-org/GLM-5 --prompt x"), ERR_IO, hint, NULL);
    program_expect(shell(state, "$G inspect zai-org/GLM-5"), ERR_IO, hint, NULL);
    program_expect(shell(state, "$G preview --model zai-org/GLM-5 " PROGRAM_DATA), ERR_IO, hint, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_hub_name_is_explained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
