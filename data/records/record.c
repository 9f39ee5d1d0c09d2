/* Formats other than `messages` are rewritten as messages in JSON. Strings are copied with their quotes and escapes, so
 * nothing is decoded and encoded again, and the one reader of messages (data/chat/chat.c) checks the result. */
#include "data/records/record.h"

#include <string.h>

static const struct {
    const char *name, *keys[2];
} formats[RECORD_FORMATS] = {
    [RECORD_AUTO] = {"auto", {NULL}},
    [RECORD_MESSAGES] = {"messages", {"messages"}},
    [RECORD_SHAREGPT] = {"sharegpt", {"conversations"}},
    [RECORD_PROMPT_COMPLETION] = {"prompt_completion", {"prompt", "completion"}},
    [RECORD_ALPACA] = {"alpaca", {"instruction", "output"}},
    [RECORD_TEXT] = {"text", {"text"}},
    [RECORD_TOKENS] = {"tokens", {"input_ids"}},
};

const char *record_format_name(RecordFormat format) { return formats[format].name; }

RecordFormat record_format_of(const char *name)
{
    RecordFormat format = RECORD_AUTO;
    while (format < RECORD_FORMATS && strcmp(name, formats[format].name) != 0) format++;
    return format;
}

/* ---- which format ---- */

static JsonView find_member(JsonView object, const char *key) /* null counts as absent */
{
    JsonView value = view_find(object, key);
    return view_is(value, JSON_NULL) ? (JsonView){0} : value;
}

static bool fits(JsonView record, RecordFormat format)
{
    for (size_t i = 0; i < 2 && formats[format].keys[i]; i++)
        if (!find_member(record, formats[format].keys[i]).at) return false;
    return true;
}

static void put_keys(Text *out, RecordFormat format)
{
    text_put(out, formats[format].keys[0]);
    if (!formats[format].keys[1]) return;
    text_put(out, " with ");
    text_put(out, formats[format].keys[1]);
}

/* Describe what was seen: the first keys of the record. */
static void put_seen(Text *out, JsonView record)
{
    size_t n = 0;
    text_put(out, view_first(record).value.at ? "it has " : "it is empty");
    for (JsonViewItem item = view_first(record); item.value.at && n < 8; view_next(&item), n++) {
        text_put(out, n ? ", " : "");
        text_add(out, item.key.at, item.key.bytes < 60 ? item.key.bytes : 60);
        if (view_is(item.value, JSON_NULL)) text_put(out, " (null)");
    }
}

static Err *fits_none(JsonView record)
{
    Text seen = {0};
    put_seen(&seen, record);
    text_put(&seen, "; known are ");
    for (RecordFormat f = RECORD_MESSAGES; f < RECORD_FORMATS; f++) {
        text_put(&seen, f > RECORD_MESSAGES ? ", " : "");
        put_keys(&seen, f);
    }
    Err *err = text_error(&seen);
    if (!err) err = err_new(ERR_DATA, "the record fits no format: %s", seen.data);
    text_free(&seen);
    return err;
}

static Err *fits_two(RecordFormat a, RecordFormat b)
{
    Text seen = {0};
    put_keys(&seen, a);
    text_put(&seen, " (");
    text_put(&seen, formats[a].name);
    text_put(&seen, ") and ");
    put_keys(&seen, b);
    Err *err = text_error(&seen);
    if (!err)
        err = err_new(ERR_DATA, "the record fits two formats: it has %s (%s); say which with data_format", seen.data,
                      formats[b].name);
    text_free(&seen);
    return err;
}

static Err *recognise(JsonView record, RecordFormat expected, RecordFormat *format)
{
    *format = RECORD_AUTO;
    if (!view_is(record, JSON_OBJECT))
        return err_new(ERR_DATA, "the record is %s; expected an object", view_kind_name(record));
    for (RecordFormat f = RECORD_MESSAGES; f < RECORD_FORMATS; f++) {
        if (!fits(record, f) || (expected != RECORD_AUTO && f != expected)) continue;
        if (*format != RECORD_AUTO) return fits_two(*format, f);
        *format = f;
    }
    if (*format != RECORD_AUTO) return NULL;
    return expected == RECORD_AUTO ? fits_none(record)
                                   : err_wrap(fits_none(record), "data_format is %s", formats[expected].name);
}

