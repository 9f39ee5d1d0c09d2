#include "data/glm_tools.h"

static bool is_true(Raw value) { return raw_is(value, JSON_BOOL) && *value.at == 't'; }

/* GLM-5.1's line of a tool: its function alone, without two keys; a tool to be loaded later has none. */
static Err *render_function(Render *r, Raw tool)
{
    Raw function = raw_find(tool, "function");
    if (!raw_is(function, JSON_OBJECT)) function = tool;
    if (!raw_is(function, JSON_OBJECT)) return err_new(ERR_DATA, "a tool is %s; expected an object", raw_kind_name(function));
    if (is_true(raw_find(tool, "defer_loading")) || is_true(raw_find(function, "defer_loading"))) return NULL;
    const char *comma = "";
    render_put(r, "{");
    for (RawItem item = raw_first(function); item.value.at; raw_next(&item)) {
        if (raw_equals(item.key, "defer_loading") || raw_equals(item.key, "strict")) continue;
        render_put(r, comma);
        comma = ", ";
        TRY(raw_python(r->out, item.key));
        render_put(r, ": ");
        TRY(raw_python(r->out, item.value));
    }
    render_put(r, "}\n");
    return NULL;
}

Err *glm_tools(Render *r)
{
    RawItem tool = raw_first(r->tools);
    if (!tool.value.at) return NULL;
    render_put(r, "<|system|>\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
                  "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n");
    for (; tool.value.at; raw_next(&tool)) {
        if (r->template->later) {
            TRY(err_wrap(render_function(r, tool.value), "tools"));
            continue;
        }
        TRY(err_wrap(raw_python(r->out, tool.value), "tools"));
        render_put(r, "\n");
    }
    render_put(r, "</tools>\n\nFor each function call, "
                  "output the function name and arguments within the following XML format:\n");
    render_put(r, r->template->call_format);
    return NULL;
}

static void render_tool_result(Render *r, const Text *result)
{
    render_put(r, r->template->nl);
    render_put(r, "<tool_response>");
    render_put(r, r->template->nl);
    text_add(r->out, result->data, result->n);
    render_put(r, r->template->nl);
    render_put(r, "</tool_response>");
}

static void render_result_string(Render *r, Raw string)
{
    text_clear(&r->content);
    raw_string(&r->content, string);
    render_tool_result(r, &r->content);
}

/* A list of GLM-5.1 and later that is no list of outputs is text like any other. */
static bool is_visible_list(const Render *r, Raw content)
{
    if (!r->template->later || !raw_is(content, JSON_ARRAY)) return false;
    for (RawItem item = raw_first(content); item.value.at; raw_next(&item))
        if (raw_find(item.value, "output").at) return false;
    return true;
}

Err *glm_tool_result(Render *r, const Message *message)
{
    Raw content = raw_find(message->item.value, "content");
    bool run_goes_on = message->before == ROLE_TOOL;
    if (content.at && raw_kind(content) != JSON_STRING && raw_kind(content) != JSON_ARRAY)
        return err_new(ERR_DATA, "content is %s; expected a string or a list", raw_kind_name(content));
    bool visible_list = is_visible_list(r, content);
    if ((!visible_list && !raw_is(content, JSON_STRING)) || !run_goes_on) render_put(r, "<|observation|>");
    if (raw_is(content, JSON_STRING)) render_result_string(r, content);
    for (RawItem item = raw_first(content); item.value.at; raw_next(&item)) {
        if (raw_equals(raw_find(item.value, "type"), "tool_reference"))
            return err_new(ERR_DATA, "a tool_reference in a tool's content is not supported");
        if (visible_list) continue;
        Raw output = raw_kind(item.value) == JSON_STRING ? item.value : raw_find(item.value, "output");
        if (!raw_is(output, JSON_STRING)) /* the templates would print Python's view of it */
            return err_new(ERR_DATA, "a part of a tool's content is no string and has no output that is one");
        render_result_string(r, output);
    }
    if (!visible_list) return NULL;
    text_clear(&r->content);
    TRY(render_visible(r, &r->content, content));
    render_tool_result(r, &r->content);
    return NULL;
}

static Err *render_call(Render *r, Raw call)
{
    Raw function = raw_find(call, "function");
    if (raw_first(function).value.at) call = function; /* wrapped, or bare */
    Raw name = raw_find(call, "name"), arguments = raw_find(call, "arguments");
    if (!raw_is(name, JSON_STRING)) return err_new(ERR_DATA, "name is %s; expected a string", raw_kind_name(name));
    TRY(render_unwrap(&arguments, JSON_OBJECT, "arguments", &r->held));
    render_put(r, r->template->nl);
    render_put(r, "<tool_call>");
    raw_string(r->out, name);
    render_put(r, r->template->nl);
    for (RawItem argument = raw_first(arguments); argument.value.at; raw_next(&argument)) {
        render_put(r, "<arg_key>");
        raw_string(r->out, argument.key);
        render_put(r, "</arg_key>");
        render_put(r, r->template->nl);
        render_put(r, "<arg_value>");
        if (raw_kind(argument.value) == JSON_STRING) raw_string(r->out, argument.value);
        else TRY(raw_python(r->out, argument.value));
        render_put(r, "</arg_value>");
        render_put(r, r->template->nl);
    }
    render_put(r, "</tool_call>");
    text_clear(&r->content); /* content was written before; here it only looks for keys given twice */
    return raw_python(&r->content, arguments);
}

Err *glm_tool_calls(Render *r, Raw message)
{
    Raw calls = raw_find(message, "tool_calls");
    if (calls.at && raw_kind(calls) != JSON_ARRAY && raw_kind(calls) != JSON_NULL)
        return err_new(ERR_DATA, "tool_calls is %s; expected an array", raw_kind_name(calls));
    for (RawItem call = raw_first(calls); call.value.at; raw_next(&call))
        TRY(err_wrap(render_call(r, call.value), "tool_calls"));
    return NULL;
}
