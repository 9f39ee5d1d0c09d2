/* What a run, a checkpoint or an adapter holds, for `graft inspect`. */
#ifndef GRAFT_TRAIN_INSPECT_H
#define GRAFT_TRAIN_INSPECT_H

#include "base/err.h"

#include <stdbool.h>

/* Describe a path as text, or as JSON.
 *   path    the directory of a run, a checkpoint file, or the directory of an adapter
 *   *known  false for anything else; then there is no text
 * Owner of text: the caller, until free().
 * Fails: with the text, ERR_NUMERIC when an adapter has a number that is not finite, naming the first such module. */
MUST_USE Err *inspect_path(const char *path, bool as_json, char **text, bool *known);

#endif
