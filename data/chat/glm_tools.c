/* The parts of the GLM templates that deal with tools. Values are written as Python's json.dumps writes them
 * (data/chat/python_json.h), because the templates call it. Up to GLM-5 a tool is written as it is given; since GLM-5.1
 * only its function is, without `defer_loading` and `strict`.
 *
 * Source: data/chat/template.c. */
#include "data/chat/glm_tools.h"

#include "data/chat/python_json.h"

/* ---- tools ---- */

/* For templates since GLM-5.1: the value of `function`, or the tool itself. */
static Err *function_of(JsonView tool, JsonView *function)
{
    *function = view_find(tool, "function");
    if (!function->at) *function = tool;
    if (view_is(*function, JSON_OBJECT)) return NULL;
    return err_new(ERR_DATA, "a tool is %s; expected an object", view_kind_name(*function));
}

/* Write a function as a line of JSON, without two of its keys; keys are written without escapes. */
static Err *function_line(Render *r, JsonView function)
{
    const char *begin = "{\"";
    for (JsonViewItem item = view_first(function); item.value.at; view_next(&item)) {
        if (view_equals(item.key, "defer_loading") || view_equals(item.key, "strict")) continue;
        render_put(r, begin);
        begin = ", \"";
        view_string(r->out, item.key);
        render_put(r, "\": ");
        TRY(python_json(r->out, item.value));
    }
    render_put(r, *begin == '{' ? "{}\n" : "}\n");
    return NULL;
}

static Err *tool_line(Render *r, JsonView tool)
{
    JsonView function, defer;
    if (!r->template->since_glm51) {
        TRY(python_json(r->out, tool));
        render_put(r, "\n");
        return NULL;
    }
    TRY(function_of(tool, &function));
    defer = view_find(function, "defer_loading");
    if (defer.at && !view_is(defer, JSON_BOOL) && !view_is(defer, JSON_NULL))
        return err_new(ERR_DATA, "defer_loading is %s; expected true or false", view_kind_name(defer));
    return view_is(defer, JSON_BOOL) && *defer.at == 't'
               ? NULL
               : function_line(r, function); /* a deferred tool is loaded by a reference */
}

Err *glm_tools(Render *r)
{
    JsonViewItem tool = view_first(r->tools);
    if (!tool.value.at) return NULL;
    render_put(r, "<|system|>\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
                  "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n");
    for (; tool.value.at; view_next(&tool)) TRY(err_wrap(tool_line(r, tool.value), "tools"));
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

static Err *put_string_result(Render *r, JsonView string)
{
    if (!view_is(string, JSON_STRING)) /* the templates would print its Python repr, or fail */
        return err_new(ERR_DATA,
                       "a part of a tool's content is neither a string nor an object with a string as output");
    text_clear(&r->content);
    view_string(&r->content, string);
    put_result(r, &r->content);
    return NULL;
}

/* The tools that a tool has found, one a line. */
static Err *put_references(Render *r, JsonView references)
{
    if (!r->tools.at) return err_new(ERR_DATA, "a tool_reference without tools");
    render_put(r, "<tool_response><tools>\n");
    for (JsonViewItem reference = view_first(references); reference.value.at; view_next(&reference)) {
        JsonView name = view_find(reference.value, "name"), function;
        if (!view_is(name, JSON_STRING))
            return err_new(ERR_DATA, "a tool_reference's name is %s; expected a string", view_kind_name(name));
        text_clear(&r->content);
        view_string(&r->content, name);
        TRY(text_error(&r->content));
        for (JsonViewItem tool = view_first(r->tools); tool.value.at; view_next(&tool)) {
            TRY(err_wrap(function_of(tool.value, &function), "tools"));
            if (view_equals(view_find(function, "name"), r->content.data)) TRY(function_line(r, function));
        }
    }
    render_put(r, "</tools></tool_response>");
    return NULL;
}

static Err *put_outputs(Render *r, JsonView content)
{
    for (JsonViewItem item = view_first(content); item.value.at; view_next(&item))
        TRY(put_string_result(r, view_is(item.value, JSON_STRING) && !r->template->since_glm51
                                     ? item.value
                                     : view_find(item.value, "output")));
    return NULL;
}

/* Up to GLM-5, each element of a list is a result of its own. */
static Err *result_before_glm51(Render *r, JsonView content, bool consecutive)
{
    if (content.at && !view_is(content, JSON_STRING) && !view_is(content, JSON_ARRAY))
        return err_new(ERR_DATA, "content is %s; expected a string or a list", view_kind_name(content));
    if (!consecutive || !view_is(content, JSON_STRING)) render_put(r, "<|observation|>");
    return view_is(content, JSON_STRING) ? put_string_result(r, content) : put_outputs(r, content);
}

/* Since GLM-5.1, the first element of a list decides what the list is. */
static Err *result_since_glm51(Render *r, JsonView content, bool consecutive)
{
    JsonView first = view_is(content, JSON_ARRAY) ? view_first(content).value : (JsonView){0};
    if (!consecutive) render_put(r, "<|observation|>");
    if (view_equals(view_find(first, "type"), "tool_reference")) return put_references(r, content);
    if (r->template->lists_outputs && view_find(first, "output").at) return put_outputs(r, content);
    text_clear(&r->content);
    TRY(render_visible(r, &r->content, content));
    put_result(r, &r->content);
    return NULL;
}

Err *glm_tool_result(Render *r, const ChatMessage *message)
{
    JsonView content = view_find(message->item.value, "content");
    bool consecutive = message->before == ROLE_TOOL;
    return r->template->since_glm51 ? result_since_glm51(r, content, consecutive)
                                    : result_before_glm51(r, content, consecutive);
}

/* ---- calls ---- */

static Err *put_call(Render *r, JsonView call)
{
    JsonView function = view_find(call, "function");
    if (view_first(function).value.at) call = function; /* a call may be wrapped in `function` */
    JsonView name = view_find(call, "name"), arguments = view_find(call, "arguments");
    if (!view_is(name, JSON_STRING)) return err_new(ERR_DATA, "name is %s; expected a string", view_kind_name(name));
    TRY(render_unwrap(&arguments, JSON_OBJECT, "arguments", &r->call_arguments));
    render_put(r, r->template->nl);
    render_put(r, "<tool_call>");
    view_string(r->out, name);
    render_put(r, r->template->nl);
    for (JsonViewItem argument = view_first(arguments); argument.value.at; view_next(&argument)) {
        render_put(r, "<arg_key>");
        view_string(r->out, argument.key);
        render_put(r, "</arg_key>");
        render_put(r, r->template->nl);
        render_put(r, "<arg_value>");
        if (view_kind(argument.value) == JSON_STRING)
            view_string(r->out, argument.value);
        else
            TRY(python_json(r->out, argument.value));
        render_put(r, "</arg_value>");
        render_put(r, r->template->nl);
    }
    render_put(r, "</tool_call>");
    text_clear(&r->content); /* r->content is free again; python_json only checks here that no key appears twice */
    return python_json(&r->content, arguments);
}

Err *glm_tool_calls(Render *r, JsonView message)
{
    JsonView calls = view_find(message, "tool_calls");
    if (calls.at && view_kind(calls) != JSON_ARRAY && view_kind(calls) != JSON_NULL)
        return err_new(ERR_DATA, "tool_calls is %s; expected an array", view_kind_name(calls));
    for (JsonViewItem call = view_first(calls); call.value.at; view_next(&call))
        TRY(err_wrap(put_call(r, call.value), "tool_calls"));
    return NULL;
}
