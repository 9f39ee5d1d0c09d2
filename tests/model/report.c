/* What `graft inspect` says of a model: counts against transformers, files against the config. */
#include "model/report.h"
#include "base/json.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

static void has(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("no \"%s\" in:\n%s", part, text);
}

static void a_lone_config_is_counted(void **state)
{
    char *text;
    (void)state;
    assert_ok(model_report("tests/fixtures/configs/glm-5.2.config.json", false, &text));
    has(text, "family        glm_moe_dsa\n");
    has(text, "21 layers own one, 57 share the one below");
    has(text, "\ntotal               58,794       743,377,019,904        40,298,953,728\n");
    has(text, "transformers counts 743,377,000,704 parameters");
    has(text, "weights       none here");
    free(text);
}

static void a_directory_shows_its_files(void **state)
{
    char *text;
    (void)state;
    assert_ok(model_report("tests/fixtures/model/sparse", false, &text));
    has(text, "weights       2 files, 736,536 bytes\n");
    has(text, "BF16                152 tensors               359,696 elements               719,392 bytes\n");
    has(text, "missing       none\n");
    has(text, "MTP           not there\n");
    free(text);
}

static void the_json_says_the_same(void **state)
{
    char *text;
    Json *root;
    const Json *weights, *missing, *total;
    int64_t n;
    (void)state;
    assert_ok(model_report("tests/fixtures/model/fp8", true, &text));
    assert_ok(json_parse(&root, text, strlen(text)));
    assert_ok(json_get_object(root, "weights", &weights));
    assert_ok(json_get_object(weights, "missing", &missing));
    assert_ok(json_get_int(missing, "count", 0, 0, &n));
    assert_ok(json_get_object(root, "total", &total));
    assert_ok(json_get_int(total, "elements", 1386148, 1386148, &n));
    json_free(root);
    free(text);
}

static void missing_and_wrong_tensors_are_listed(void **state) /* the weights of one model with the config of another */
{
    char path[PATH_BYTES], *bytes, *text;
    size_t n;
    assert_ok(file_read(&bytes, &n, "tests/fixtures/model/lite/config.json"));
    assert_ok(file_write(scratch_path(state, "config.json", path), bytes, n));
    free(bytes);
    assert_ok(file_read(&bytes, &n, "tests/fixtures/model/lite_noqlora/model.safetensors"));
    assert_ok(file_write(scratch_path(state, "model.safetensors", path), bytes, n));
    free(bytes);
    assert_fails(model_report(*state, false, &text), ERR_FORMAT, "68 tensors are missing, such as model.");
    has(text, "missing       68\n");
    has(text, "wrong         3\n");
    has(text, "extra         2\n");
    has(text, "model.layers.0.self_attn.q_a_proj.weight\n");
    has(text, "shape is [64, 64]; expected [32, 64]\n");
    has(text, "and 63 more\n");
    free(text);
}

static void what_cannot_be_read_is_an_error(void **state)
{
    char *text;
    assert_fails(model_report(*state, false, &text), ERR_IO, "config.json");
    assert_fails(model_report("tests/fixtures/configs/README.md", false, &text), ERR_FORMAT, "not valid JSON");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_lone_config_is_counted),        scratch_test(a_directory_shows_its_files),
        scratch_test(the_json_says_the_same),          scratch_test(missing_and_wrong_tensors_are_listed),
        scratch_test(what_cannot_be_read_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
