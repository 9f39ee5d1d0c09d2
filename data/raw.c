#include "data/raw.h"

#include "base/memory.h"
#include "data/unicode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 200 };

/* ---- the check ---- */

typedef struct {
    const char *text, *at, *end;
    const char *expected; /* set by the first failure */
} Scan;

static bool fail(Scan *s, const char *expected)
{
    if (!s->expected) s->expected = expected;
    return false;
}

static const char *skip_space(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) at++;
    return at;
}

static int hex(const char *at, const char *end)
{
    int value = 0;
    if (end - at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        static const char digits[] = "0123456789abcdef";
        const char *digit = at[i] ? strchr(digits, at[i] >= 'A' && at[i] <= 'F' ? at[i] + 32 : at[i]) : NULL;
        if (!digit) return -1;
        value = value << 4 | (int)(digit - digits);
    }
    return value;
}

static bool check_escape(Scan *s) /* at the character after the backslash */
{
    if (s->at == s->end) return fail(s, "an escape");
    char c = *s->at++;
    if (c != 'u') return strchr("\"\\/bfnrt", c) && c ? true : fail(s, "an escape");
    int unit = hex(s->at, s->end);
    if (unit < 0) return fail(s, "four hexadecimal digits");
    s->at += 4;
    if (unit < 0xD800 || unit > 0xDFFF) return true;
    int low = s->end - s->at >= 6 && s->at[0] == '\\' && s->at[1] == 'u' ? hex(s->at + 2, s->end) : -1;
    if (unit > 0xDBFF || low < 0xDC00 || low > 0xDFFF) return fail(s, "the other half of a surrogate pair");
    s->at += 6;
    return true;
}

static bool check_string(Scan *s)
{
    for (s->at++; s->at < s->end;) {
        unsigned char c = (unsigned char)*s->at;
        if (c == '"') {
            s->at++;
            return true;
        }
        if (c == '\\') {
            s->at++;
            if (!check_escape(s)) return false;
        } else if (c < 0x20) {
            return fail(s, "a control character to be escaped");
        } else if (c < 0x80) {
            s->at++;
        } else {
            uint32_t code;
            size_t length = unicode_next(s->at, (size_t)(s->end - s->at), &code);
            if (code >= UNICODE_BROKEN) return fail(s, "valid UTF-8");
            s->at += length;
        }
    }
    return fail(s, "the end of a string");
}

static bool check_digits(Scan *s)
{
    const char *from = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9') s->at++;
    return s->at > from ? true : fail(s, "a digit");
}

static bool check_number(Scan *s)
{
    if (*s->at == '-') s->at++;
    if (s->at < s->end && *s->at == '0') s->at++;
    else if (!check_digits(s)) return false;
    if (s->at < s->end && *s->at == '.') {
        s->at++;
        if (!check_digits(s)) return false;
    }
    if (s->at < s->end && (*s->at == 'e' || *s->at == 'E')) {
        s->at++;
        if (s->at < s->end && (*s->at == '+' || *s->at == '-')) s->at++;
        if (!check_digits(s)) return false;
    }
    return true;
}

static bool check_word(Scan *s, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n)) return fail(s, "a value");
    s->at += n;
    return true;
}

static bool check_value(Scan *s, int depth);

static bool check_container(Scan *s, int depth, char close)
{
    if (depth == MAX_DEPTH) return fail(s, "no more than 200 levels");
    s->at = skip_space(s->at + 1, s->end);
    if (s->at < s->end && *s->at == close) {
        s->at++;
        return true;
    }
    for (;;) {
        if (close == '}') {
            if (s->at == s->end || *s->at != '"') return fail(s, "a key in quotes");
            if (!check_string(s)) return false;
            s->at = skip_space(s->at, s->end);
            if (s->at == s->end || *s->at != ':') return fail(s, "a colon");
            s->at++;
        }
        s->at = skip_space(s->at, s->end);
        if (!check_value(s, depth + 1)) return false;
        s->at = skip_space(s->at, s->end);
        char c = s->at < s->end ? *s->at : 0;
        if (c != ',' && c != close) return fail(s, close == '}' ? "a comma or }" : "a comma or ]");
        s->at++;
        if (c == close) return true;
        s->at = skip_space(s->at, s->end);
    }
}

