/* Write a JSON value as Python does, and so as chat templates do. */
#ifndef GRAFT_DATA_CHAT_PYTHON_JSON_H
#define GRAFT_DATA_CHAT_PYTHON_JSON_H

#include "data/text/json_view.h"

/* Write it as json.dumps(value, ensure_ascii=False) does: integers digit for digit, floats by their repr.
 * Fails: ERR_DATA, when an object holds a key twice. */
MUST_USE Err *python_json(Text *out, JsonView value);

#endif
