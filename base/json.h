/* JSON with typed getters whose errors name the key, what was found and what was expected. cJSON is used through
 * this module only. A value that is borrowed from a document lives as long as the document's root. */
#ifndef GRAFT_BASE_JSON_H
#define GRAFT_BASE_JSON_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct cJSON Json;

/* Parse text of `bytes` bytes, which need not end with a zero. White space may follow the value; anything else is an
 * error that gives line and column. Nesting is limited (cJSON: 1000). Owner of *root: the caller, until json_free. */
MUST_USE Err *json_parse(Json **root, const char *text, size_t bytes);
MUST_USE Err *json_read_file(Json **root, const char *path); /* also refuses duplicate keys */
void json_free(Json *root);

/* Refuse an object, at any depth, that has a key twice: readers of JSON disagree on which of the two values counts.
 * json_read_file calls it. Fails: ERR_FORMAT, naming the key. */
MUST_USE Err *json_refuse_duplicates(const Json *value);

/* The values of a JSON Lines file as one array. Fails: also on a blank line; errors name the record. */
MUST_USE Err *json_read_lines(Json **array, const char *path);

/* Whether a line of a JSON Lines file (without its newline) is blank and so no record: it holds spaces, tabs and
 * carriage returns only. A zero byte is not white space. */
bool json_line_is_blank(const char *line, size_t bytes);

typedef enum { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonKind;
JsonKind json_kind(const Json *value);
const char *json_kind_name(const Json *value); /* "a number", "an object", ... for messages */

/* Members and elements. json_find returns NULL when the key is absent; a null value is a value. */
const Json *json_find(const Json *object, const char *key);
size_t json_count(const Json *container);
const Json *json_first(const Json *container); /* first member or element, NULL when empty */
const Json *json_next(const Json *value);      /* the next one, NULL at the end */
const char *json_key(const Json *member);      /* the name of a member */

/* The value itself; its kind has been checked by the caller. */
const char *json_string(const Json *value);
double json_number(const Json *value);
bool json_bool(const Json *value);

/* A value that is not a member of an object, such as an element; `what` names it in errors. */
MUST_USE Err *json_to_int(const Json *value, const char *what, int64_t min, int64_t max, int64_t *out);

/* Required members. An integer is a whole number in [min, max]. Fails: ERR_FORMAT, naming the key. */
MUST_USE Err *json_get_int(const Json *object, const char *key, int64_t min, int64_t max, int64_t *out);
MUST_USE Err *json_get_number(const Json *object, const char *key, double *out);
MUST_USE Err *json_get_bool(const Json *object, const char *key, bool *out);
MUST_USE Err *json_get_string(const Json *object, const char *key, const char **out); /* borrowed */
MUST_USE Err *json_get_array(const Json *object, const char *key, const Json **out);
MUST_USE Err *json_get_object(const Json *object, const char *key, const Json **out);

/* Optional members: one that is absent or null leaves *out as it is. */
MUST_USE Err *json_may_int(const Json *object, const char *key, int64_t min, int64_t max, int64_t *out);
MUST_USE Err *json_may_number(const Json *object, const char *key, double *out);
MUST_USE Err *json_may_bool(const Json *object, const char *key, bool *out);
MUST_USE Err *json_may_string(const Json *object, const char *key, const char **out);

/* Building. json_add and json_set take ownership of `child`; text is copied. They fail only when there is no memory,
 * and then without an error; json_print reports a root that could not be made. */
Json *json_new_object(void);
Json *json_new_array(void);
void json_add(Json *container, const char *key, Json *child); /* key NULL: append to an array */
void json_add_string(Json *container, const char *key, const char *text);
void json_add_number(Json *container, const char *key, double number);
void json_add_bool(Json *container, const char *key, bool value);
void json_add_null(Json *container, const char *key);
void json_set(Json *object, const char *key, Json *child); /* replaces a member, or adds it */
void json_set_number(Json *object, const char *key, double number);
Json *json_duplicate(const Json *value);
bool json_equal(const Json *a, const Json *b);

/* The text of a value; every number reads back as the same bits. pretty: indented by two spaces.
 * Owner: the caller, until free(). Fails: ERR_MEMORY. */
MUST_USE Err *json_print(const Json *value, bool pretty, char **text);

#endif