/* ---- building messages ---- */

static Err *need_string(JsonView value, const char *what)
{
    return view_is(value, JSON_STRING) ? NULL
                                       : err_new(ERR_DATA, "%s is %s; expected a string", what, view_kind_name(value));
}

static void put_value(Text *out, JsonView value) { text_add(out, value.at, value.bytes); }

static void put_inside(Text *out, JsonView value)
{
    text_add(out, value.at + 1, value.bytes - 2);
} /* without quotes or brackets */

static void open_message(Text *out, const char *role)
{
    text_put(out, out->n > 1 ? ",{\"role\":\"" : "{\"role\":\"");
    text_put(out, role);
    text_put(out, "\",\"content\":");
}

static Err *put_message(Text *out, const char *role, JsonView content, const char *what)
{
    TRY(need_string(content, what));
    open_message(out, role);
    put_value(out, content);
    text_put(out, "}");
    return NULL;
}

static Err *finish_messages(Record *record)
{
    text_put(&record->built, "]");
    TRY(text_error(&record->built));
    return view_open(&record->messages, record->built.data, record->built.n);
}

/* ---- ShareGPT ---- */

static const char *role_of(JsonView from)
{
    static const char *const roles[][2] = {{"human", "user"},          {"user", "user"},         {"gpt", "assistant"},
                                           {"assistant", "assistant"}, {"chatgpt", "assistant"}, {"model", "assistant"},
                                           {"system", "system"},       {"observation", "tool"},  {"tool", "tool"},
                                           {"function_call", "calls"}};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (view_equals(from, roles[i][0])) return roles[i][1];
    return NULL;
}

/* A call, or a list of them, or a string that holds either. */
static Err *put_calls(Record *record, JsonView value)
{
    if (view_is(value, JSON_STRING)) {
        text_clear(&record->decoded);
        view_string(&record->decoded, value);
        TRY(text_error(&record->decoded));
        Err *err = view_open(&value, record->decoded.data, record->decoded.n);
        if (err) {
            Err *refused = err_new(ERR_DATA, "the value of function_call is a string that does not hold JSON: %s",
                                   err_message(err));
            err_free(err);
            return refused;
        }
    }
    if (!view_is(value, JSON_OBJECT) && !view_is(value, JSON_ARRAY))
        return err_new(ERR_DATA, "the value of function_call is %s; expected a call or a list of calls",
                       view_kind_name(value));
    open_message(&record->built, "assistant");
    text_put(&record->built, "\"\",\"tool_calls\":[");
    if (view_is(value, JSON_OBJECT))
        put_value(&record->built, value);
    else
        put_inside(&record->built, value);
    text_put(&record->built, "]}");
    return NULL;
}

static Err *put_turn(Record *record, JsonView turn)
{
    static const char *const keys[] = {"from", "value", "weight"};
    JsonView field[3];
    Text *out = &record->built;
    view_find_all(turn, 3, keys, field);
    if (!view_is(field[0], JSON_STRING))
        return err_new(ERR_DATA, "from is %s; expected a string", view_kind_name(field[0]));
    const char *role = role_of(field[0]);
    if (!role)
        return err_new(ERR_DATA, "from is %.*s; expected human, gpt, system, observation or function_call",
                       field[0].bytes < 40 ? (int)field[0].bytes : 40, field[0].at);
    if (strcmp(role, "calls") == 0)
        TRY(put_calls(record, field[1]));
    else
        TRY(put_message(out, role, field[1], "value"));
    if (!field[2].at || out->failed) return NULL;
    out->n--; /* the brace */
    text_put(out, ",\"weight\":");
    put_value(out, field[2]);
    text_put(out, "}");
    return NULL;
}

