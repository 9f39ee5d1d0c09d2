/* json.dumps with Python's defaults: ", " and ": " as separators, keys in their order, characters above ASCII as they
 * are. A key that appears twice is refused, because Python would have kept only the last one. */
#include "data/chat/python_json.h"

#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Python's repr of a float: the shortest digits that give the number back, as an ordinary decimal when the exponent is
 * -4 to 15. The nearest digits are tried first. At a power of two the numbers below lie closer together than those
 * above, so the next higher digits may give the number back when the nearest do not.   Source: CPython,
 * Python/pystrtod.c, format 'r'. */
static void put_float(Text *out, double x)
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
        if (*last == '9') continue; /* with the carry it is a shorter number, which was tried before */
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

static void put_number(Text *out, JsonView value)
{
    bool is_float = false;
    for (size_t i = 0; i < value.bytes; i++) is_float |= strchr(".eE", value.at[i]) != NULL;
    if (!is_float) {
        bool minus_zero = value.bytes == 2 && !memcmp(value.at, "-0", 2);
        text_add(out, value.at + minus_zero, value.bytes - minus_zero);
        return;
    }
    Text digits_of = {0}; /* strtod needs a zero byte at the end */
    text_add(&digits_of, value.at, value.bytes);
    if (digits_of.failed)
        out->failed = true;
    else
        put_float(out, strtod(digits_of.data, NULL));
    text_free(&digits_of);
}

static void put_string(Text *out, JsonView string)
{
    const char *at = string.at + 1, *end = string.at + string.bytes - 1;
    text_put(out, "\"");
    while (at < end) {
        char c[4], u[8];
        size_t n;
        at = view_character(at, end, c, &n);
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
    const char *text; /* the whole output, set only before sorting because it moves while it grows */
    size_t begin, n;
} ObjectKey;

static int compare_keys(const void *a, const void *b)
{
    const ObjectKey *x = a, *y = b;
    int order = memcmp(x->text + x->begin, y->text + y->begin, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static Err *check_keys(const Text *out, ObjectKey *keys, size_t n)
{
    if (out->failed) return NULL; /* text_error reports it */
    for (size_t i = 0; i < n; i++) keys[i].text = out->data;
    if (n > 1) qsort(keys, n, sizeof *keys, compare_keys);
    for (size_t i = 1; i < n; i++)
        if (!compare_keys(&keys[i - 1], &keys[i]))
            return err_new(ERR_DATA, "key %.*s appears twice in an object", keys[i].n < 60 ? (int)keys[i].n : 60,
                           out->data + keys[i].begin);
    return NULL;
}

static Err *put_container(Text *out, JsonView value)
{
    bool object = view_kind(value) == JSON_OBJECT;
    ObjectKey *keys = NULL;
    size_t n = 0, capacity = 0;
    Err *err = NULL;
    text_put(out, object ? "{" : "[");
    for (JsonViewItem item = view_first(value); item.value.at && !err; view_next(&item), n++) {
        if (n) text_put(out, ", ");
        if (object) {
            if ((err = mem_grow(&keys, &capacity, n + 1, sizeof *keys))) break;
            keys[n].begin = out->n;
            put_string(out, item.key);
            keys[n].n = out->n - keys[n].begin;
            text_put(out, ": ");
        }
        err = python_json(out, item.value);
    }
    text_put(out, object ? "}" : "]");
    if (!err && object) err = check_keys(out, keys, n);
    free(keys);
    return err;
}

Err *python_json(Text *out, JsonView value)
{
    switch (view_kind(value)) {
    case JSON_OBJECT:
    case JSON_ARRAY: TRY(put_container(out, value)); break;
    case JSON_STRING: put_string(out, value); break;
    case JSON_NUMBER: put_number(out, value); break;
    default: text_add(out, value.at, value.bytes);
    }
    return text_error(out);
}
