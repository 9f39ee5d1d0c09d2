/* A document gets the same bits alone and among others. */
#ifndef GRAFT_TESTS_SUPPORT_DOCUMENT_ALONE_H
#define GRAFT_TESTS_SUPPORT_DOCUMENT_ALONE_H

#include "base/err.h"

#include <stdbool.h>

/* Three random documents through one training step, together and one by one, with LoRA wherever it fits and trained
 * routers. *same: the last hidden states and the gradients of the first are equal bit for bit, and the gradients of the
 * parameters add up to those of all documents. */
MUST_USE Err *document_alone(const char *model_dir, bool *same);

#endif
