/* Source: chat_template.jinja of zai-org/GLM-4.5 (3,242 bytes), GLM-4.7-Flash (3,120), GLM-5.1 (4,672) and GLM-5.2
 * (5,076, the last one a newline); the chat_template in tokenizer_config.json of deepseek-ai/DeepSeek-V3. All are
 * MIT-licensed. */
#include "data/chat/template.h"

#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "data/text/lines.h"

#include <string.h>

#define CALL_FORMAT                                                                                \
    "<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key><arg_value>{arg-value-1}</arg_value>" \
    "<arg_key>{arg-key-2}</arg_key><arg_value>{arg-value-2}</arg_value>...</tool_call>"
#define GLM_END      "<|endoftext|>"
#define END_SENTENCE "<｜end▁of▁sentence｜>"

static const Template templates[CHAT_TEMPLATES] = {
    [CHAT_GLM47] = {.name = "glm47",
                    .models = "GLM-4.7, GLM-4.7-Flash, GLM-5",
                    .nl = "",
                    .call_format = CALL_FORMAT,
                    .end = GLM_END,
                    .sha256 = "d63ad536c3c81880043e22ec7fd08db42b4d8fb7c89c7138bc562bfa25281375"},
    [CHAT_GLM45] =
        {.name = "glm45",
         .models = "GLM-4.5, GLM-4.6",
         .nl = "\n",
         .end = GLM_END,
         .opens_thinking = true,
         .sha256 = "44f815868bf02fa458dd2f741a338046f4bf45f398eb6d067766726b9d96cce3",
         .call_format =
             "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>\n"
             "<arg_key>{arg-key-2}</arg_key>\n<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>"},
    [CHAT_GLM51] = {.name = "glm51",
                    .models = "GLM-5.1",
                    .nl = "",
                    .call_format = CALL_FORMAT,
                    .end = GLM_END,
                    .since_glm51 = true,
                    .fills_thinking = true,
                    .sha256 = "03b1bbff20331e54647c68167e8ac7f0b5b7ceb40ead372f44826624a9ad79cd"},
    [CHAT_GLM52] = {.name = "glm52",
                    .models = "GLM-5.2",
                    .nl = "",
                    .call_format = CALL_FORMAT,
                    .end = GLM_END,
                    .since_glm51 = true,
                    .opens_thinking = true,
                    .states_effort = true,
                    .names_media = true,
                    .lists_outputs = true,
                    .sha256 = "dedbb4dae748fa22459663ee32851fa5d4910124bbeb795085d47214d6c78529"},
    [CHAT_DEEPSEEK_V3] = {.name = "deepseek_v3",
                          .models = "DeepSeek-V3",
                          .end = END_SENTENCE,
                          .not_words = "think",
                          .words = {"<｜User｜>", "<｜Assistant｜>", END_SENTENCE, "ns.system_prompt", "is_first_sp"}},
};

const Template *template_of(ChatTemplate template) { return &templates[template]; }

static void put_known(Text *text)
{
    for (size_t i = 0; i < CHAT_TEMPLATES; i++) {
        text_put(text, i ? ", " : "");
        text_put(text, templates[i].name);
        text_put(text, " (");
        text_put(text, templates[i].models);
        text_put(text, ")");
    }
}

static Err *refuse_template(ErrKind kind, const char *what)
{
    Text known = {0};
    put_known(&known);
    Err *err = text_error(&known);
    if (!err) err = err_new(kind, "%s; chat_template can be one of %s", what, known.data);
    text_free(&known);
    return err;
}

/* The template of tokenizer_config.json, where older models have it; `text` stays empty when there is none. */
static Err *read_from_config(Text *text, const char *directory)
{
    char path[PATH_BYTES];
    Json *config;
    const char *template = NULL;
    TRY(file_join(path, directory, "tokenizer_config.json"));
    if (!file_exists(path)) return NULL;
    TRY(json_read_file(&config, path));
    Err *err = err_wrap(json_may_string(config, "chat_template", &template), "%s", path);
    if (!err && template) text_put(text, template);
    json_free(config);
    return err_first(err, text_error(text));
}

static bool has_words(const Template *template, const Text *text)
{
    if (template->sha256) return false;
    for (size_t i = 0; i < sizeof template->words / sizeof *template->words && template->words[i]; i++)
        if (!strstr(text->data, template->words[i])) return false;
    return !strstr(text->data, template->not_words);
}

static Err *recognise_text(ChatTemplate *template, const Text *text)
{
    unsigned char sum[DIGEST_SUM_BYTES];
    char hex[2 * DIGEST_SUM_BYTES + 1], what[160];
    Digest digest;
    size_t n = text->n;
    while (n && strchr(" \r\n\t", text->data[n - 1])) n--; /* the newline that an editor appends does not matter */
    digest_init(&digest);
    digest_add(&digest, text->data, n);
    digest_end(&digest, sum);
    digest_hex(sum, sizeof sum, hex);
    for (size_t i = 0; i < CHAT_TEMPLATES; i++) {
        if (templates[i].sha256 ? strcmp(hex, templates[i].sha256) != 0 : !has_words(&templates[i], text)) continue;
        *template = (ChatTemplate)i;
        return NULL;
    }
    snprintf(what, sizeof what, "the chat template (%zu bytes, SHA-256 %.16s...) is not one that graft knows", text->n,
             hex);
    return refuse_template(ERR_FORMAT, what);
}

Err *template_recognise(ChatTemplate *template, const char *directory, const char *name)
{
    char path[PATH_BYTES];
    Text text = {0};
    Err *err = NULL;
    for (size_t i = 0; i < CHAT_TEMPLATES && name; i++) {
        if (strcmp(name, templates[i].name)) continue;
        *template = (ChatTemplate)i;
        return NULL;
    }
    if (name) return err_wrap(refuse_template(ERR_USAGE, "no such template"), "chat_template %s", name);
    TRY(file_join(path, directory, "chat_template.jinja"));
    err = file_exists(path) ? lines_read_file(&text, path) : read_from_config(&text, directory);
    if (!err)
        err = text.n ? recognise_text(template, &text) : refuse_template(ERR_FORMAT, "the model has no chat template");
    text_free(&text);
    return err_wrap(err, "%s", directory);
}
