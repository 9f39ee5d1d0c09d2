#include "data/chat/glm_tools.h"

#include "data/chat/python_json.h"

/* ---- tools ---- */

/* A later template's: what `function` holds, or the tool itself. */
static Err *function_of(Raw tool, Raw *function)
{
    *function = raw_find(tool, "function");
    if (!function->at) *function = tool;
    if (raw_is(*function, JSON_OBJECT)) return NULL;
    return err_new(ERR_DATA, "a tool is %s; expected an object", raw_kind_name(*function));
}

/* Without two keys, and keys as they are, not as JSON would spell them. */
static Err *function_line(Render *r, Raw function)
{
    const char *begin = "{\"";
    for (RawItem item = raw_first(function); item.value.at; raw_next(&item)) {
        if (raw_equals(item.key, "defer_loading") || raw_equals(item.key, "strict")) continue;
        render_put(r, begin);
        begin = ", \"";
        raw_string(r->out, item.key);
        render_put(r, "\": ");
        TRY(python_json(r->out, item.value));
    }
    render_put(r, *begin == '{' ? "{}\n" : "}\n");
    return NULL;
}

static Err *tool_line(Render *r, Raw tool)
{
    Raw function, defer;
    if (!r->template->later) {
        TRY(python_json(r->out, tool));
        render_put(r, "\n");
        return NULL;
    }
    TRY(function_of(tool, &function));
    defer = raw_find(function, "defer_loading");
    if (defer.at && !raw_is(defer, JSON_BOOL) && !raw_is(defer, JSON_NULL))
        return err_new(ERR_DATA, "defer_loading is %s; expected true or false", raw_kind_name(defer));
    return raw_is(defer, JSON_BOOL) && *defer.at == 't'
               ? NULL
               : function_line(r, function); /* deferred: loaded by a reference */
}

Err *glm_tools(Render *r)
{
    RawItem tool = raw_first(r->tools);
    if (!tool.value.at) return NULL;
    render_put(r, "<|system|>\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
                  "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n");
    for (; tool.value.at; raw_next(&tool)) TRY(err_wrap(tool_line(r, tool.value), "tools"));
    render_put(r, "</tools>\n\nFor each function call, "
                  "output the function name and arguments within the following XML format:\n");
    render_put(r, r->template->call_format);
    return NULL;
}

/* ---- results ---- */

static void put_result(Render *r, const Text *result)
{
    render_put(r, r->template->nl);
    render_put(r, "<tool_response>");
    render_put(r, r->template->nl);
    text_add(r->out, result->data, result->n);
    render_put(r, r->template->nl);
    render_put(r, "</tool_response>");
}

static Err *put_string(Render *r, Raw string)
{
    if (!raw_is(string, JSON_STRING)) /* the templates would print Python's view of it, or fail */
        return err_new(ERR_DATA, "a part of a tool's content is no string and has no output that is one");
    text_clear(&r->content);
    raw_string(&r->content, string);
    put_result(r, &r->content);
    return NULL;
}

/* The tools that a tool found, as lines of their own. */
static Err *put_references(Render *r, Raw references)
{
    if (!r->tools.at) return err_new(ERR_DATA, "a tool_reference without tools");
    render_put(r, "<tool_response><tools>\n");
    for (RawItem reference = raw_first(references); reference.value.at; raw_next(&reference)) {
        Raw name = raw_find(reference.value, "name"), function;
        if (!raw_is(name, JSON_STRING))
            return err_new(ERR_DATA, "a tool_reference's name is %s; expected a string", raw_kind_name(name));
        text_clear(&r->content);
        raw_string(&r->content, name);
        TRY(text_error(&r->content));
        for (RawItem tool = raw_first(r->tools); tool.value.at; raw_next(&tool)) {
            TRY(err_wrap(function_of(tool.value, &function), "tools"));
            if (raw_equals(raw_find(function, "name"), r->content.data)) TRY(function_line(r, function));
        }
    }
    render_put(r, "</tools></tool_response>");
    return NULL;
}

static Err *put_outputs(Render *r, Raw content)
{
    for (RawItem item = raw_first(content); item.value.at; raw_next(&item))
        TRY(put_string(r, raw_is(item.value, JSON_STRING) && !r->template->later ? item.value
                                                                                 : raw_find(item.value, "output")));
    return NULL;
}

/* Up to GLM-5 a list is a run of results of its own. */
static Err *earlier_result(Render *r, Raw content, bool goes_on)
{
    if (content.at && !raw_is(content, JSON_STRING) && !raw_is(content, JSON_ARRAY))
        return err_new(ERR_DATA, "content is %s; expected a string or a list", raw_kind_name(content));
    if (!goes_on || !raw_is(content, JSON_STRING)) render_put(r, "<|observation|>");
    return raw_is(content, JSON_STRING) ? put_string(r, content) : put_outputs(r, content);
}

/* From GLM-5.1 on the first element of a list says what the list is. */
static Err *later_result(Render *r, Raw content, bool goes_on)
{
    Raw first = raw_is(content, JSON_ARRAY) ? raw_first(content).value : (Raw){0};
    if (!goes_on) render_put(r, "<|observation|>");
    if (raw_equals(raw_find(first, "type"), "tool_reference")) return put_references(r, content);
    if (r->template->lists_outputs && raw_find(first, "output").at) return put_outputs(r, content);
    text_clear(&r->content);
    TRY(render_visible(r, &r->content, content));
    put_result(r, &r->content);
    return NULL;
}

Err *glm_tool_result(Render *r, const Message *message)
{
    Raw content = raw_find(message->item.value, "content");
    bool goes_on = message->before == ROLE_TOOL;
    return r->template->later ? later_result(r, content, goes_on) : earlier_result(r, content, goes_on);
}

/* ---- calls ---- */

static Err *put_call(Render *r, Raw call)
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
        if (raw_kind(argument.value) == JSON_STRING)
            raw_string(r->out, argument.value);
        else
            TRY(python_json(r->out, argument.value));
        render_put(r, "</arg_value>");
        render_put(r, r->template->nl);
    }
    render_put(r, "</tool_call>");
    text_clear(&r->content); /* content was written before; here it only looks for keys given twice */
    return python_json(&r->content, arguments);
}

Err *glm_tool_calls(Render *r, Raw message)
{
    Raw calls = raw_find(message, "tool_calls");
    if (calls.at && raw_kind(calls) != JSON_ARRAY && raw_kind(calls) != JSON_NULL)
        return err_new(ERR_DATA, "tool_calls is %s; expected an array", raw_kind_name(calls));
    for (RawItem call = raw_first(calls); call.value.at; raw_next(&call))
        TRY(err_wrap(put_call(r, call.value), "tool_calls"));
    return NULL;
}
