/* JSON read in place, as the text it is. Where base/json.h gives numbers as doubles and strings that end at a zero,
 * this keeps every digit and every byte, and costs no memory.
 *
 *     JsonView record, messages;
 *     TRY(view_open(&record, line, bytes));                 // checks everything, once
 *     messages = view_find(record, "messages");             // absent: .at == NULL
 *     for (JsonViewItem m = view_first(messages); m.value.at; view_next(&m)) ...
 *
 * A JsonView points into the text it came from. All but view_open rely on view_open's check. */
#ifndef GRAFT_DATA_TEXT_JSON_VIEW_H
#define GRAFT_DATA_TEXT_JSON_VIEW_H

#include "base/json.h"
#include "data/text/text.h"

typedef struct {
    const char *at; /* first byte of the value; NULL: absent */
    size_t bytes;
} JsonView;

typedef struct {
    JsonView key;   /* a string; absent in arrays */
    JsonView value; /* absent after the last */
    const char *rest, *end;
} JsonViewItem;

/* One value and nothing else, in valid UTF-8, every \u escape part of a character, nested 200 deep at most.
 * Fails: ERR_FORMAT, with the place (line and column) and what was expected there. */
MUST_USE Err *view_open(JsonView *value, const char *text, size_t bytes);

JsonKind view_kind(JsonView value);
const char *view_kind_name(JsonView value);  /* "a number", "nothing", ... for messages */
bool view_is(JsonView value, JsonKind kind); /* false when absent */

/* Members or elements; of anything else, and of an absent value, none. */
JsonViewItem view_first(JsonView container);
void view_next(JsonViewItem *item);

/* The last member of that name, as Python keeps it. */
JsonView view_find(JsonView object, const char *key);

/* The same for n keys in one walk: a large object is then read once. */
void view_find_all(JsonView object, size_t n, const char *const keys[], JsonView values[]);

/* A string's characters, without quotes and escapes. */
void view_string(Text *out, JsonView string);
bool view_equals(JsonView string, const char *text);

/* One step through what stands between a string's quotes: a byte as it is, or the character of an escape as UTF-8, in
 * c[0 .. n); returns where the string goes on. */
const char *view_character(const char *at, const char *end, char c[4], size_t *n);

#endif
