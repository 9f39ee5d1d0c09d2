/* Recognising the chat template of a model directory. */
#include "data/chat/template.h"
#include "base/json.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

static ChatTemplate recognised(const char *directory, const char *name)
{
    ChatTemplate template = CHAT_TEMPLATES;
    assert_ok(template_recognise(&template, directory, name));
    return template;
}

static void a_model_is_recognised_by_the_template_in_its_directory(void **state)
{
    char *text, path[PATH_BYTES];
    size_t bytes;
    ChatTemplate template;
    assert_int_equal(recognised("examples/tiny-glm5", NULL), CHAT_GLM47);
    assert_int_equal(recognised("examples/tiny-glm5", "glm45"), CHAT_GLM45);
    assert_string_equal(template_of(CHAT_GLM45)->name, "glm45");
    assert_ok(file_read(&text, &bytes, "examples/tiny-glm5/chat_template.jinja"));

    Json *config = json_new_object(); /* where older models have the template */
    json_add_string(config, "chat_template", text);
    char *printed;
    assert_ok(json_print(config, false, &printed));
    assert_ok(file_write(scratch_path(state, "tokenizer_config.json", path), printed, strlen(printed)));
    assert_int_equal(recognised(*state, NULL), CHAT_GLM47);

    text[bytes - 1] = '\n'; /* one byte makes another template; white space at the end does not */
    assert_ok(file_write(scratch_path(state, "chat_template.jinja", path), text, bytes));
    assert_fails(template_recognise(&template, *state, NULL), ERR_FORMAT, "chat_template can be one of glm47 (GLM-4.7");
    text[bytes - 1] = '}';
    memcpy(text + bytes, "\n", 1);
    assert_ok(file_write(path, text, bytes + 1));
    assert_int_equal(recognised(*state, NULL), CHAT_GLM47);
    json_free(config);
    free(printed);
    free(text);
}

static void templates_whose_bytes_are_not_known_are_recognised_by_their_words(void **state)
{
    static const struct {
        const char *text;
        ChatTemplate template; /* CHAT_TEMPLATES: unknown */
    } cases[] = {{"[gMASK]<sop>{% if tool.defer_loading %}<arg_key>",
                  CHAT_TEMPLATES}, /* GLM's are recognised by their digests */
                 {"{{ns.system_prompt}}is_first_sp<｜User｜><｜Assistant｜><｜end▁of▁sentence｜>", CHAT_DEEPSEEK_V3},
                 {"{{ns.system_prompt}}<｜User｜><｜Assistant｜><｜end▁of▁sentence｜>",
                  CHAT_TEMPLATES}, /* keeps only the last system message */
                 {"{{ns.system_prompt}}is_first_sp<｜User｜><｜Assistant｜></think><｜end▁of▁sentence｜>",
                  CHAT_TEMPLATES}};
    char path[PATH_BYTES];
    scratch_path(state, "chat_template.jinja", path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ChatTemplate template;
        assert_ok(file_write(path, cases[i].text, strlen(cases[i].text)));
        if (cases[i].template == CHAT_TEMPLATES)
            assert_fails(template_recognise(&template, *state, NULL), ERR_FORMAT,
                         "glm52 (GLM-5.2), deepseek_v3 (DeepSeek-V3)");
        else
            assert_int_equal(recognised(*state, NULL), cases[i].template);
    }
}

static void an_unknown_template_is_refused_with_the_known_ones(void **state)
{
    ChatTemplate template;
    assert_fails(template_recognise(&template, *state, NULL), ERR_FORMAT,
                 "no chat template; chat_template can be one of glm47");
    assert_fails(template_recognise(&template, *state, "llama"), ERR_USAGE,
                 "chat_template llama: no such template; chat_template can be");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_model_is_recognised_by_the_template_in_its_directory),
        scratch_test(templates_whose_bytes_are_not_known_are_recognised_by_their_words),
        scratch_test(an_unknown_template_is_refused_with_the_known_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
