/* cJSON parses the text and holds the values; printing is done here, because cJSON's printer drops bits of some
 * numbers. Getters check the kind first. A number is an integer when it is whole and at most 2^53: a double holds
 * such a number exactly. */
#define _GNU_SOURCE
#include "base/json.h"

#include "base/file.h"
#include "base/memory.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static Err *syntax_error(const char *text, size_t bytes, const char *at)
{
    size_t offset = at && at >= text && at <= text + bytes ? (size_t)(at - text) : bytes;
    size_t line = 1, column = 1;
    for (size_t i = 0; i < offset; i++) {
        column++;
        if (text[i] == '\n') {
            line++;
            column = 1;
        }
    }
    return err_new(ERR_FORMAT, "not valid JSON at line %zu, column %zu", line, column);
}

Err *json_parse(Json **root, const char *text, size_t bytes)
{
    const char *end = NULL;
    *root = cJSON_ParseWithLengthOpts(text, bytes, &end, 0);
    if (!*root) return syntax_error(text, bytes, end ? end : cJSON_GetErrorPtr());
    while (end < text + bytes && (*end == ' ' || *end == '\n' || *end == '\r' || *end == '\t')) end++;
    if (end == text + bytes) return NULL;
    json_free(*root);
    *root = NULL;
    return err_wrap(syntax_error(text, bytes, end), "more text after the value");
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(json_key(*(const Json *const *)a), json_key(*(const Json *const *)b));
}

/* The members sorted by key, because the index of a large model has a hundred thousand of them. */
static Err *refuse_duplicate_members(const Json *object)
{
    const Json **members;
    size_t n = 0, count = json_count(object);
    if (count < 2) return NULL;
    TRY(mem_new(&members, count, sizeof *members));
    for (const Json *member = json_first(object); member; member = json_next(member)) members[n++] = member;
    qsort(members, n, sizeof *members, compare_keys);
    Err *err = NULL;
    for (size_t i = 1; i < n && !err; i++)
        if (compare_keys(&members[i - 1], &members[i]) == 0)
            err = err_new(ERR_FORMAT, "key %s stands twice in one object; keep one of them", json_key(members[i]));
    free(members);
    return err;
}

Err *json_refuse_duplicates(const Json *value)
{
    if (json_kind(value) == JSON_OBJECT) TRY(refuse_duplicate_members(value));
    for (const Json *inner = json_first(value); inner; inner = json_next(inner)) TRY(json_refuse_duplicates(inner));
    return NULL;
}

Err *json_read_file(Json **root, const char *path)
{
    char *text;
    size_t bytes;
    *root = NULL;
    TRY(file_read(&text, &bytes, path));
    Err *err = json_parse(root, text, bytes);
    free(text);
    if (!err && (err = json_refuse_duplicates(*root))) {
        json_free(*root);
        *root = NULL;
    }
    return err_wrap(err, "%s", path);
}

Err *json_read_lines(Json **array, const char *path)
{
    char *text;
    size_t bytes, number = 0;
    *array = NULL;
    TRY(file_read(&text, &bytes, path));
    Json *lines = json_new_array();
    Err *err = NULL;
    for (const char *at = text, *end = text + bytes; at < end && !err;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at)), *stop = newline ? newline : end;
        Json *line;
        number++;
        err = err_wrap(json_parse(&line, at, (size_t)(stop - at)), "%s: record %zu", path, number);
        if (!err) json_add(lines, NULL, line);
        at = newline ? newline + 1 : end;
    }
    free(text);
    if (err)
        json_free(lines);
    else
        *array = lines;
    return err;
}

bool json_line_is_blank(const char *line, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') return false;
    return true;
}

void json_free(Json *root) { cJSON_Delete(root); }

JsonKind json_kind(const Json *value)
{
    if (cJSON_IsObject(value)) return JSON_OBJECT;
    if (cJSON_IsArray(value)) return JSON_ARRAY;
    if (cJSON_IsString(value)) return JSON_STRING;
    if (cJSON_IsNumber(value)) return JSON_NUMBER;
    if (cJSON_IsBool(value)) return JSON_BOOL;
    return JSON_NULL;
}

const char *json_kind_name(const Json *value)
{
    static const char *const names[] = {"null", "true or false", "a number", "a string", "an array", "an object"};
    return names[json_kind(value)];
}