static Err *read_sharegpt(Record *record, JsonView object)
{
    JsonView turns = find_member(object, "conversations"), system = find_member(object, "system");
    size_t number = 1;
    if (!view_is(turns, JSON_ARRAY))
        return err_new(ERR_DATA, "conversations is %s; expected an array", view_kind_name(turns));
    JsonViewItem turn = view_first(turns);
    bool as_messages = view_find(turn.value, "role").at != NULL;
    text_put(&record->built, "[");
    if (system.at && system.bytes > 2) TRY(put_message(&record->built, "system", system, "system"));
    if (as_messages) {
        if (record->built.n > 1) text_put(&record->built, ",");
        put_inside(&record->built, turns);
    } else {
        for (; turn.value.at; view_next(&turn), number++)
            TRY(err_wrap(put_turn(record, turn.value), "turn %zu", number));
    }
    record->tools = find_member(object, "tools");
    return finish_messages(record);
}

/* ---- prompt and completion ---- */

static Err *read_plain_prompt(Record *record, JsonView prompt, JsonView completion)
{
    view_string(&record->text, prompt);
    record->context_bytes = record->text.n;
    view_string(&record->text, completion);
    return text_error(&record->text);
}

static Err *read_prompt_completion(Record *record, JsonView object, bool plain)
{
    JsonView prompt = find_member(object, "prompt"), completion = find_member(object, "completion");
    bool strings = view_is(prompt, JSON_STRING) && view_is(completion, JSON_STRING);
    if (!strings && !(view_is(prompt, JSON_ARRAY) && view_is(completion, JSON_ARRAY)))
        return err_new(ERR_DATA, "prompt is %s and completion is %s; expected two strings or two lists of messages",
                       view_kind_name(prompt), view_kind_name(completion));
    if (strings && plain) return read_plain_prompt(record, prompt, completion);
    text_put(&record->built, "[");
    if (strings) {
        TRY(put_message(&record->built, "user", prompt, "prompt"));
        TRY(put_message(&record->built, "assistant", completion, "completion"));
    } else {
        for (JsonViewItem m = view_first(prompt); m.value.at; view_next(&m)) record->context_messages++;
        put_inside(&record->built, prompt);
        if (record->context_messages && view_first(completion).value.at) text_put(&record->built, ",");
        put_inside(&record->built, completion);
    }
    record->tools = find_member(object, "tools");
    return finish_messages(record);
}

/* ---- Alpaca ---- */

static Err *put_history(Text *out, JsonView history)
{
    if (!view_is(history, JSON_ARRAY))
        return err_new(ERR_DATA, "history is %s; expected an array", view_kind_name(history));
    for (JsonViewItem exchange = view_first(history); exchange.value.at; view_next(&exchange)) {
        JsonViewItem side = view_first(exchange.value);
        if (!view_is(exchange.value, JSON_ARRAY))
            return err_new(ERR_DATA, "history holds %s; expected pairs", view_kind_name(exchange.value));
        TRY(put_message(out, "user", side.value, "a question in history"));
        view_next(&side);
        TRY(put_message(out, "assistant", side.value, "an answer in history"));
    }
    return NULL;
}

static Err *read_alpaca(Record *record, JsonView object)
{
    static const char *const keys[] = {"instruction", "input", "output", "system", "history"};
    JsonView field[5];
    Text *out = &record->built;
    for (size_t i = 0; i < 5; i++) field[i] = find_member(object, keys[i]);
    text_put(out, "[");
    if (field[3].at && field[3].bytes > 2) TRY(put_message(out, "system", field[3], "system"));
    if (field[4].at) TRY(put_history(out, field[4]));
    TRY(need_string(field[0], "instruction"));
    if (field[1].at) TRY(need_string(field[1], "input"));
    open_message(out, "user");
    text_put(out, "\"");
    put_inside(out, field[0]);
    if (field[1].bytes > 2) {
        if (field[0].bytes > 2) text_put(out, "\\n");
        put_inside(out, field[1]);
    }
    text_put(out, "\"}");
    TRY(put_message(out, "assistant", field[2], "output"));
    return finish_messages(record);
}

/* ---- what every format may have ---- */

