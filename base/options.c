/* Options are rows of a table; this file reads values into the fields that the rows point to, by offset and kind. Text
 * from the command line and JSON values go through the same checks: kind, range, choices. Presets are text and take the
 * same way as the command line. Texts, lists and JSON values are copies that the configuration owns.
 *
 * Nearest names: Levenshtein's edit distance, one row of the table at a time. */
#include "base/options.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/minmax.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void *field_of(void *config, const Option *option) { return (char *)config + option->offset; }
static const void *value_of(const void *config, const Option *option) { return (const char *)config + option->offset; }

/* ---- names ---------------------------------------------------------------------------------------------------- */

static size_t edit_distance(const char *a, const char *b)
{
    size_t n = strlen(b), row[128];
    if (n + 1 > sizeof row / sizeof *row) return SIZE_MAX;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 1; *a; a++, i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t change = diagonal + (*a != b[j - 1]), insert_or_delete = size_min(row[j], row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = size_min(change, insert_or_delete);
        }
    }
    return row[n];
}

const char *options_nearest(const char *word, const char *const *words)
{
    const char *best = NULL;
    size_t best_distance = strlen(word) / 2 + 1; /* a word of which more than half differs is not near */
    for (; *words; words++) {
        size_t d = edit_distance(word, *words);
        if (strstr(*words, word) && d > 2) d = 2;
        if (d < best_distance) {
            best_distance = d;
            best = *words;
        }
    }
    return best;
}

/* One line for a former name. Programs read their settings more than once; the line is printed once. */
static void hint_new_name(const Option *o, const char *dashes)
{
    static const Option *hinted;
    if (hinted != o) log_line("%s%s is called %s%s now; the old name still works", dashes, o->old, dashes, o->key);
    hinted = o;
}

/* The option of this name, new or old. dashes: printed before names in the hint. */
static const Option *find_option(const Option *table, const char *key, const char *dashes)
{
    for (const Option *o = table; o->key || o->help; o++) {
        if (!o->key) continue;
        if (strcmp(o->key, key) == 0) return o;
        if (!o->old || strcmp(o->old, key) != 0) continue;
        hint_new_name(o, dashes);
        return o;
    }
    return NULL;
}

static Err *unknown_option(const Option *table, const char *key)
{
    const char *names[512];
    size_t n = 0;
    for (const Option *o = table; o->key || o->help; o++)
        if (o->key && n < 511) names[n++] = o->key;
    names[n] = NULL;
    const char *near = options_nearest(key, names);
    if (near) return err_new(ERR_USAGE, "unknown option %s; did you mean %s?", key, near);
    return err_new(ERR_USAGE, "unknown option %s; --help lists all options", key);
}

/* ---- one value ------------------------------------------------------------------------------------------------ */

static Err *check_range(const Option *o, double number)
{
    if (o->min < o->max && !(number >= o->min && number <= o->max))
        return err_new(ERR_USAGE, "%s is %.10g; expected %.10g to %.10g", o->key, number, o->min, o->max);
    return NULL;
}

static Err *check_choice(const Option *o, const char *text)
{
    if (!o->choices) return NULL;
    for (const char *at = o->choices; *at; at += strspn(at, " ")) {
        size_t n = strcspn(at, " ");
        if (strlen(text) == n && memcmp(at, text, n) == 0) return NULL;
        at += n;
    }
    return err_new(ERR_USAGE, "%s is \"%s\"; expected one of: %s", o->key, text, o->choices);
}

static void text_list_free(TextList *list)
{
    for (size_t i = 0; i < list->count; i++) free(list->items[i]);
    free(list->items);
    *list = (TextList){0};
}

static Err *text_list_add(TextList *list, const char *text, size_t bytes)
{
    char **grown = realloc(list->items, (list->count + 1) * sizeof *grown);
    if (!grown) return err_new(ERR_MEMORY, "out of memory");
    list->items = grown;
    TRY(mem_copy_bytes(&grown[list->count], text, bytes));
    list->count++;
    return NULL;
}

static Err *set_number(void *field, const Option *o, double number)
{
    if (!isfinite(number)) return err_new(ERR_USAGE, "%s is not finite", o->key);
    TRY(check_range(o, number));
    if (o->kind == OPT_NUMBER) {
        *(double *)field = number;
        return NULL;
    }
    if (number != floor(number) || fabs(number) > 9007199254740992.0)
        return err_new(ERR_USAGE, "%s is %.10g; expected an integer", o->key, number);
    *(int64_t *)field = (int64_t)number;
    return NULL;
}

static Err *set_text(void *field, const Option *o, const char *text)
{
    TRY(check_choice(o, text));
    char *copy;
    TRY(mem_copy_text(&copy, text));
    free(*(char **)field);
    *(char **)field = copy;
    return NULL;
}

