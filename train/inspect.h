/* What a run, a checkpoint or an adapter holds, for `graft inspect`. */
#ifndef GRAFT_TRAIN_INSPECT_H
#define GRAFT_TRAIN_INSPECT_H

#include "base/err.h"

#include <stdbool.h>

/* path: a run's directory, a checkpoint file or an adapter's directory; *known is false, and no text made, for anything
 * else. Text for people, or JSON. Owner: the caller, until free(). */
MUST_USE Err *inspect_path(const char *path, bool as_json, char **text, bool *known);

#endif
