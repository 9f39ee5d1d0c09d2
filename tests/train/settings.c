/* The table of training options: names, ranges, precedence, and what it refuses. */
#include "train/settings.h"

#include "model/adapter.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

static Settings settings;

static int begin(void **state)
{
    settings = (Settings){0};
    assert_ok(options_defaults(&settings, settings_table));
    return scratch_open(state);
}

static int end(void **state)
{
    options_free(&settings, settings_table);
    return scratch_close(state);
}

static Err *arguments(char *a, char *b)
{
    char *words[] = {a, b};
    size_t n;
    return options_arguments(&settings, settings_table, b ? 2 : 1, words, NULL, 0, &n);
}

static Err *file_holds(void **state, const char *text)
{
    char path[PATH_BYTES];
    assert_ok(file_write(scratch_path(state, "config.json", path), text, strlen(text)));
    return options_file(&settings, settings_table, path);
}

static void keys_that_depend_on_ranks_explain_themselves(void **state)
{
    assert_fails(arguments("--per_device_train_batch_size", "4"), ERR_USAGE,
                 "train_batch_size is documents per step, all ranks together");
    assert_fails(arguments("--gradient_accumulation_steps=4", NULL), ERR_USAGE, "depend on the number of ranks");
    assert_fails(file_holds(state, "{\"per_device_train_batch_size\": 4}"), ERR_USAGE, "per_device_train_batch_size");
    assert_fails(file_holds(state, "{\"gradient_accumulation_steps\": 4}"), ERR_USAGE, "all ranks together");
}

static void a_key_that_stands_twice_is_refused(void **state)
{
    assert_fails(file_holds(state, "{\"r\": 4, \"r\": 8}"), ERR_FORMAT, "key r stands twice");
    assert_fails(arguments("--experts", "{\"1\": [0], \"1\": [1]}"), ERR_FORMAT, "key 1 stands twice");
}

static void the_command_line_wins_over_the_file_and_the_file_over_defaults(void **state)
{
    assert_int_equal(settings.r, 16);
    assert_int_equal(settings.seed, 42);
    assert_ok(
        file_holds(state,
                   "{\"r\": 4, \"learning_rate\": 1e-3, \"target_modules\": [\"o_proj\"], \"use_rslora\": true}"));
    assert_int_equal(settings.r, 4);
    assert_ok(arguments("--r", "8"));
    assert_ok(arguments("--target_modules=[\"q_proj\"]", NULL));
    assert_ok(arguments("--use_rslora", "false"));
    assert_int_equal(settings.r, 8);
    assert_true(settings.learning_rate == 1e-3);
    assert_string_equal(json_string(json_first(settings.target_modules)), "q_proj");
    assert_false(settings.use_rslora);
    assert_int_equal(settings.seed, 42);
}

static void the_old_name_of_timing_still_works(void **state)
{
    assert_ok(arguments("--profile", NULL));
    assert_true(settings.timing);
    assert_ok(arguments("--timing", "false"));
    assert_false(settings.timing);
    assert_ok(file_holds(state, "{\"profile\": true}"));
    assert_true(settings.timing);
}

static void an_unknown_key_meets_the_nearest(void **state)
{
    assert_fails(arguments("--learning_rat", "1"), ERR_USAGE, "learning_rate");
    assert_fails(arguments("--lora_alhpa=1", NULL), ERR_USAGE, "lora_alpha");
    assert_fails(file_holds(state, "{\"train_fiel\": \"x\"}"), ERR_USAGE, "train_file");
    assert_fails(file_holds(state, "{\"train_fiel\": \"x\"}"), ERR_USAGE, "config.json");
}

static void values_out_of_range_are_refused(void **state)
{
    static char *const words[][3] = {{"--r", "0", "r"},
                                     {"--r", "2.5", "r"},
                                     {"--lora_dropout", "1", "lora_dropout"},
                                     {"--learning_rate", "-1", "learning_rate"},
                                     {"--learning_rate", "nan", "learning_rate"},
                                     {"--adam_beta1", "1", "adam_beta1"},
                                     {"--lr_scheduler_type", "exponential", "lr_scheduler_type"},
                                     {"--train_batch_size", "0", "train_batch_size"},
                                     {"--max_length", "1", "max_length"},
                                     {"--compute", "fp16", "compute"},
                                     {"--seed", "-1", "seed"},
                                     {"--warmup_ratio", "2", "warmup_ratio"},
                                     {"--load_balancing_loss_coef", "inf", "load_balancing_loss_coef"},
                                     {"--guard=maybe", NULL, "guard"},
                                     {"--micro_batch_tokens", "", "micro_batch_tokens"}};
    (void)state;
    char above[32];
    snprintf(above, sizeof above, "%d", LORA_R_MAX + 1);
    assert_fails(arguments("--r", above), ERR_USAGE, "r");
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        assert_fails(arguments(words[i][0], words[i][1]), ERR_USAGE, words[i][2]);
    assert_fails(file_holds(state, "{\"r\": \"8\"}"), ERR_USAGE, "r");
    assert_fails(file_holds(state, "{\"use_rslora\": 1}"), ERR_USAGE, "use_rslora");
    assert_fails(file_holds(state, "[1]"), ERR_FORMAT, "config.json");
}

static void every_option_has_help_or_a_refusal(void **state)
{
    (void)state;
    for (const Option *o = settings_table; o->key || o->help; o++) assert_true(o->help || o->refused);
}

static void settings_come_back_from_their_own_json(void **state)
{
    Json *json, *again;
    Settings other = {0};
    assert_ok(arguments("--experts", "{\"experts\": {\"1\": [0, 2]}}"));
    assert_ok(arguments("--learning_rate", "0.000123456789"));
    assert_ok(arguments("--output_dir", "a \"b\""));
    assert_ok(options_to_json(&settings, settings_table, &json));
    assert_ok(options_defaults(&other, settings_table));
    assert_ok(options_json(&other, settings_table, json, "settings.json"));
    assert_ok(options_to_json(&other, settings_table, &again));
    assert_true(json_equal(json, again));
    assert_null(other.lr_scheduler_kwargs); /* null in the file: not given */
    json_free(json);
    json_free(again);
    options_free(&other, settings_table);
    (void)state;
}

#define with_settings(test) cmocka_unit_test_setup_teardown(test, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with_settings(keys_that_depend_on_ranks_explain_themselves),
        with_settings(a_key_that_stands_twice_is_refused),
        with_settings(the_command_line_wins_over_the_file_and_the_file_over_defaults),
        with_settings(the_old_name_of_timing_still_works),
        with_settings(an_unknown_key_meets_the_nearest),
        with_settings(values_out_of_range_are_refused),
        cmocka_unit_test(every_option_has_help_or_a_refusal),
        with_settings(settings_come_back_from_their_own_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
