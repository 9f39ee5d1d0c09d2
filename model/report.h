/* What a model is and what its files hold, for `graft inspect`. */
#ifndef GRAFT_MODEL_REPORT_H
#define GRAFT_MODEL_REPORT_H

#include "base/err.h"

#include <stdbool.h>

/* Text for people, or JSON, about a directory or a lone config.json; weights may be absent.
 * Owner: the caller, until free(). Fails: ERR_IO, ERR_FORMAT when a file cannot be read at all, without a text;
 * ERR_FORMAT, with the text, when tensors are missing or wrong. */
MUST_USE Err *model_report(const char *path, bool as_json, char **text);

#endif