static bool check_value(Scan *s, int depth)
{
    if (s->at == s->end) return fail(s, "a value");
    switch (*s->at) {
    case '{': return check_container(s, depth, '}');
    case '[': return check_container(s, depth, ']');
    case '"': return check_string(s);
    case 't': return check_word(s, "true");
    case 'f': return check_word(s, "false");
    case 'n': return check_word(s, "null");
    default:
        if (*s->at != '-' && (*s->at < '0' || *s->at > '9')) return fail(s, "a value");
        return check_number(s);
    }
}

static Err *scan_error(const Scan *s)
{
    size_t line = 1, column = 1;
    for (const char *c = s->text; c < s->at; c++) {
        column++;
        if (*c == '\n') {
            line++;
            column = 1;
        }
    }
    if (s->at == s->end)
        return err_new(ERR_FORMAT, "not valid JSON: ends at line %zu, column %zu; expected %s", line, column,
                       s->expected);
    unsigned char c = (unsigned char)*s->at;
    char seen[16];
    snprintf(seen, sizeof seen, c > 0x20 && c < 0x7F ? "'%c'" : "byte 0x%02X", c);
    return err_new(ERR_FORMAT, "not valid JSON at line %zu, column %zu: %s; expected %s", line, column, seen,
                   s->expected);
}

Err *raw_open(Raw *value, const char *text, size_t bytes)
{
    Scan s = {text, skip_space(text, text + bytes), text + bytes, NULL};
    *value = (Raw){s.at, 0};
    if (!check_value(&s, 0)) return scan_error(&s);
    value->bytes = (size_t)(s.at - value->at);
    s.at = skip_space(s.at, s.end);
    if (s.at == s.end) return NULL;
    s.expected = "nothing after the value";
    return scan_error(&s);
}

/* ---- walking ---- */

JsonKind raw_kind(Raw value)
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

const char *raw_kind_name(Raw value)
{
    static const char *const names[] = {"null", "true or false", "a number", "a string", "an array", "an object"};
    return value.at ? names[raw_kind(value)] : "nothing";
}

bool raw_is(Raw value, JsonKind kind) { return value.at && raw_kind(value) == kind; }

static const char *after_string(const char *at) /* at the opening quote */
{
    for (at++; *at != '"'; at++)
        if (*at == '\\') at++;
    return at + 1;
}

static const char *after_container(const char *at) /* at the opening bracket */
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

static void read_item(RawItem *item, bool keyed) /* rest is at a member, at an element, or at the closing bracket */
{
    const char *at = skip_space(item->rest, item->end);
    item->key = item->value = (Raw){0};
    if (*at == '}' || *at == ']') return;
    if (keyed) {
        item->key.at = at;
        at = after_string(at);
        item->key.bytes = (size_t)(at - item->key.at);
        at = skip_space(skip_space(at, item->end) + 1, item->end);
    }
    item->value.at = at;
    at = after_value(at, item->end);
    item->value.bytes = (size_t)(at - item->value.at);
    item->rest = at;
}

RawItem raw_first(Raw container)
{
    RawItem item = {0};
    JsonKind kind = raw_kind(container);
    if (kind != JSON_OBJECT && kind != JSON_ARRAY) return item;
    item.rest = container.at + 1;
    item.end = container.at + container.bytes;
    read_item(&item, kind == JSON_OBJECT);
    return item;
}

void raw_next(RawItem *item)
{
    bool keyed = item->key.at;
    const char *at = skip_space(item->rest, item->end);
    item->rest = *at == ',' ? at + 1 : at;
    read_item(item, keyed);
}