static Err *set_list(TextList *list, const char *text)
{
    text_list_free(list);
    while (*text) {
        size_t n = strcspn(text, ",");
        if (n) TRY(text_list_add(list, text, n));
        text += n + (text[n] == ',');
    }
    return NULL;
}

static Err *set_json(void *field, const char *text)
{
    Json *value = NULL, *holder = NULL;
    Err *err = json_parse(&value, text, strlen(text));
    if (err) { /* not JSON: a string */
        err_free(err);
        holder = json_new_array();
        json_add_string(holder, NULL, text);
        value = holder && json_first(holder) ? json_duplicate(json_first(holder)) : NULL;
        json_free(holder);
    } else if ((err = json_refuse_duplicates(value))) {
        json_free(value);
        return err;
    }
    if (!value) return err_new(ERR_MEMORY, "out of memory");
    json_free(*(Json **)field);
    *(Json **)field = value;
    return NULL;
}

/* Set an option from the command line's text. */
static Err *set_from_text(void *config, const Option *o, const char *text)
{
    if (o->refused) return err_new(ERR_USAGE, "%s is not supported: %s", o->key, o->refused);
    void *field = field_of(config, o);
    char *end = NULL;
    double number;
    switch (o->kind) {
    case OPT_INT:
    case OPT_NUMBER:
        errno = 0;
        number = strtod(text, &end);
        if (end == text || *end) return err_new(ERR_USAGE, "%s is \"%s\"; expected a number", o->key, text);
        return set_number(field, o, number);
    case OPT_FLAG:
        if (strcmp(text, "true") && strcmp(text, "false"))
            return err_new(ERR_USAGE, "%s is \"%s\"; expected true or false", o->key, text);
        *(bool *)field = text[0] == 't';
        return NULL;
    case OPT_TEXT: return set_text(field, o, text);
    case OPT_LIST: return set_list(field, text);
    case OPT_JSON: return set_json(field, text);
    }
    return NULL;
}

static Err *wrong_kind(const Option *o, const Json *value, const char *expected)
{
    return err_new(ERR_USAGE, "%s is %s; expected %s", o->key, json_kind_name(value), expected);
}

static Err *set_from_json(void *config, const Option *o, const Json *value)
{
    if (o->refused) return err_new(ERR_USAGE, "%s is not supported: %s", o->key, o->refused);
    void *field = field_of(config, o);
    JsonKind kind = json_kind(value);
    if (kind == JSON_NULL && o->kind != OPT_JSON) return o->preset ? set_from_text(config, o, o->preset) : NULL;
    switch (o->kind) {
    case OPT_INT:
    case OPT_NUMBER:
        return kind == JSON_NUMBER ? set_number(field, o, json_number(value)) : wrong_kind(o, value, "a number");
    case OPT_FLAG:
        if (kind != JSON_BOOL) return wrong_kind(o, value, "true or false");
        *(bool *)field = json_bool(value);
        return NULL;
    case OPT_TEXT:
        return kind == JSON_STRING ? set_text(field, o, json_string(value)) : wrong_kind(o, value, "a string");
    case OPT_LIST:
        if (kind == JSON_STRING) return set_list(field, json_string(value));
        if (kind != JSON_ARRAY) return wrong_kind(o, value, "an array of strings");
        text_list_free(field);
        for (const Json *item = json_first(value); item; item = json_next(item)) {
            if (json_kind(item) != JSON_STRING) return wrong_kind(o, item, "an array of strings");
            TRY(text_list_add(field, json_string(item), strlen(json_string(item))));
        }
        return NULL;
    case OPT_JSON: {
        Json *copy = kind == JSON_NULL ? NULL
                                       : json_duplicate(value); /* null: not given, as options_to_json writes it */
        if (!copy && kind != JSON_NULL) return err_new(ERR_MEMORY, "out of memory");
        json_free(*(Json **)field);
        *(Json **)field = copy;
        return NULL;
    }
    }
    return NULL;
}

/* ---- whole tables --------------------------------------------------------------------------------------------- */

Err *options_defaults(void *config, const Option *table)
{
    for (const Option *o = table; o->key || o->help; o++)
        if (o->key && o->preset) TRY(set_from_text(config, o, o->preset));
    return NULL;
}

