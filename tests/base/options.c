/* Options from the table, the command line and JSON; errors that name the option. */
#include "base/options.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    int64_t r;
    double alpha;
    bool rslora;
    char *schedule, *path;
    TextList targets;
    Json *any;
} Config;

static const Option table[] = {{.help = "The adapter"},
                               {"lora.r", OPT_INT, offsetof(Config, r), .preset = "16", .min = 1, .max = 4096,
                                .help = "inner size"},
                               {"lora.alpha", OPT_NUMBER, offsetof(Config, alpha), .preset = "32"},
                               {"lora.rslora", OPT_FLAG, offsetof(Config, rslora), .help = "scale by 1 / sqrt(r)"},
                               {"lora.targets", OPT_LIST, offsetof(Config, targets), .preset = "q,kv"},
                               {.help = "Other options"},
                               {"schedule", OPT_TEXT, offsetof(Config, schedule), .preset = "cosine",
                                .choices = "linear cosine constant"},
                               {"path", OPT_TEXT, offsetof(Config, path), .help = "of a file", .old = "file"},
                               {"any", OPT_JSON, offsetof(Config, any), .help = "any value"},
                               {0}};

static Err *from_words(Config *config, size_t max_positional, const char **positional, size_t *count, int argc,
                       char **argv)
{
    *config = (Config){0};
    assert_ok(options_defaults(config, table));
    return options_arguments(config, table, argc, argv, positional, max_positional, count);
}

#define WORDS(...) \
    (int)(sizeof((char *[]){__VA_ARGS__}) / sizeof(char *)), (char *[]) { __VA_ARGS__ }

static void accepts(Config *config, int argc, char **argv)
{
    size_t count;
    assert_ok(from_words(config, 0, NULL, &count, argc, argv));
}

static void refuses(const char *message, int argc, char **argv)
{
    Config config;
    const char *positional[1];
    size_t count;
    assert_fails(from_words(&config, 1, positional, &count, argc, argv), ERR_USAGE, message);
    options_free(&config, table);
}

static void defaults_come_from_the_table(void **state)
{
    Config c = {0};
    (void)state;
    assert_ok(options_defaults(&c, table));
    assert_true(c.r == 16 && c.alpha == 32 && !c.rslora && !c.path && !c.any);
    assert_string_equal(c.schedule, "cosine");
    assert_int_equal(c.targets.count, 2);
    assert_string_equal(c.targets.items[1], "kv");
    options_free(&c, table);
    assert_null(c.schedule);
}

static void arguments_override_defaults(void **state)
{
    Config c;
    (void)state;
    accepts(&c, WORDS("--lora.r", "8", "--lora.alpha=0.5", "--lora.rslora", "--schedule=linear", "--path=a=b",
                      "--lora.targets", "x"));
    assert_true(c.r == 8 && c.alpha == 0.5 && c.rslora);
    assert_string_equal(c.schedule, "linear");
    assert_string_equal(c.path, "a=b");
    assert_int_equal(c.targets.count, 1);
    options_free(&c, table);
    accepts(&c, WORDS("--lora.rslora", "false", "--any={\"a\":[1]}"));
    assert_false(c.rslora);
    assert_int_equal(json_kind(c.any), JSON_OBJECT);
    options_free(&c, table);
    accepts(&c, WORDS("--any", "all-linear"));
    assert_string_equal(json_string(c.any), "all-linear");
    options_free(&c, table);
}

static void positional_arguments_are_counted(void **state)
{
    Config c;
    const char *positional[2];
    size_t count;
    (void)state;
    assert_ok(from_words(&c, 2, positional, &count, WORDS("one", "--lora.r", "8", "two")));
    assert_int_equal(count, 2);
    assert_string_equal(positional[1], "two");
    options_free(&c, table);
    refuses("unexpected argument two", WORDS("one", "two"));
}

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    refuses("unknown option lora.rr; did you mean lora.r?", WORDS("--lora.rr", "8"));
    refuses("unknown option xyzzy; --help lists all options", WORDS("--xyzzy"));
    refuses("--lora.r needs a value", WORDS("--lora.r"));
    refuses("lora.r is \"many\"; expected a number", WORDS("--lora.r=many"));
    refuses("lora.r is \"\"; expected a number", WORDS("--lora.r="));
    refuses("lora.r is 0; expected 1 to 4096", WORDS("--lora.r=0"));
    refuses("lora.r is 1.5; expected an integer", WORDS("--lora.r=1.5"));
    refuses("lora.alpha is not finite", WORDS("--lora.alpha=nan"));
    refuses("lora.rslora is \"maybe\"; expected true or false", WORDS("--lora.rslora=maybe"));
    refuses("unexpected argument --", WORDS("--"));
}

