/* What graft inspect says of runs and adapters. */
#include "train/inspect.h"

#include "base/json.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

static char *inspected(const char *path, bool as_json)
{
    char *text;
    bool known;
    assert_ok(inspect_path(path, as_json, &text, &known));
    assert_true(known);
    return text;
}

static void check_says(const char *text, const char *key, const char *value)
{
    const char *at = strstr(text, key), *end = at ? strchr(at, '\n') : NULL, *found = at ? strstr(at, value) : NULL;
    if (!found || found > end) fail_msg("no %s with %s in:\n%s", key, value, text);
}

static void write_in(const char *directory, const char *name, const char *text)
{
    char path[PATH_BYTES];
    assert_ok(file_join(path, directory, name));
    assert_ok(file_write(path, text, strlen(text)));
}

static void a_run_shows_its_curves_and_settings(void **state)
{
    char run[PATH_BYTES];
    assert_ok(file_make_directory(scratch_path(state, "run", run)));
    write_in(
        run, "metrics.jsonl",
        "{\"step\":0,\"eval_loss\":5.25,\"eval_file\":\"held.jsonl\"}\n"
        "{\"step\":0,\"eval_loss\":6.5,\"eval_file\":\"held.jsonl\",\"eval_domain\":\"law\"}\n"
        "{\"step\":1,\"loss\":5.125,\"grad_norm\":0.5}\n{\"step\":2,\"loss\":4.000244140625,\"grad_norm\":0.25}\n");
    write_in(run, "settings.json", "{\"r\":8,\"target_modules\":[\"q_a_proj\",\"o_proj\"],\"seed\":1}");
    char *text = inspected(run, false);
    check_says(text, "kind ", "run");
    check_says(text, "steps ", " 2");
    check_says(text, "loss  ", "first 5.125, last 4.0002, lowest 4.0002");
    check_says(text, "eval_loss held.jsonl ", "last 5.25");
    check_says(text, "eval_loss held.jsonl law ", "last 6.5");
    check_says(text, "target_modules ", "q_a_proj, o_proj");
    check_says(text, "adapter ", "not yet exported");
    free(text);
    text = inspected(run, true);
    Json *json;
    double last = 0;
    assert_ok(json_parse(&json, text, strlen(text)));
    assert_ok(json_get_number(json_find(json, "loss"), "last", &last));
    assert_true(last == 4.000244140625);
    json_free(json);
    free(text);
}

static void an_adapter_shows_what_it_holds(void **state)
{
    (void)state;
    char *text = inspected("tests/fixtures/adapter/e_experts_partial", false);
    check_says(text, "kind ", "adapter (PEFT)");
    check_says(text, "modules ", "mlp.experts.");
    free(text);
}

static void anything_else_is_not_known(void **state)
{
    char nothing[PATH_BYTES], *text = NULL;
    bool known = true;
    assert_ok(file_make_directory(scratch_path(state, "nothing", nothing)));
    assert_ok(inspect_path(nothing, false, &text, &known));
    assert_false(known);
    assert_null(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_run_shows_its_curves_and_settings),
        cmocka_unit_test(an_adapter_shows_what_it_holds),
        scratch_test(anything_else_is_not_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
