/* JSON that is read in place, as text. base/json.h gives numbers as doubles and strings that end at a zero byte; a
 * JsonView keeps every digit and every byte, and needs no memory.
 *
 *     JsonView record, messages;
 *     TRY(view_open(&record, line, bytes));                 // checks everything, once
 *     messages = view_find(record, "messages");             // absent: .at == NULL
 *     for (JsonViewItem m = view_first(messages); m.value.at; view_next(&m)) ...
 *
 * A JsonView borrows the text that it was opened on. All functions but view_open rely on view_open's check. */
#ifndef GRAFT_DATA_TEXT_JSON_VIEW_H
#define GRAFT_DATA_TEXT_JSON_VIEW_H

#include "base/json.h"
#include "data/text/text.h"

typedef struct {
    const char *at; /* first byte of the value; NULL: absent */
    size_t bytes;
} JsonView;

typedef struct {
    JsonView key;           /* a string; absent in arrays */
    JsonView value;         /* absent after the last item */
    const char *rest, *end; /* used by view_next */
} JsonViewItem;

/* Check the text with json_check and view its one value. Fails: as json_check. */
MUST_USE Err *view_open(JsonView *value, const char *text, size_t bytes);

JsonKind view_kind(JsonView value);
const char *view_kind_name(JsonView value);  /* "a number", "nothing", ... for messages */
bool view_is(JsonView value, JsonKind kind); /* false when absent */

/* The members of an object or the elements of an array. Any other value, and an absent one, has no items. */
JsonViewItem view_first(JsonView container);
void view_next(JsonViewItem *item);

/* The value of a member; absent when there is none. Of several members of that name the last counts, as in Python. */
JsonView view_find(JsonView object, const char *key);

/* The same for n keys in one pass, so that a large object is read once. */
void view_find_all(JsonView object, size_t n, const char *const keys[], JsonView values[]);

/* Add a string's characters to `out`, without quotes and with escapes resolved. */
void view_string(Text *out, JsonView string);
bool view_equals(JsonView string, const char *text);

/* Read the next byte between a string's quotes, or the next escape as a character in UTF-8, into c[0 .. *n).
 * Returns the position behind it. */
const char *view_character(const char *at, const char *end, char c[4], size_t *n);

#endif
