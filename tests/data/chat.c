#include "data/chat.h"
#include "tests/support/cases.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

static void every_fixture_is_rendered_byte_for_byte(void **state)
{
    Count count = {0};
    (void)state;
    assert_ok(cases_chat("tests/fixtures/chat_template/cases.jsonl", &count));
    assert_int_equal(count.failed, 0);
    assert_int_equal(count.passed, 83);
}

static void assert_rendered(const ChatOptions *options, const char *messages, const char *expected)
{
    ChatText chat = {0};
    Raw list;
    assert_ok(raw_open(&list, messages, strlen(messages)));
    assert_ok(chat_render(&chat, options, list, (Raw){0}));
    assert_string_equal(chat.text.data, expected);
    chat_text_free(&chat);
}

/* The rows of spec and README that the cases do not hold. */
static void odd_inputs_are_rendered_as_the_templates_do(void **state)
{
    ChatOptions glm47 = {.template = CHAT_GLM47}, glm45 = {.template = CHAT_GLM45, .enable_thinking = CHAT_NO};
    (void)state;
    assert_rendered(&glm45, "[{\"role\":\"user\",\"content\":\"a/nothink\"}]", "[gMASK]<sop><|user|>\na/nothink");
    assert_rendered(&glm47, "[{\"role\":\"tool\",\"content\":[\"a\",{\"output\":\"b\"}]}]",
                    "[gMASK]<sop><|observation|><tool_response>a</tool_response><tool_response>b</tool_response>");
    assert_rendered(&glm47, "[{\"role\":\"tool\",\"content\":\"a\"},{\"role\":\"tool\",\"content\":[]}]",
                    "[gMASK]<sop><|observation|><tool_response>a</tool_response><|observation|>");
    assert_rendered(&glm47, "[{\"role\":\"assistant\",\"content\":\"x</think>y<think>z</think>\\nw\"}]",
                    "[gMASK]<sop><|assistant|><think>x</think>w");
}

static void null_content_is_empty_unless_the_templates_none_is_asked_for(void **state)
{
    static const char call[] = "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"name\":\"a\",\"arguments\":{}}]}]";
    ChatOptions plain = {.template = CHAT_GLM47}, faithful = {.template = CHAT_GLM47, .null_as_none = true};
    (void)state;
    assert_rendered(&plain, call, "[gMASK]<sop><|assistant|></think><tool_call>a</tool_call>");
    assert_rendered(&faithful, call, "[gMASK]<sop><|assistant|></think>None<tool_call>a</tool_call>");
}

static void arguments_may_be_a_string_that_holds_their_json(void **state)
{
    ChatOptions options = {.template = CHAT_GLM47};
    (void)state;
    assert_rendered(&options,
                    "[{\"role\":\"assistant\",\"tool_calls\":[{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":[1,2.50]}\"}]}]",
                    "[gMASK]<sop><|assistant|></think><tool_call>f<arg_key>a</arg_key><arg_value>[1, 2.5]</arg_value></tool_call>");
}

static ChatTemplate recognised(const char *directory, const char *name)
{
    ChatTemplate template = CHAT_TEMPLATES;
    assert_ok(chat_recognise(&template, directory, name));
    return template;
}

static void a_model_is_recognised_by_the_template_it_ships(void **state)
{
    char *text, path[PATH_BYTES];
    size_t bytes;
    ChatTemplate template;
    assert_int_equal(recognised("examples/tiny-glm5", NULL), CHAT_GLM47);
    assert_int_equal(recognised("examples/tiny-glm5", "glm45"), CHAT_GLM45);
    assert_string_equal(chat_template_name(CHAT_GLM45), "glm45");
    assert_ok(file_read(&text, &bytes, "examples/tiny-glm5/chat_template.jinja"));

    Json *config = json_new_object(); /* where older models keep it */
    json_add_string(config, "chat_template", text);
    char *printed;
    assert_ok(json_print(config, false, &printed));
    assert_ok(file_write(scratch_path(state, "tokenizer_config.json", path), printed, strlen(printed)));
    assert_int_equal(recognised(*state, NULL), CHAT_GLM47);

    text[bytes - 1] = '\n'; /* one byte is enough to be another template; white space at the end is not */
    assert_ok(file_write(scratch_path(state, "chat_template.jinja", path), text, bytes));
    assert_fails(chat_recognise(&template, *state, NULL), ERR_FORMAT, "chat_template can be one of glm47 (GLM-4.7");
    text[bytes - 1] = '}';
    memcpy(text + bytes, "\n", 1);
    assert_ok(file_write(path, text, bytes + 1));
    assert_int_equal(recognised(*state, NULL), CHAT_GLM47);
    json_free(config);
    free(printed);
    free(text);
}

static void an_unknown_template_is_refused_with_the_known_ones(void **state)
{
    ChatTemplate template;
    assert_fails(chat_recognise(&template, *state, NULL), ERR_FORMAT, "no chat template; chat_template can be one of glm47");
    assert_fails(chat_recognise(&template, *state, "llama"), ERR_USAGE, "chat_template llama: no such template; chat_template can be");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fixture_is_rendered_byte_for_byte),
        cmocka_unit_test(odd_inputs_are_rendered_as_the_templates_do),
        cmocka_unit_test(null_content_is_empty_unless_the_templates_none_is_asked_for),
        cmocka_unit_test(arguments_may_be_a_string_that_holds_their_json),
        scratch_test(a_model_is_recognised_by_the_template_it_ships),
        scratch_test(an_unknown_template_is_refused_with_the_known_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