static Err *read_switch(JsonView value, const char *key, ChatSwitch *to)
{
    if (!view_is(value, JSON_BOOL))
        return err_new(ERR_DATA, "chat_template_kwargs: %s is %s; expected true or false", key, view_kind_name(value));
    *to = *value.at == 't' ? CHAT_YES : CHAT_NO;
    return NULL;
}

static Err *read_keywords(Record *record, JsonView keywords)
{
    if (!keywords.at) return NULL;
    if (!view_is(keywords, JSON_OBJECT))
        return err_new(ERR_DATA, "chat_template_kwargs is %s; expected an object", view_kind_name(keywords));
    for (JsonViewItem item = view_first(keywords); item.value.at; view_next(&item)) {
        if (view_equals(item.key, "enable_thinking")) {
            TRY(read_switch(item.value, "enable_thinking", &record->enable_thinking));
        } else if (view_equals(item.key, "clear_thinking")) {
            TRY(read_switch(item.value, "clear_thinking", &record->clear_thinking));
        } else if (view_equals(item.key, "reasoning_effort")) {
            record->effort_given = true;
            record->effort_high = view_equals(item.value, "high");
        } else {
            return err_new(
                ERR_DATA,
                "chat_template_kwargs: %.*s is unknown; known are enable_thinking, clear_thinking and reasoning_effort",
                item.key.bytes < 60 ? (int)item.key.bytes : 60, item.key.at);
        }
    }
    return NULL;
}

static Err *read_as(Record *record, JsonView object, bool plain_prompts)
{
    switch (record->format) {
    case RECORD_SHAREGPT: return read_sharegpt(record, object);
    case RECORD_PROMPT_COMPLETION: return read_prompt_completion(record, object, plain_prompts);
    case RECORD_ALPACA: return read_alpaca(record, object);
    case RECORD_TEXT:
        TRY(need_string(find_member(object, "text"), "text"));
        view_string(&record->text, find_member(object, "text"));
        return text_error(&record->text);
    case RECORD_TOKENS:
        record->input_ids = find_member(object, "input_ids");
        record->labels = find_member(object, "labels");
        return NULL;
    default:
        record->messages = find_member(object, "messages");
        record->tools = find_member(object, "tools");
        return NULL;
    }
}

static void clear_record(Record *record)
{
    Text text = record->text, built = record->built, decoded = record->decoded;
    text_clear(&text);
    text_clear(&built);
    *record = (Record){.text = text, .built = built, .decoded = decoded};
}

/* An explanation for a file that is JSON, but not JSON Lines. */
static const char *hint(const char *line, size_t bytes)
{
    while (bytes && (*line == ' ' || *line == '\t')) {
        line++;
        bytes--;
    }
    if (bytes && *line == '[') return "; expected one record a line, without an array around them";
    return bytes && bytes < 3 && *line == '{' ? "; expected a whole record on each line" : "";
}

static Err *open_line(JsonView *object, const char *line, size_t bytes)
{
    static const char mark[] = "\xEF\xBB\xBF"; /* U+FEFF, which some editors write at the start of a file */
    if (bytes > 2 && !memcmp(line, mark, 3)) {
        line += 3;
        bytes -= 3;
    }
    Err *err = view_open(object, line, bytes);
    if (!err) return NULL;
    Err *refused = err_new(ERR_DATA, "%s%s", err_message(err),
                           hint(line, bytes)); /* ERR_DATA: the data is wrong, whatever kind the JSON reader reports */
    err_free(err);
    return refused;
}

Err *record_read(Record *record, const char *line, size_t bytes, RecordFormat expected, bool plain_prompts)
{
    JsonView object;
    clear_record(record);
    TRY(open_line(&object, line, bytes));
    TRY(recognise(object, expected, &record->format));
    TRY(read_keywords(record, find_member(object, "chat_template_kwargs")));
    record->domain = find_member(object, "domain");
    if (record->domain.at) TRY(need_string(record->domain, "domain"));
    return read_as(record, object, plain_prompts);
}

void record_free(Record *record)
{
    text_free(&record->text);
    text_free(&record->built);
    text_free(&record->decoded);
    *record = (Record){0};
}
