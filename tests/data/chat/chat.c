/* Rendering against the templates' own output (fixtures made with Jinja), and the rules that no fixture covers. */
#include "data/chat/chat.h"
#include "tests/support/cases.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

static void every_fixture_is_rendered_byte_for_byte(void **state)
{
    Count count = {0};
    (void)state;
    assert_ok(cases_chat("tests/fixtures/chat_template/cases.jsonl", &count));
    assert_ok(cases_chat("tests/fixtures/chat_template/later.jsonl", &count));
    assert_int_equal(count.failed, 0);
    assert_int_equal(count.passed, 83 + 180);
}

static void assert_rendered(const ChatOptions *options, const char *messages, const char *expected)
{
    ChatText chat = {0};
    JsonView list;
    assert_ok(view_open(&list, messages, strlen(messages)));
    assert_ok(chat_render(&chat, options, list, (JsonView){0}));
    assert_string_equal(chat.text.data, expected);
    chat_text_free(&chat);
}

/* Inputs that the fixtures do not hold. */
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

static void null_content_is_empty_or_with_an_option_the_templates_none(void **state)
{
    static const char call[] =
        "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"name\":\"a\",\"arguments\":{}}]}]";
    ChatOptions plain = {.template = CHAT_GLM47}, faithful = {.template = CHAT_GLM47, .null_as_none = true};
    (void)state;
    assert_rendered(&plain, call, "[gMASK]<sop><|assistant|></think><tool_call>a</tool_call>");
    assert_rendered(&faithful, call, "[gMASK]<sop><|assistant|></think>None<tool_call>a</tool_call>");
}

static void arguments_may_be_a_string_that_holds_their_json(void **state)
{
    ChatOptions options = {.template = CHAT_GLM47};
    (void)state;
    assert_rendered(
        &options, "[{\"role\":\"assistant\",\"tool_calls\":[{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":[1,2.50]}\"}]}]",
        "[gMASK]<sop><|assistant|></think><tool_call>f<arg_key>a</arg_key><arg_value>[1, 2.5]</arg_value></tool_call>");
}

#define S(text)          "{\"role\":\"system\",\"content\":\"" text "\"}"
#define U(text)          "{\"role\":\"user\",\"content\":\"" text "\"}"
#define A(thought, text) "{\"role\":\"assistant\",\"reasoning_content\":\"" thought "\",\"content\":\"" text "\"}"
#define CALL             "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"name\":\"f\",\"arguments\":{}}]}"
#define TWO_TURNS        S("Be brief.") "," U("Q1") "," A("r1", "A1") "," U("Q2") "," A("r2", "A2")
#define MAX_EFFORT       "[gMASK]<sop><|system|>Reasoning Effort: Max"

