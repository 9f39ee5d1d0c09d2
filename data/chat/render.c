/* The parts of rendering that no template has for itself: roles, the text of a content, values that are given as JSON
 * in a string. */
#include "data/chat/render.h"

void render_put(Render *render, const char *string) { text_put(render->out, string); }

Err *render_role(JsonView message, Role *role)
{
    static const char *const names[] = {"system", "user", "assistant", "tool"};
    *role = ROLE_NONE;
    if (!view_is(message, JSON_OBJECT)) return err_new(ERR_DATA, "is %s; expected an object", view_kind_name(message));
    JsonView given = view_find(message, "role");
    for (Role i = ROLE_SYSTEM; i < ROLE_NONE; i++)
        if (view_equals(given, names[i])) *role = i;
    if (*role != ROLE_NONE) return NULL;
    if (!view_is(given, JSON_STRING)) return err_new(ERR_DATA, "role is %s; expected a string", view_kind_name(given));
    return err_new(ERR_DATA, "role is %.*s; expected system, user, assistant or tool",
                   given.bytes < 40 ? (int)given.bytes : 40, given.at);
}

static void null_content(const Render *r, Text *out) { text_put(out, r->options->null_as_none ? "None" : ""); }

static void name_media(Text *out, JsonView part)
{
    static const char *const media[][2] = {{"image", "image"},      {"image_url", "image"}, {"video", "video"},
                                           {"video_url", "video"},  {"audio", "audio"},     {"audio_url", "audio"},
                                           {"input_audio", "audio"}};
    JsonView type = view_find(part, "type");
    for (size_t i = 0; i < sizeof media / sizeof *media; i++) {
        if (!view_equals(type, media[i][0])) continue;
        text_put(out, "<reminder>You are unable to process this ");
        text_put(out, media[i][1]);
        text_put(out, " because you don't have multi-modal input ability. Try different methods.</reminder>");
    }
}

Err *render_visible(const Render *r, Text *out, JsonView content)
{
    text_add(out, "", 0);
    if (!content.at) return NULL;
    if (view_kind(content) == JSON_NULL)
        null_content(r, out);
    else if (view_kind(content) == JSON_STRING)
        view_string(out, content);
    else if (view_kind(content) != JSON_ARRAY)
        return err_new(ERR_DATA, "content is %s; expected a string or a list of parts", view_kind_name(content));
    for (JsonViewItem part = view_first(content); part.value.at; view_next(&part)) {
        if (view_kind(part.value) == JSON_STRING) view_string(out, part.value);
        if (r->template->names_media) name_media(out, part.value);
        if (!view_equals(view_find(part.value, "type"), "text")) continue;
        JsonView text = view_find(part.value, "text");
        if (view_is(text, JSON_STRING))
            view_string(out, text);
        else if (view_is(text, JSON_NULL))
            null_content(r, out);
        else if (text.at)
            return err_new(ERR_DATA, "a text part holds %s; expected a string", view_kind_name(text));
    }
    return NULL;
}

Err *render_unwrap(JsonView *value, JsonKind kind, const char *what, Text *text)
{
    if (view_is(*value, JSON_STRING)) {
        text_clear(text);
        view_string(text, *value);
        TRY(text_error(text));
        Err *err = view_open(value, text->data, text->n);
        if (err) {
            Err *refused = err_new(ERR_DATA, "%s is a string that does not hold %s: %s", what,
                                   kind == JSON_ARRAY ? "an array" : "an object", err_message(err));
            err_free(err);
            return refused;
        }
    }
    if (view_is(*value, kind)) return NULL;
    return err_new(ERR_DATA, "%s is %s; expected %s", what, view_kind_name(*value),
                   kind == JSON_ARRAY ? "an array" : "an object");
}
