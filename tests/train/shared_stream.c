/* Two ranks of a host share streamed weights, and only one of them meets a number that is not finite: it finds the
 * fault while the other waits, and the run ends. */
#define _GNU_SOURCE
#include "tensor/safetensors.h"
#include "tests/support/program.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LIMIT_SECONDS = 40 };

/* A copy of the base with a NaN in a weight of one expert; the other files are links. */
static void copy_base(void **state, char directory[PATH_BYTES], const char *tensor)
{
    static char *const files[] = {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"};
    static const unsigned char nan[] = {0xc0, 0x7f};
    char here[PATH_BYTES], from[2 * PATH_BYTES], to[PATH_BYTES], *bytes;
    Safetensors file;
    size_t n;
    assert_ok(file_make_directory(scratch_path(state, "base", directory)));
    assert_non_null(getcwd(here, sizeof here));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(from, sizeof from, "%s/%s/%s", here, PROGRAM_BASE, files[i]);
        assert_ok(file_join(to, directory, files[i]));
        assert_int_equal(symlink(from, to), 0);
    }
    assert_ok(file_join(from, PROGRAM_BASE, "model.safetensors"));
    assert_ok(file_join(to, directory, "model.safetensors"));
    assert_ok(file_read(&bytes, &n, from));
    assert_ok(safetensors_open(&file, from));
    const TensorView *view = safetensors_find(&file, tensor);
    assert_non_null(view);
    assert_int_equal(view->dtype, DTYPE_BF16);
    memcpy(bytes + ((const char *)view->data - (const char *)file.map.data), nan, sizeof nan);
    safetensors_close(&file);
    assert_ok(file_write(to, bytes, n));
    free(bytes);
}

/* Two documents, one for each rank. Only one of them has a token for this expert (elsewhere the test would prove
 * nothing: with both, each rank has the fault). */
static void a_fault_that_one_rank_meets_ends_the_run_and_is_named(void **state)
{
    static const char text[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n"
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Define love.\"}, {\"role\": \"assistant\", "
        "\"content\": \"A temporary insanity curable by marriage.\"}]}\n";
    static char *const limits[] = {"86MiB", "1GiB"}; /* streamed, held in memory */
    char base[PATH_BYTES], data[PATH_BYTES], output[PATH_BYTES];
    copy_base(state, base, "model.layers.3.mlp.experts.3.gate_proj.weight");
    assert_ok(file_write(scratch_path(state, "data.jsonl", data), text, sizeof text - 1));
    scratch_path(state, "run", output);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        time_t began = time(NULL);
        int code = program_train(state, base, data, output,
                                 PROGRAM_WORDS("--ranks", "2", "--guard", "--memory_limit", limits[i],
                                               "--micro_batch_tokens", "16", "--overwrite_output_dir"));
        program_expect(code, ERR_NUMERIC, "layer 3: experts", "data.jsonl:2; nothing was updated");
        assert_true((strstr(program_output, "streamed ") != NULL) == (i == 0));
        assert_true(time(NULL) - began < LIMIT_SECONDS);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_fault_that_one_rank_meets_ends_the_run_and_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
