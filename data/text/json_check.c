/* A recursive-descent parser of RFC 8259 that only checks. A check_* function moves `at` behind what it has checked;
 * when it fails, `at` stays at the byte that is wrong, from which the error's line and column are counted.
 *
 * Source: RFC 8259. */
#include "data/text/json_check.h"

#include "data/text/unicode.h"

#include <stdio.h>
#include <string.h>

enum { MAX_DEPTH = 200 };

typedef struct {
    const char *text, *at, *end;
    const char *expected; /* what the first failure expected; NULL: no failure yet */
} JsonScan;

static bool fail(JsonScan *s, const char *expected)
{
    if (!s->expected) s->expected = expected;
    return false;
}

const char *json_check_skip_space(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) at++;
    return at;
}

int json_check_hex(const char *at, const char *end)
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

static bool check_escape(JsonScan *s) /* s->at: the character after the backslash */
{
    if (s->at == s->end) return fail(s, "an escape");
    char c = *s->at++;
    if (c != 'u') return strchr("\"\\/bfnrt", c) && c ? true : fail(s, "an escape");
    int unit = json_check_hex(s->at, s->end);
    if (unit < 0) return fail(s, "four hexadecimal digits");
    s->at += 4;
    if (unit < 0xD800 || unit > 0xDFFF) return true;
    int low = s->end - s->at >= 6 && s->at[0] == '\\' && s->at[1] == 'u' ? json_check_hex(s->at + 2, s->end) : -1;
    if (unit > 0xDBFF || low < 0xDC00 || low > 0xDFFF) return fail(s, "the other half of a surrogate pair");
    s->at += 6;
    return true;
}

static bool check_string(JsonScan *s)
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

static bool check_digits(JsonScan *s)
{
    const char *from = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9') s->at++;
    return s->at > from ? true : fail(s, "a digit");
}

static bool check_number(JsonScan *s)
{
    if (*s->at == '-') s->at++;
    if (s->at < s->end && *s->at == '0')
        s->at++;
    else if (!check_digits(s))
        return false;
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

static bool check_word(JsonScan *s, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n)) return fail(s, "a value");
    s->at += n;
    return true;
}

static bool check_value(JsonScan *s, int depth);

static bool check_container(JsonScan *s, int depth, char close)
{
    if (depth == MAX_DEPTH) return fail(s, "no more than 200 levels");
    s->at = json_check_skip_space(s->at + 1, s->end);
    if (s->at < s->end && *s->at == close) {
        s->at++;
        return true;
    }
    for (;;) {
        if (close == '}') {
            if (s->at == s->end || *s->at != '"') return fail(s, "a key in quotes");
            if (!check_string(s)) return false;
            s->at = json_check_skip_space(s->at, s->end);
            if (s->at == s->end || *s->at != ':') return fail(s, "a colon");
            s->at++;
        }
        s->at = json_check_skip_space(s->at, s->end);
        if (!check_value(s, depth + 1)) return false;
        s->at = json_check_skip_space(s->at, s->end);
        char c = s->at < s->end ? *s->at : 0;
        if (c != ',' && c != close) return fail(s, close == '}' ? "a comma or }" : "a comma or ]");
        s->at++;
        if (c == close) return true;
        s->at = json_check_skip_space(s->at, s->end);
    }
}

static bool check_value(JsonScan *s, int depth)
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

static Err *scan_error(const JsonScan *s)
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

Err *json_check(const char *text, size_t bytes, const char **begin, const char **end)
{
    JsonScan s = {text, json_check_skip_space(text, text + bytes), text + bytes, NULL};
    *begin = s.at;
    if (!check_value(&s, 0)) return scan_error(&s);
    *end = s.at;
    s.at = json_check_skip_space(s.at, s.end);
    if (s.at == s.end) return NULL;
    s.expected = "nothing after the value";
    return scan_error(&s);
}
