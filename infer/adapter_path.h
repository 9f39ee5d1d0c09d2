/* Which adapter a path names: a checkpoint, a PEFT directory, or one of those in the directory of a run. */
#ifndef GRAFT_INFER_ADAPTER_PATH_H
#define GRAFT_INFER_ADAPTER_PATH_H

#include "base/file.h"

typedef struct {
    char path[PATH_BYTES]; /* a checkpoint or a PEFT directory, which need not exist */
    bool is_checkpoint;
    char says[2 * PATH_BYTES]; /* what was chosen in a run: "runs/x: step 120, adapter/"; else "" */
} AdapterPath;

/* In the directory of a run, or in its best/, the newest by step is taken: the newest checkpoint, or adapter/ when the
 * run ended with it and no checkpoint is of a later step. */
MUST_USE Err *adapter_path_find(AdapterPath *found, const char *path);

#endif