/* The published examples of GLM-5.2, and the rules of both templates one by one. */
static void later_templates_are_rendered_by_their_rules(void **state)
{
    ChatOptions ask = {.template = CHAT_GLM52, .add_generation_prompt = true}, high = ask, off = ask,
                glm52 = {.template = CHAT_GLM52}, keep = {.template = CHAT_GLM52, .clear_thinking = CHAT_NO},
                glm51 = {.template = CHAT_GLM51}, off51 = {.template = CHAT_GLM51},
                off52 = {.template = CHAT_GLM52, .enable_thinking = CHAT_NO};
    (void)state;
    high.effort_high = true;
    off.enable_thinking = off51.enable_thinking = CHAT_NO;
    off51.add_generation_prompt = true;
    assert_rendered(&ask, "[" U("Hi") "]", MAX_EFFORT "<|user|>Hi<|assistant|><think>");
    assert_rendered(&high, "[" U("Hi") "]",
                    "[gMASK]<sop><|system|>Reasoning Effort: High<|user|>Hi<|assistant|><think>");
    assert_rendered(&off, "[" U("Hi") "]", "[gMASK]<sop><|user|>Hi<|assistant|><think></think>");
    assert_rendered(
        &glm52, "[" TWO_TURNS "]",
        MAX_EFFORT
        "<|system|>Be brief.<|user|>Q1<|assistant|><think></think>A1<|user|>Q2<|assistant|><think>r2</think>A2");
    assert_rendered(
        &keep, "[" TWO_TURNS "]",
        MAX_EFFORT
        "<|system|>Be brief.<|user|>Q1<|assistant|><think>r1</think>A1<|user|>Q2<|assistant|><think>r2</think>A2");
    assert_rendered(&off51, "[" U("Hi") "]", "[gMASK]<sop><|user|>Hi<|assistant|></think>");
    assert_rendered(
        &glm51, "[" TWO_TURNS "]",
        "[gMASK]<sop><|system|>Be brief.<|user|>Q1<|assistant|></think>A1<|user|>Q2<|assistant|><think>r2</think>A2");
    assert_rendered(&glm51, "[" U("x") "," A(" r\\n", " y ") "]",
                    "[gMASK]<sop><|user|>x<|assistant|><think> r\n</think>y"); /* not trimmed */
    assert_rendered(&glm51, "[" U("x") "," A("", "y") "]", "[gMASK]<sop><|user|>x<|assistant|><think></think>y");
    assert_rendered(&glm51, "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"},\"?\"]}]",
                    "[gMASK]<sop><|user|>?");
    assert_rendered(&off52, "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"},\"?\"]}]",
                    "[gMASK]<sop><|user|><reminder>You are unable to process this image because you don't have "
                    "multi-modal input ability. "
                    "Try different methods.</reminder>?");
    assert_rendered(&glm51, "[{\"role\":\"tool\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},\"b\"]}]",
                    "[gMASK]<sop><|observation|><tool_response>ab</tool_response>");
    assert_rendered(&off52,
                    "[{\"role\":\"tool\",\"content\":[{\"output\":\"a\"},{\"output\":\"b\"}]},{\"role\":\"tool\"}]",
                    "[gMASK]<sop><|observation|><tool_response>a</tool_response><tool_response>b</"
                    "tool_response><tool_response></tool_response>");
}

#define PLAIN(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"

static void glm51_opens_an_empty_block_where_the_model_could_have_thought(void **state)
{
    ChatOptions on = {.template = CHAT_GLM51}, off = {.template = CHAT_GLM51, .enable_thinking = CHAT_NO},
                keep = {.template = CHAT_GLM51, .clear_thinking = CHAT_NO};
    (void)state;
    assert_rendered(&on, "[" U("q") "," PLAIN("a") "]", "[gMASK]<sop><|user|>q<|assistant|><think></think>a");
    assert_rendered(&off, "[" U("q") "," PLAIN("a") "]", "[gMASK]<sop><|user|>q<|assistant|></think>a");
    assert_rendered(&keep, "[" U("q") "," A("r", "a") "," PLAIN("b") "," U("p") "," PLAIN("c") "," U("o") "]",
                    "[gMASK]<sop><|user|>q<|assistant|><think>r</think>a<|assistant|><think></"
                    "think>b<|user|>p<|assistant|></think>c<|user|>o");
}

static void render_with_tools(ChatText *chat, ChatTemplate template, const char *messages, const char *tools)
{
    JsonView list, tool_list;
    assert_ok(view_open(&list, messages, strlen(messages)));
    assert_ok(view_open(&tool_list, tools, strlen(tools)));
    assert_ok(chat_render(chat, &(ChatOptions){.template = template}, list, tool_list));
}