const Json *json_find(const Json *object, const char *key)
{
    return cJSON_IsObject(object) ? cJSON_GetObjectItemCaseSensitive(object, key) : NULL;
}

size_t json_count(const Json *container) { return (size_t)cJSON_GetArraySize(container); }

const Json *json_first(const Json *container)
{
    return cJSON_IsArray(container) || cJSON_IsObject(container) ? container->child : NULL;
}

const Json *json_next(const Json *value) { return value->next; }

const char *json_key(const Json *member) { return member->string ? member->string : ""; }

const char *json_string(const Json *value) { return value->valuestring; }

double json_number(const Json *value) { return value->valuedouble; }

bool json_bool(const Json *value) { return cJSON_IsTrue(value); }

static bool is_absent(const Json *value) { return !value || cJSON_IsNull(value); }

static Err *missing(const char *key, const char *expected)
{
    return err_new(ERR_FORMAT, "key %s is missing; expected %s", key, expected);
}

static Err *wrong(const char *key, const Json *found, const char *expected)
{
    return err_new(ERR_FORMAT, "key %s is %s; expected %s", key, json_kind_name(found), expected);
}

Err *json_to_int(const Json *value, const char *key, int64_t min, int64_t max, int64_t *out)
{
    if (!cJSON_IsNumber(value)) return wrong(key, value, "an integer");
    double number = value->valuedouble;
    if (number != floor(number) || fabs(number) > 9007199254740992.0)
        return err_new(ERR_FORMAT, "key %s is %.17g; expected an integer", key, number);
    if (number < (double)min || number > (double)max)
        return err_new(ERR_FORMAT, "key %s is %.17g; expected %lld to %lld", key, number, (long long)min,
                       (long long)max);
    *out = (int64_t)number;
    return NULL;
}

static Err *take_number(const Json *value, const char *key, double *out)
{
    if (!cJSON_IsNumber(value)) return wrong(key, value, "a number");
    if (!isfinite(value->valuedouble)) return err_new(ERR_FORMAT, "key %s is not finite", key);
    *out = value->valuedouble;
    return NULL;
}

static Err *take_bool(const Json *value, const char *key, bool *out)
{
    if (!cJSON_IsBool(value)) return wrong(key, value, "true or false");
    *out = cJSON_IsTrue(value);
    return NULL;
}

static Err *take_string(const Json *value, const char *key, const char **out)
{
    if (!cJSON_IsString(value)) return wrong(key, value, "a string");
    *out = value->valuestring;
    return NULL;
}

Err *json_get_int(const Json *object, const char *key, int64_t min, int64_t max, int64_t *out)
{
    const Json *value = json_find(object, key);
    return value ? json_to_int(value, key, min, max, out) : missing(key, "an integer");
}

Err *json_get_number(const Json *object, const char *key, double *out)
{
    const Json *value = json_find(object, key);
    return value ? take_number(value, key, out) : missing(key, "a number");
}

Err *json_get_bool(const Json *object, const char *key, bool *out)
{
    const Json *value = json_find(object, key);
    return value ? take_bool(value, key, out) : missing(key, "true or false");
}

Err *json_get_string(const Json *object, const char *key, const char **out)
{
    const Json *value = json_find(object, key);
    return value ? take_string(value, key, out) : missing(key, "a string");
}

Err *json_get_array(const Json *object, const char *key, const Json **out)
{
    *out = json_find(object, key);
    if (!*out) return missing(key, "an array");
    return cJSON_IsArray(*out) ? NULL : wrong(key, *out, "an array");
}

Err *json_get_object(const Json *object, const char *key, const Json **out)
{
    *out = json_find(object, key);
    if (!*out) return missing(key, "an object");
    return cJSON_IsObject(*out) ? NULL : wrong(key, *out, "an object");
}

Err *json_may_int(const Json *object, const char *key, int64_t min, int64_t max, int64_t *out)
{
    const Json *value = json_find(object, key);
    return is_absent(value) ? NULL : json_to_int(value, key, min, max, out);
}

Err *json_may_number(const Json *object, const char *key, double *out)
{
    const Json *value = json_find(object, key);
    return is_absent(value) ? NULL : take_number(value, key, out);
}

Err *json_may_bool(const Json *object, const char *key, bool *out)
{
    const Json *value = json_find(object, key);
    return is_absent(value) ? NULL : take_bool(value, key, out);
}