static void only_whole_choices_are_taken(void **state)
{
    (void)state;
    refuses("schedule is \"lin\"; expected one of: linear cosine constant", WORDS("--schedule", "lin"));
    refuses("schedule is \"near\"", WORDS("--schedule", "near"));
    refuses("schedule is \"linear cosine\"", WORDS("--schedule", "linear cosine"));
    refuses("schedule is \"\"", WORDS("--schedule=")); /* this once did not return */
}

static Err *from_json(Config *config, const char *text)
{
    Json *root;
    *config = (Config){0};
    assert_ok(options_defaults(config, table));
    assert_ok(json_parse(&root, text, strlen(text)));
    Err *err = options_json(config, table, root, "config.json");
    json_free(root);
    return err;
}

static void refuses_json(const char *text, ErrKind kind, const char *message)
{
    Config config;
    assert_fails(from_json(&config, text), kind, message);
    options_free(&config, table);
}

static void a_file_sets_options_nested_or_dotted(void **state)
{
    Config c;
    (void)state;
    assert_ok(from_json(&c, "{\"lora\": {\"r\": 4, \"targets\": [\"a\", \"b\", \"c\"]}, \"lora.alpha\": 8, \"any\": "
                            "null, \"path\": \"p\"}"));
    assert_true(c.r == 4 && c.alpha == 8 && c.targets.count == 3);
    assert_string_equal(c.path, "p");
    options_free(&c, table);
}

/* What is written to stderr between the two calls. */
static FILE *catch_stderr(int *kept)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    *kept = dup(STDERR_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    return file;
}

static void assert_caught(FILE *file, int kept, const char *expected)
{
    char text[512] = "";
    dup2(kept, STDERR_FILENO);
    close(kept);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    assert_string_equal(text, expected);
}

static void an_old_name_still_works_and_names_the_new_one_once(void **state)
{
    Config c;
    int kept;
    (void)state;
    FILE *file = catch_stderr(&kept);
    accepts(&c, WORDS("--file", "a"));
    assert_string_equal(c.path, "a");
    options_free(&c, table);
    assert_ok(from_json(&c, "{\"file\": \"b\"}"));
    assert_string_equal(c.path, "b");
    options_free(&c, table);
    assert_caught(file, kept, "--file is called --path now; the old name still works\n");
}

static void wrong_members_are_refused(void **state)
{
    (void)state;
    refuses_json("{\"lora\": {\"rr\": 4}}", ERR_USAGE, "config.json: unknown option lora.rr; did you mean lora.r?");
    refuses_json("{\"lora\": 4}", ERR_USAGE, "unknown option lora");
    refuses_json("{\"lora\": {\"r\": \"4\"}}", ERR_USAGE, "lora.r is a string; expected a number");
    refuses_json("{\"lora\": {\"targets\": [4]}}", ERR_USAGE, "lora.targets is a number; expected an array of strings");
    refuses_json("{\"path\": 4}", ERR_USAGE, "path is a number; expected a string");
    refuses_json("[]", ERR_FORMAT, "config.json: holds an array; expected an object");
}

static void settings_survive_a_round_trip(void **state)
{
    Config c, again;
    Json *json, *second;
    char *text;
    (void)state;
    accepts(&c, WORDS("--lora.r=5", "--any=[1,2]", "--lora.targets=a,b"));
    assert_ok(options_to_json(&c, table, &json));
    assert_ok(json_print(json, false, &text));
    assert_string_equal(text, "{\"lora.r\":5,\"lora.alpha\":32,\"lora.rslora\":false,\"lora.targets\":[\"a\",\"b\"],"
                              "\"schedule\":\"cosine\",\"path\":null,\"any\":[1,2]}");
    assert_ok(from_json(&again, text));
    assert_ok(options_to_json(&again, table, &second));
    assert_true(json_equal(json, second));
    json_free(json), json_free(second);
    free(text);
    options_free(&c, table);
    options_free(&again, table);
}

static void help_shows_every_option(void **state)
{
    char *text;
    size_t bytes;
    FILE *stream = open_memstream(&text, &bytes);
    (void)state;
    assert_non_null(stream);
    options_help(stream, table);
    fclose(stream);
    for (const Option *o = table; o->key || o->help; o++) assert_non_null(strstr(text, o->key ? o->key : o->help));
    assert_non_null(strstr(text, "inner size [16]"));
    assert_non_null(strstr(text, "(linear cosine constant) [cosine]"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_come_from_the_table),
        cmocka_unit_test(arguments_override_defaults),
        cmocka_unit_test(positional_arguments_are_counted),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(only_whole_choices_are_taken),
        cmocka_unit_test(a_file_sets_options_nested_or_dotted),
        cmocka_unit_test(wrong_members_are_refused),
        cmocka_unit_test(settings_survive_a_round_trip),
        cmocka_unit_test(help_shows_every_option),
        cmocka_unit_test(an_old_name_still_works_and_names_the_new_one_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