static const char tools[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":true,\"parameters\":{\"strict\":1}}},"
    "{\"name\":\"g\",\"a\\\"b\":2.50,\"defer_loading\":true}]";

static void later_templates_write_the_function_of_a_tool_alone(void **state)
{
    ChatText chat = {0};
    (void)state;
    render_with_tools(&chat, CHAT_GLM51, "[]", tools); /* one tool is deferred */
    assert_non_null(strstr(chat.text.data, "<tools>\n{\"name\": \"f\", \"parameters\": {\"strict\": 1}}\n</tools>"));
    render_with_tools(&chat, CHAT_GLM47, "[]", tools);
    assert_non_null(strstr(chat.text.data, "<tools>\n{\"type\": \"function\", "));
    chat_text_free(&chat);
}

static void a_reference_writes_the_line_of_its_tool(void **state)
{
    static const char found[] = "[{\"role\":\"tool\",\"content\":[{\"type\":\"tool_reference\",\"name\":\"g\"},{"
                                "\"type\":\"tool_reference\",\"name\":\"none\"}]}]";
    ChatText chat = {0};
    JsonView list;
    (void)state;
    render_with_tools(&chat, CHAT_GLM52, found, tools); /* the template writes a key without escapes */
    assert_non_null(
        strstr(chat.text.data,
               "<|observation|><tool_response><tools>\n{\"name\": \"g\", \"a\"b\": 2.5}\n</tools></tool_response>"));
    assert_ok(view_open(&list, found, strlen(found)));
    assert_fails(chat_render(&chat, &(ChatOptions){.template = CHAT_GLM52}, list, (JsonView){0}), ERR_DATA,
                 "a tool_reference without tools");
    chat_text_free(&chat);
}

static void deepseek_v3_writes_system_messages_first(void **state)
{
    ChatOptions options = {.template = CHAT_DEEPSEEK_V3, .end_of_text = true},
                ask = {.template = CHAT_DEEPSEEK_V3, .add_generation_prompt = true};
    ChatText chat = {0};
    JsonView list;
    (void)state;
    assert_rendered(&options,
                    "[" S("s") "," U("a") ",{\"role\":\"assistant\",\"content\":\"b\"}," S("t") "," U("c") "]",
                    "<｜begin▁of▁sentence｜>s\n\nt<｜User｜>a<｜Assistant｜>b<｜end▁of▁sentence｜><｜User｜>c");
    assert_rendered(&ask, "[" U("a") "]", "<｜begin▁of▁sentence｜><｜User｜>a<｜Assistant｜>");
    static const char *const refused[][2] = {{"[{\"role\":\"tool\",\"content\":\"\"}]", "supports no tools"},
                                             {"[" CALL "]", "cannot render tool_calls"},
                                             {"[" A("r", "x") "]", "cannot render reasoning_content"}};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        assert_ok(view_open(&list, refused[i][0], strlen(refused[i][0])));
        assert_fails(chat_render(&chat, &options, list, (JsonView){0}), ERR_DATA, refused[i][1]);
    }
    chat_text_free(&chat);
}

static void turns_begin_where_a_conversation_may_be_cut(void **state)
{
    static const char messages[] = "[" S("s") "," U(
        "a") "," CALL ",{\"role\":\"tool\",\"content\":\"1\"},{\"role\":\"tool\",\"content\":\"2\"}," U("b") "]";
    static const char *const turns[] = {"<|user|>a", "<|assistant|>", "<|observation|>", "<|user|>b"};
    ChatOptions options = {.template = CHAT_GLM47};
    ChatText chat = {0};
    JsonView list;
    (void)state;
    assert_ok(view_open(&list, messages, strlen(messages)));
    assert_ok(chat_render(&chat, &options, list, (JsonView){0}));
    assert_int_equal(chat.n_turns, 4);
    assert_int_equal(chat.head, strlen("[gMASK]<sop><|system|>s"));
    for (size_t i = 0; i < 4; i++) {
        assert_memory_equal(chat.text.data + chat.turns[i].begin, turns[i], strlen(turns[i]));
        assert_int_equal(chat.turns[i].user, i % 3 == 0);
    }
    chat_text_free(&chat);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fixture_is_rendered_byte_for_byte),
        cmocka_unit_test(odd_inputs_are_rendered_as_the_templates_do),
        cmocka_unit_test(null_content_is_empty_or_with_an_option_the_templates_none),
        cmocka_unit_test(arguments_may_be_a_string_that_holds_their_json),
        cmocka_unit_test(later_templates_are_rendered_by_their_rules),
        cmocka_unit_test(glm51_opens_an_empty_block_where_the_model_could_have_thought),
        cmocka_unit_test(later_templates_write_the_function_of_a_tool_alone),
        cmocka_unit_test(a_reference_writes_the_line_of_its_tool),
        cmocka_unit_test(deepseek_v3_writes_system_messages_first),
        cmocka_unit_test(turns_begin_where_a_conversation_may_be_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