Err *json_may_string(const Json *object, const char *key, const char **out)
{
    const Json *value = json_find(object, key);
    return is_absent(value) ? NULL : take_string(value, key, out);
}

Json *json_new_object(void) { return cJSON_CreateObject(); }

Json *json_new_array(void) { return cJSON_CreateArray(); }

void json_add(Json *container, const char *key, Json *child)
{
    bool added = container && child &&
                 (key ? cJSON_AddItemToObject(container, key, child) : cJSON_AddItemToArray(container, child));
    if (!added) cJSON_Delete(child);
}

void json_add_string(Json *container, const char *key, const char *text)
{
    json_add(container, key, cJSON_CreateString(text));
}

void json_add_number(Json *container, const char *key, double number)
{
    json_add(container, key, cJSON_CreateNumber(number));
}

void json_add_bool(Json *container, const char *key, bool value) { json_add(container, key, cJSON_CreateBool(value)); }

void json_add_null(Json *container, const char *key) { json_add(container, key, cJSON_CreateNull()); }

void json_set(Json *object, const char *key, Json *child)
{
    if (json_find(object, key))
        cJSON_ReplaceItemInObjectCaseSensitive(object, key, child);
    else
        json_add(object, key, child);
}

void json_set_number(Json *object, const char *key, double number)
{
    json_set(object, key, cJSON_CreateNumber(number));
}

Json *json_duplicate(const Json *value) { return cJSON_Duplicate(value, 1); }

bool json_equal(const Json *a, const Json *b) { return cJSON_Compare(a, b, 1); }

/* ---- printing: cJSON's printer rounds a number to 15 digits when that changes it by less than one part in 2^52 --- */

/* The shortest text that reads back as the same number. Whole numbers have no exponent. */
static void print_number(FILE *out, double number)
{
    char text[40];
    if (!isfinite(number)) {
        fputs("null", out); /* JSON cannot express it */
    } else if (number == floor(number) && fabs(number) <= 9007199254740992.0) {
        fprintf(out, "%.0f", number);
    } else {
        for (int digits = 15; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, number);
            if (strtod(text, NULL) == number) break;
        }
        fputs(text, out);
    }
}

static void print_string(FILE *out, const char *text)
{
    static const char special[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    fputc('"', out);
    for (const char *c = text; *c; c++) {
        const char *at = strchr(special, *c);
        if (at)
            fprintf(out, "\\%c", letters[at - special]);
        else if ((unsigned char)*c < 0x20)
            fprintf(out, "\\u%04x", (unsigned)*c);
        else
            fputc(*c, out);
    }
    fputc('"', out);
}

static void print_break(FILE *out, int depth) /* depth < 0: everything on one line */
{
    if (depth >= 0) fprintf(out, "\n%*s", 2 * depth, "");
}

static void print_value(FILE *out, const Json *value, int depth)
{
    JsonKind kind = json_kind(value);
    int inside = depth < 0 ? depth : depth + 1;
    switch (kind) {
    case JSON_NULL: fputs("null", out); return;
    case JSON_BOOL: fputs(json_bool(value) ? "true" : "false", out); return;
    case JSON_NUMBER: print_number(out, value->valuedouble); return;
    case JSON_STRING: print_string(out, value->valuestring); return;
    case JSON_ARRAY:
    case JSON_OBJECT: break;
    }
    fputc(kind == JSON_ARRAY ? '[' : '{', out);
    for (const Json *item = value->child; item; item = item->next) {
        print_break(out, inside);
        if (kind == JSON_OBJECT) {
            print_string(out, json_key(item));
            fputs(depth < 0 ? ":" : ": ", out);
        }
        print_value(out, item, inside);
        if (item->next) fputc(',', out);
    }
    if (value->child) print_break(out, depth);
    fputc(kind == JSON_ARRAY ? ']' : '}', out);
}

Err *json_print(const Json *value, bool pretty, char **text)
{
    size_t bytes;
    *text = NULL;
    FILE *out = value ? open_memstream(text, &bytes) : NULL;
    if (!out) return err_new(ERR_MEMORY, "out of memory for JSON text");
    print_value(out, value, pretty ? 0 : -1);
    bool failed = ferror(out) != 0;
    if (!fclose(out) && !failed) return NULL;
    free(*text);
    *text = NULL;
    return err_new(ERR_MEMORY, "out of memory for JSON text");
}
