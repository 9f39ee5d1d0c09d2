/* Views of JSON text that json_check has accepted. Nothing is checked again here: brackets match, strings end, escapes
 * are complete. Containers are skipped by counting brackets outside strings. */
#include "data/text/json_view.h"

#include "data/text/json_check.h"

#include <stdint.h>
#include <string.h>

Err *view_open(JsonView *value, const char *text, size_t bytes)
{
    const char *end;
    *value = (JsonView){0};
    TRY(json_check(text, bytes, &value->at, &end));
    value->bytes = (size_t)(end - value->at);
    return NULL;
}

/* ---- values and items ---- */

JsonKind view_kind(JsonView value)
{
    switch (value.at ? *value.at : 'n') {
    case '{': return JSON_OBJECT;
    case '[': return JSON_ARRAY;
    case '"': return JSON_STRING;
    case 't':
    case 'f': return JSON_BOOL;
    case 'n': return JSON_NULL;
    default: return JSON_NUMBER;
    }
}

const char *view_kind_name(JsonView value)
{
    static const char *const names[] = {"null", "true or false", "a number", "a string", "an array", "an object"};
    return value.at ? names[view_kind(value)] : "nothing";
}

bool view_is(JsonView value, JsonKind kind) { return value.at && view_kind(value) == kind; }

static const char *after_string(const char *at) /* at: the opening quote */
{
    for (at++; *at != '"'; at++)
        if (*at == '\\') at++;
    return at + 1;
}

static const char *after_container(const char *at) /* at: the opening bracket */
{
    static const signed char turns[256] = {['"'] = 2, ['{'] = 1, ['['] = 1, ['}'] = -1, [']'] = -1};
    int depth = 0;
    do {
        signed char turn;
        while (!(turn = turns[(unsigned char)*at])) at++;
        if (turn == 2) {
            at = after_string(at);
        } else {
            depth += turn;
            at++;
        }
    } while (depth);
    return at;
}

static const char *after_value(const char *at, const char *end)
{
    if (*at == '"') return after_string(at);
    if (*at == '{' || *at == '[') return after_container(at);
    while (at < end && !strchr(",]} \t\r\n", *at)) at++;
    return at;
}

static void read_item(JsonViewItem *item, bool keyed) /* item->rest: a member, an element or the closing bracket */
{
    const char *at = json_check_skip_space(item->rest, item->end);
    item->key = item->value = (JsonView){0};
    if (*at == '}' || *at == ']') return;
    if (keyed) {
        item->key.at = at;
        at = after_string(at);
        item->key.bytes = (size_t)(at - item->key.at);
        at = json_check_skip_space(json_check_skip_space(at, item->end) + 1, item->end);
    }
    item->value.at = at;
    at = after_value(at, item->end);
    item->value.bytes = (size_t)(at - item->value.at);
    item->rest = at;
}

JsonViewItem view_first(JsonView container)
{
    JsonViewItem item = {0};
    JsonKind kind = view_kind(container);
    if (kind != JSON_OBJECT && kind != JSON_ARRAY) return item;
    item.rest = container.at + 1;
    item.end = container.at + container.bytes;
    read_item(&item, kind == JSON_OBJECT);
    return item;
}

void view_next(JsonViewItem *item)
{
    bool keyed = item->key.at;
    const char *at = json_check_skip_space(item->rest, item->end);
    item->rest = *at == ',' ? at + 1 : at;
    read_item(item, keyed);
}

void view_find_all(JsonView object, size_t n, const char *const keys[], JsonView values[])
{
    for (size_t i = 0; i < n; i++) values[i] = (JsonView){0};
    if (!view_is(object, JSON_OBJECT)) return;
    for (JsonViewItem item = view_first(object); item.value.at; view_next(&item))
        for (size_t i = 0; i < n; i++)
            if (view_equals(item.key, keys[i])) values[i] = item.value;
}

JsonView view_find(JsonView object, const char *key)
{
    JsonView found;
    view_find_all(object, 1, &key, &found);
    return found;
}

/* ---- strings ---- */

/* Write the character of an escape as UTF-8 to out[0 .. *n). `at` is the character after the backslash. Returns the
 * position behind the escape. */
static const char *unescape(const char *at, const char *end, char out[4], size_t *n)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    const char *simple = strchr(from, *at);
    *n = 1;
    if (*at != 'u') {
        out[0] = simple ? to[simple - from] : *at;
        return at + 1;
    }
    uint32_t code = (uint32_t)json_check_hex(at + 1, end);
    at += 5;
    if (code >= 0xD800 && code < 0xDC00) {
        code = 0x10000 + ((code - 0xD800) << 10) + ((uint32_t)json_check_hex(at + 2, end) - 0xDC00);
        at += 6;
    }
    if (code < 0x80) {
        out[0] = (char)code;
    } else if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        *n = 2;
    } else if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        *n = 3;
    } else {
        out[0] = (char)(0xF0 | code >> 18);
        out[1] = (char)(0x80 | (code >> 12 & 0x3F));
        out[2] = (char)(0x80 | (code >> 6 & 0x3F));
        out[3] = (char)(0x80 | (code & 0x3F));
        *n = 4;
    }
    return at;
}

const char *view_character(const char *at, const char *end, char c[4], size_t *n)
{
    if (*at == '\\') return unescape(at + 1, end, c, n);
    *c = *at;
    *n = 1;
    return at + 1;
}

void view_string(Text *out, JsonView string)
{
    const char *at = string.at + 1, *end = string.at + string.bytes - 1;
    text_add(out, "", 0);
    while (at < end) {
        const char *escape = memchr(at, '\\', (size_t)(end - at));
        text_add(out, at, (size_t)((escape ? escape : end) - at));
        if (!escape) break;
        char c[4];
        size_t n;
        at = view_character(escape, end, c, &n);
        text_add(out, c, n);
    }
}

bool view_equals(JsonView string, const char *text)
{
    if (!view_is(string, JSON_STRING)) return false;
    const char *at = string.at + 1, *end = string.at + string.bytes - 1;
    size_t left = strlen(text);
    while (at < end) {
        char c[4];
        size_t n;
        at = view_character(at, end, c, &n);
        if (n > left || memcmp(c, text, n)) return false;
        text += n;
        left -= n;
    }
    return left == 0;
}
