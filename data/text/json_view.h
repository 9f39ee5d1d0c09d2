/* JSON read in place, as the text it is. Where base/json.h gives numbers as doubles and strings that end at a zero,
 * this keeps every digit and every byte, and costs no memory.
 *
 *     Raw record, messages;
 *     TRY(raw_open(&record, line, bytes));                 // checks everything, once
 *     messages = raw_find(record, "messages");             // absent: .at == NULL
 *     for (RawItem m = raw_first(messages); m.value.at; raw_next(&m)) ...
 *
 * A Raw points into the text it came from. All but raw_open rely on raw_open's check. */
#ifndef GRAFT_DATA_TEXT_JSON_VIEW_H
#define GRAFT_DATA_TEXT_JSON_VIEW_H

#include "base/json.h"
#include "data/text/text.h"

typedef struct {
    const char *at; /* first byte of the value; NULL: absent */
    size_t bytes;
} Raw;

typedef struct {
    Raw key;   /* a string; absent in arrays */
    Raw value; /* absent after the last */
    const char *rest, *end;
} RawItem;

/* One value and nothing else, in valid UTF-8, every \u escape part of a character, nested 200 deep at most.
 * Fails: ERR_FORMAT, with the place (line and column) and what was expected there. */
MUST_USE Err *raw_open(Raw *value, const char *text, size_t bytes);

JsonKind raw_kind(Raw value);
const char *raw_kind_name(Raw value);  /* "a number", "nothing", ... for messages */
bool raw_is(Raw value, JsonKind kind); /* false when absent */

/* Members or elements; of anything else, and of an absent value, none. */
RawItem raw_first(Raw container);
void raw_next(RawItem *item);

/* The last member of that name, as Python keeps it. */
Raw raw_find(Raw object, const char *key);

/* The same for n keys in one walk: a large object is then read once. */
void raw_find_all(Raw object, size_t n, const char *const keys[], Raw values[]);

/* A string's characters, without quotes and escapes. */
void raw_string(Text *out, Raw string);
bool raw_equals(Raw string, const char *text);

/* One step through what stands between a string's quotes: a byte as it is, or the character of an escape as UTF-8, in
 * c[0 .. n); returns where the string goes on. */
const char *raw_character(const char *at, const char *end, char c[4], size_t *n);

#endif