Err *options_arguments(void *config, const Option *table, int argc, char **argv, const char **positional,
                       size_t max_positional, size_t *count)
{
    *count = 0;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (strncmp(word, "--", 2) != 0) {
            if (*count == max_positional) return err_new(ERR_USAGE, "unexpected argument %s", word);
            positional[(*count)++] = word;
            continue;
        }
        char key[128];
        size_t n = strcspn(word + 2, "=");
        if (n == 0 || n >= sizeof key) return err_new(ERR_USAGE, "unexpected argument %s", word);
        memcpy(key, word + 2, n);
        key[n] = 0;
        const Option *o = find_option(table, key, "--");
        if (!o) return unknown_option(table, key);
        const char *value = word[2 + n] == '=' ? word + 3 + n : NULL;
        if (!value && o->kind == OPT_FLAG) {
            bool given = i + 1 < argc && (!strcmp(argv[i + 1], "true") || !strcmp(argv[i + 1], "false"));
            value = given ? argv[++i] : "true";
        }
        if (!value && i + 1 >= argc) return err_new(ERR_USAGE, "--%s needs a value", key);
        TRY(set_from_text(config, o, value ? value : argv[++i]));
    }
    return NULL;
}

static Err *apply_object(void *config, const Option *table, const Json *object, const char *prefix)
{
    for (const Json *member = json_first(object); member; member = json_next(member)) {
        char key[128];
        int n = snprintf(key, sizeof key, "%s%s", prefix, json_key(member));
        if (n < 0 || n >= (int)sizeof key) return unknown_option(table, json_key(member));
        const Option *o = find_option(table, key, "");
        if (o) {
            TRY(set_from_json(config, o, member));
        } else if (json_kind(member) == JSON_OBJECT && n + 1 < (int)sizeof key) {
            key[n] = '.';
            key[n + 1] = 0;
            TRY(apply_object(config, table, member, key));
        } else {
            return unknown_option(table, key);
        }
    }
    return NULL;
}

Err *options_json(void *config, const Option *table, const Json *object, const char *where)
{
    if (json_kind(object) != JSON_OBJECT)
        return err_new(ERR_FORMAT, "%s: holds %s; expected an object of options", where, json_kind_name(object));
    return err_wrap(apply_object(config, table, object, ""), "%s", where);
}

Err *options_file(void *config, const Option *table, const char *path)
{
    Json *root;
    TRY(json_read_file(&root, path));
    Err *err = options_json(config, table, root, path);
    json_free(root);
    return err;
}

static void add_member(Json *object, const Option *o, const void *value)
{
    const TextList *list = value;
    const char *text;
    Json *items;
    switch (o->kind) {
    case OPT_INT: json_add_number(object, o->key, (double)*(const int64_t *)value); break;
    case OPT_NUMBER: json_add_number(object, o->key, *(const double *)value); break;
    case OPT_FLAG: json_add_bool(object, o->key, *(const bool *)value); break;
    case OPT_TEXT:
        text = *(char *const *)value;
        if (text)
            json_add_string(object, o->key, text);
        else
            json_add_null(object, o->key);
        break;
    case OPT_LIST:
        items = json_new_array();
        for (size_t i = 0; i < list->count; i++) json_add_string(items, NULL, list->items[i]);
        json_add(object, o->key, items);
        break;
    case OPT_JSON:
        if (*(Json *const *)value)
            json_add(object, o->key, json_duplicate(*(Json *const *)value));
        else
            json_add_null(object, o->key);
        break;
    }
}

Err *options_to_json(const void *config, const Option *table, Json **out)
{
    *out = json_new_object();
    if (!*out) return err_new(ERR_MEMORY, "out of memory");
    for (const Option *o = table; o->key || o->help; o++)
        if (o->key && !o->refused) add_member(*out, o, value_of(config, o));
    return NULL;
}

void options_help(FILE *stream, const Option *table)
{
    static const char *const kinds[] = {"N", "X", "", "TEXT", "A,B,...", "JSON"};
    for (const Option *o = table; o->key || o->help; o++) {
        if (!o->key) {
            fprintf(stream, "\n%s\n", o->help);
            continue;
        }
        if (o->refused) continue;
        char left[96];
        snprintf(left, sizeof left, "--%s %s", o->key, kinds[o->kind]);
        fprintf(stream, "  %-40s %s", left, o->help ? o->help : "");
        if (o->choices) fprintf(stream, " (%s)", o->choices);
        if (o->preset) fprintf(stream, " [%s]", o->preset);
        fputc('\n', stream);
    }
}

void options_free(void *config, const Option *table)
{
    for (const Option *o = table; o->key || o->help; o++) {
        if (!o->key || o->refused) continue;
        void *field = field_of(config, o);
        if (o->kind == OPT_TEXT) {
            free(*(char **)field);
            *(char **)field = NULL;
        } else if (o->kind == OPT_LIST) {
            text_list_free(field);
        } else if (o->kind == OPT_JSON) {
            json_free(*(Json **)field);
            *(Json **)field = NULL;
        }
    }
}