void raw_find_all(Raw object, size_t n, const char *const keys[], Raw values[])
{
    for (size_t i = 0; i < n; i++) values[i] = (Raw){0};
    if (!raw_is(object, JSON_OBJECT)) return;
    for (RawItem item = raw_first(object); item.value.at; raw_next(&item))
        for (size_t i = 0; i < n; i++)
            if (raw_equals(item.key, keys[i])) values[i] = item.value;
}

Raw raw_find(Raw object, const char *key)
{
    Raw found;
    raw_find_all(object, 1, &key, &found);
    return found;
}

/* ---- strings ---- */

/* The character of an escape (at the one after the backslash) as UTF-8 in out; returns where the text goes on. */
static const char *unescape(const char *at, const char *end, char out[4], size_t *n)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    const char *simple = strchr(from, *at);
    *n = 1;
    if (*at != 'u') {
        out[0] = simple ? to[simple - from] : *at;
        return at + 1;
    }
    uint32_t code = (uint32_t)hex(at + 1, end);
    at += 5;
    if (code >= 0xD800 && code < 0xDC00) {
        code = 0x10000 + ((code - 0xD800) << 10) + ((uint32_t)hex(at + 2, end) - 0xDC00);
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

void raw_string(Text *out, Raw string)
{
    const char *at = string.at + 1, *end = string.at + string.bytes - 1;
    text_add(out, "", 0);
    while (at < end) {
        const char *escape = memchr(at, '\\', (size_t)(end - at));
        text_add(out, at, (size_t)((escape ? escape : end) - at));
        if (!escape) break;
        char c[4];
        size_t n;
        at = unescape(escape + 1, end, c, &n);
        text_add(out, c, n);
    }
}

bool raw_equals(Raw string, const char *text)
{
    if (!raw_is(string, JSON_STRING)) return false;
    const char *at = string.at + 1, *end = string.at + string.bytes - 1;
    size_t left = strlen(text);
    while (at < end) {
        char c[4] = {*at};
        size_t n = 1;
        at = *at == '\\' ? unescape(at + 1, end, c, &n) : at + 1;
        if (n > left || memcmp(c, text, n)) return false;
        text += n;
        left -= n;
    }
    return left == 0;
}

/* ---- as Python writes it ---- */

/* Python's repr of a float: the shortest digits that give the number back, as an ordinary decimal when the exponent is
 * -4 to 15. Nearest digits are tried first; at a power of two the numbers below lie closer together than those above,
 * so the next digits up may give it back when the nearest do not.   Source: CPython, Python/pystrtod.c, format 'r'. */
static void python_float(Text *out, double x)
{
    if (isinf(x)) {
        text_put(out, x < 0 ? "-Infinity" : "Infinity");
        return;
    }
    char e[40], d[20] = "0";
    int precision = 0;
    for (; precision < 17; precision++) {
        snprintf(e, sizeof e, "%.*e", precision, x);
        if (strtod(e, NULL) == x) break;
        char *last = strchr(e, 'e') - 1;
        if (*last == '9') continue; /* the carry would be a shorter number, tried before */
        ++*last;
        if (strtod(e, NULL) == x) break;
    }
    size_t n = 0;
    const char *c = e;
    if (*c == '-') {
        text_put(out, "-");
        c++;
    }
    for (; *c != 'e'; c++)
        if (*c != '.') d[n++] = *c;
    while (n > 1 && d[n - 1] == '0') n--;
    int exponent = atoi(c + 1);
    if (exponent < -4 || exponent >= 16) {
        text_add(out, d, 1);
        if (n > 1) {
            text_put(out, ".");
            text_add(out, d + 1, n - 1);
        }
        snprintf(e, sizeof e, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        text_put(out, e);
    } else if (exponent < 0) {
        text_add(out, "0.0000", (size_t)(1 - exponent));
        text_add(out, d, n);
    } else {
        for (size_t i = 0; i < n || i <= (size_t)exponent + 1; i++) {
            if (i == (size_t)exponent + 1) text_put(out, ".");
            text_add(out, i < n ? d + i : "0", 1);
        }
    }
}

static void python_number(Text *out, Raw value)
{
    bool is_float = false;
    for (size_t i = 0; i < value.bytes; i++) is_float |= strchr(".eE", value.at[i]) != NULL;
    if (!is_float) {
        bool minus_zero = value.bytes == 2 && !memcmp(value.at, "-0", 2);
        text_add(out, value.at + minus_zero, value.bytes - minus_zero);
        return;
    }
    Text digits_of = {0}; /* strtod wants an end */
    text_add(&digits_of, value.at, value.bytes);
    if (digits_of.failed) out->failed = true;
    else python_float(out, strtod(digits_of.data, NULL));
    text_free(&digits_of);
}

static void python_string(Text *out, Raw string)
{
    const char *at = string.at + 1, *end = string.at + string.bytes - 1;
    text_put(out, "\"");
    while (at < end) {
        char c[4] = {*at}, u[8];
        size_t n = 1;
        at = *at == '\\' ? unescape(at + 1, end, c, &n) : at + 1;
        const char *letter = n == 1 && c[0] ? strchr("\"\\\b\f\n\r\t", c[0]) : NULL;
        if (letter) {
            static const char *const escapes[] = {"\\\"", "\\\\", "\\b", "\\f", "\\n", "\\r", "\\t"};
            text_put(out, escapes[letter - strchr("\"\\\b\f\n\r\t", '"')]);
        } else if (n == 1 && (unsigned char)c[0] < 0x20) {
            snprintf(u, sizeof u, "\\u%04x", (unsigned)c[0]);
            text_put(out, u);
        } else {
            text_add(out, c, n);
        }
    }
    text_put(out, "\"");
}

typedef struct {
    const char *text; /* the whole output; spans stay right when it moves, so this is set before sorting */
    size_t begin, n;
} Key;

static int compare_keys(const void *a, const void *b)
{
    const Key *x = a, *y = b;
    int order = memcmp(x->text + x->begin, y->text + y->begin, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static Err *check_keys(const Text *out, Key *keys, size_t n)
{
    if (out->failed) return NULL; /* text_error tells it */
    for (size_t i = 0; i < n; i++) keys[i].text = out->data;
    if (n > 1) qsort(keys, n, sizeof *keys, compare_keys);
    for (size_t i = 1; i < n; i++)
        if (!compare_keys(&keys[i - 1], &keys[i]))
            return err_new(ERR_DATA, "key %.*s appears twice in an object", keys[i].n < 60 ? (int)keys[i].n : 60,
                           out->data + keys[i].begin);
    return NULL;
}

static Err *python_container(Text *out, Raw value)
{
    bool object = raw_kind(value) == JSON_OBJECT;
    Key *keys = NULL;
    size_t n = 0, capacity = 0;
    Err *err = NULL;
    text_put(out, object ? "{" : "[");
    for (RawItem item = raw_first(value); item.value.at && !err; raw_next(&item), n++) {
        if (n) text_put(out, ", ");
        if (object) {
            if ((err = mem_grow(&keys, &capacity, n + 1, sizeof *keys))) break;
            keys[n].begin = out->n;
            python_string(out, item.key);
            keys[n].n = out->n - keys[n].begin;
            text_put(out, ": ");
        }
        err = raw_python(out, item.value);
    }
    text_put(out, object ? "}" : "]");
    if (!err && object) err = check_keys(out, keys, n);
    free(keys);
    return err;
}

Err *raw_python(Text *out, Raw value)
{
    switch (raw_kind(value)) {
    case JSON_OBJECT:
    case JSON_ARRAY: TRY(python_container(out, value)); break;
    case JSON_STRING: python_string(out, value); break;
    case JSON_NUMBER: python_number(out, value); break;
    default: text_add(out, value.at, value.bytes);
    }
    return text_error(out);
}
